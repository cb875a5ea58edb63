"""Another S3 server for tests: ministack, in a virtual environment of its own (its pins clash with the engine's).

`running(folder)` starts it on a loopback port that nobody has and gives what s3server.running gives. It keeps SHA-256
checksums and knows archive classes, which Ceph's gateway does not; it takes any secret, and its buckets end with it.
What is asked for in an archive wakes two seconds later, and not while the file `asleep` lies in its folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

PACKAGE = "ministack==1.5.33"  # another one may answer otherwise: a run of CI is no place to learn that
PLACE = Path(__file__).resolve().parents[2] / ".venv" / "ministack"

# The two seconds are its own, and too few for two commands where a machine is busy.
STARTED = '''
import os, sys, time
from ministack.app import main
from ministack.services import s3

known = s3._sync_restore


def sync(bucket, key, obj):
    restore = (obj or {}).get("restore")
    if restore:
        restore["available_at"] = time.time() + 3600 if os.path.exists("asleep") else restore["requested_at"] + 2.0
    return known(bucket, key, obj)


s3._sync_restore = sync
sys.exit(main())
'''


def program() -> Path:
    """The command, installed when it is not there. One at a time installs."""
    found = PLACE / "bin" / "ministack"
    PLACE.parent.mkdir(exist_ok=True)
    with open(PLACE.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(PLACE)], check=True)
            pip = [str(PLACE / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]
            subprocess.run(pip, check=True)
    return found


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict]:
    """The server while the block runs; its address and keys."""
    folder.mkdir(parents=True, exist_ok=True)
    command = str(program())
    for left in (2, 1, 0):
        process, port = _begin(command, folder)
        try:
            deadline = time.monotonic() + 120
            while process.poll() is None and not _answers(port) and time.monotonic() < deadline:
                time.sleep(0.1)
            if process.poll() is None and _answers(port):
                break
            if not left:
                raise RuntimeError("ministack does not start: " + (folder / "log").read_text()[-1000:])
        except BaseException:
            process.kill()
            raise
        process.kill()  # somebody else may have taken the port
        process.wait()
    try:
        yield {"endpoint": f"http://127.0.0.1:{port}", "access_key": "test", "secret_key": "test",
               "region": "us-east-1"}  # fmt: skip
    finally:
        process.kill()
        process.wait()


def _begin(command: str, folder: Path) -> tuple:
    """(process, port) of a server that starts on a port that nobody has a moment before."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "s3", "IOT_MTLS_ENABLED": "0",
             "SFTP_ENABLED": "0"}
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            [Path(command).with_name("python"), "-c", STARTED], cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, env={**os.environ, **given},
        )  # fmt: skip
    return process, port


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

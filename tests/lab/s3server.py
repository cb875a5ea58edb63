"""A real S3 server for tests, demo and bench: Ceph's gateway over one monitor and one disk daemon, loopback only.

    python tests/lab/s3server.py up DIR PORT [--memory]   starts it (or finds it at work), prints JSON:
                                                          endpoint, access_key, secret_key, region
    python tests/lab/s3server.py down DIR                 ends it; the data stay, but those in memory

Everything lies below DIR; it asks for keys (cephx, AWS signatures) as a server in the world does. PORT is S3,
PORT + 1 the monitor, PORT + 10 to PORT + 59 the disk daemon. --memory keeps the data in memory: it starts in 2 s
and is for small things. Missing Debian packages are installed as root, else named. Tried with Ceph 16.2.15.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Iterator

HERE = Path(__file__).resolve().parent
PACKAGES = ["radosgw", "ceph-mon", "ceph-osd", "ceph-base", "ceph-common"]
PROGRAMS = ["radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool"]
CLASSES = ["STANDARD_IA", "GLACIER"]  # names only: an object of class GLACIER can be read at once
STORE_GB = 64  # room of the store; the file is sparse

CONF = """\
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = [v2:127.0.0.1:{mon_port}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
ms_bind_port_min = {osd_first}
ms_bind_port_max = {osd_last}
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = {folder}/keyring
run_dir = {folder}/run
crash_dir = {folder}/crash
admin_socket =
log_file = {folder}/log/$name.log
log_to_stderr = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
[mon]
mon_data = {folder}/mon
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_cluster_log_file = {folder}/log/cluster.log
mon_data_avail_crit = 1
mon_data_avail_warn = 2
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
[osd]
osd_data = {folder}/osd
osd_objectstore = {store}
osd_crush_initial_weight = 1
osd_memory_target = 1073741824
bluestore_block_size = {store_bytes}
memstore_device_bytes = {store_bytes}
[client.rgw.x]
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_thread_pool_size = 64
rgw_run_sync_thread = false
rgw_enable_ops_log = false
rgw_enable_usage_log = false
rgw_gc_obj_min_wait = 60
rgw_gc_processor_period = 60
rgw_gc_processor_max_time = 60
"""
CAPS = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"],
    "client.rgw.x": ["mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"],
}


class Failed(Exception):
    """It cannot be started; one line."""


class Server:
    """The daemons below one folder."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.conf = self.folder / "ceph.conf"

    @contextlib.contextmanager
    def locked(self):
        """One at a time below this folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # -- daemons

    def pid(self, name: str):
        """The process of a daemon while it lives and is this folder's, else None."""
        try:
            pid = int((self.folder / "run" / f"{name}.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.conf) in words else None

    def start(self, name: str, *command: str) -> None:
        """Starts a daemon in a session of its own, unless it lives."""
        if self.pid(name):
            return
        with open(self.folder / "log" / f"{name}.out", "ab") as out:
            process = subprocess.Popen(
                [*command, "-f", "-c", str(self.conf)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        (self.folder / "run" / f"{name}.pid").write_text(str(process.pid))
        while self.pid(name) is None and process.poll() is None:  # its words can be read a moment after it began
            time.sleep(0.02)

    def stop(self, name: str) -> None:
        """Ends a daemon, gently first."""
        for number, seconds in ((signal.SIGTERM, 12), (signal.SIGKILL, 3)):
            deadline = time.monotonic() + seconds
            pid = self.pid(name)
            if pid:
                os.kill(pid, number)
            while self.pid(name) and time.monotonic() < deadline:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                time.sleep(0.05)
        if self.pid(name):
            raise Failed(f"{name} does not end")

    def stop_all(self) -> None:
        """The gateway first, the monitor last."""
        for name in ("rgw", "osd", "mon"):
            self.stop(name)

    def wait(self, what: str, daemon: str, seconds: float, ready) -> None:
        """Until ready() is true."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.pid(daemon) or time.monotonic() > deadline:
                log = self.folder / "log" / f"{daemon}.out"
                tail = log.read_text("utf-8", "replace").strip().splitlines()[-3:] if log.exists() else []
                raise Failed(f"{what} did not come; {daemon} said: {' / '.join(tail) or 'nothing'}")
            time.sleep(0.1)

    def run(self, *command: str, check: bool = True, name: str = "client.admin") -> str:
        """A Ceph command as name."""
        done = subprocess.run(
            [*command, "-c", str(self.conf), "-n", name],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        if check and done.returncode:
            raise Failed(f"{' '.join(command[:3])}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
        return done.stdout if not done.returncode else ""

    # -- up

    def up(self, port: int, memory: bool) -> dict:
        """The server at work; its address and keys."""
        with self.locked():
            known = self.known()
            if known and known["endpoint"] != f"http://127.0.0.1:{port}":
                raise Failed(f"{self.folder} was made for {known['endpoint']}")
            alive = all(self.pid(name) for name in ("mon", "osd", "rgw"))
            if known and alive and answers(port):
                return known
            new = known is None or (self.store() == "memstore" and not (self.pid("mon") and self.pid("osd")))
            if new:
                self.stop_all()
                for taken in (port, port + 1):
                    if listening(taken):
                        raise Failed(f"port {taken} is taken")
                self.make(port, memory)
            self.start("mon", "ceph-mon", "-i", "a")
            quorum = ("ceph", "--connect-timeout", "5", "mon", "stat")
            self.wait("the monitor", "mon", 60, lambda: "quorum" in self.run(*quorum, check=False))
            if new:
                self.make_disk()
            self.start("osd", "ceph-osd", "-i", "0")
            state = ("ceph", "--connect-timeout", "5", "osd", "stat")
            self.wait("the disk", "osd", 90, lambda: "1 up" in self.run(*state, check=False))
            answer = known or {
                "endpoint": f"http://127.0.0.1:{port}", "access_key": secrets.token_hex(10).upper(),
                "secret_key": secrets.token_hex(20), "region": "us-east-1",
            }  # fmt: skip
            if new:
                self.make_user(answer)
            self.start("rgw", "radosgw", "-n", "client.rgw.x")
            self.wait("an answer of the gateway", "rgw", 120, lambda: answers(port))
            if not known:
                self.write("s3.json", json.dumps(answer))
            return answer

    def known(self):
        """What up() answered the first time, None when it never came to its end."""
        try:
            return json.loads((self.folder / "s3.json").read_text())
        except FileNotFoundError:
            return None

    def store(self) -> str:
        """bluestore or memstore."""
        return "memstore" if "osd_objectstore = memstore" in self.conf.read_text() else "bluestore"

    def make(self, port: int, memory: bool) -> None:
        """An empty cluster's configuration, keys and monitor; anything half made goes."""
        store = self.store() if self.known() else "memstore" if memory else "bluestore"
        for name in ("mon", "osd", "rgw", "crash", "run", "log"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(mode=0o700)
        fsid = str(uuid.uuid4())
        self.write("ceph.conf", CONF.format(
            fsid=fsid, folder=self.folder, port=port, mon_port=port + 1, osd_first=port + 10, osd_last=port + 59,
            store=store, store_bytes=STORE_GB << 30,
        ))  # fmt: skip
        keyring = str(self.folder / "keyring")
        Path(keyring).unlink(missing_ok=True)
        for number, (name, caps) in enumerate(CAPS.items()):
            pairs = [word for at in range(0, len(caps), 2) for word in ("--cap", caps[at], caps[at + 1])]
            new = ["-C"] if number == 0 else []
            local("ceph-authtool", *new, keyring, "-g", "-n", name, *pairs)
        address = f"[v2:127.0.0.1:{port + 1}]"
        local("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", address, f"{self.folder}/monmap")
        local("ceph-mon", "-c", str(self.conf), "-i", "a", "--mkfs", "--monmap", f"{self.folder}/monmap",
              "--keyring", keyring)  # fmt: skip

    def make_disk(self) -> None:
        """The one disk, known to the monitor."""
        disk = str(uuid.uuid4())
        key = local("ceph-authtool", f"{self.folder}/keyring", "-n", "osd.0", "-p").strip()
        secret = self.write("run/osd.json", json.dumps({"cephx_secret": key}))
        self.run("ceph", "osd", "new", disk, "0", "-i", str(secret))
        secret.unlink()
        local("ceph-osd", "-c", str(self.conf), "-i", "0", "--mkfs", "--osd-uuid", disk)

    def make_user(self, answer: dict) -> None:
        """The one user, and the storage classes."""
        admin = ("radosgw-admin",)
        keys = (f"--access-key={answer['access_key']}", f"--secret={answer['secret_key']}")
        self.run(*admin, "user", "create", "--uid=test", "--display-name=test", *keys, name="client.rgw.x")
        for name in CLASSES:
            where = ("--placement-id=default-placement", f"--storage-class={name}")
            self.run(*admin, "zonegroup", "placement", "add", "--rgw-zonegroup=default", *where, name="client.rgw.x")
            self.run(*admin, "zone", "placement", "add", "--rgw-zone=default", *where,
                     "--data-pool=default.rgw.buckets.data", name="client.rgw.x")  # fmt: skip

    def write(self, name: str, content: str) -> Path:
        """A file of ours, 0600, at once or not at all."""
        path = self.folder / name
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(content)
        temporary.chmod(0o600)
        return temporary.replace(path)

    def down(self) -> None:
        """Ends the daemons."""
        if self.folder.is_dir():
            with self.locked():
                self.stop_all()


def local(*command: str) -> str:
    """A command that needs no cluster."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise Failed(f"{command[0]}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout


def listening(port: int) -> bool:
    """Whether somebody has the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(port: int) -> bool:
    """Whether S3 answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def missing() -> list:
    """Programs that are not there."""
    return [name for name in PROGRAMS if not shutil.which(name)]


def up(folder: Path, port: int, memory: bool = False) -> dict:
    """Starts the server (or finds it at work), installing packages as root; its address and keys. Raises Failed."""
    if not 1024 <= port <= 65000:
        raise Failed(f"port {port}: 1024 to 65000")
    if missing():
        done = subprocess.run([str(HERE / "packages.sh"), *PACKAGES], stdout=sys.stderr)
        if done.returncode or missing():
            raise Failed(
                f"missing: {' '.join(missing())}; apt-get install --no-install-recommends {' '.join(PACKAGES)}"
            )
    return Server(folder).up(port, memory)


def down(folder: Path) -> None:
    """Ends the server of folder."""
    Server(folder).down()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict]:
    """A server in memory below folder while the block runs, on ports that nobody has: several may run side by side."""
    # hundreds below the ports that the kernel gives to connections; no two processes of a parallel run try the same
    first = 110 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 5
    for attempt in range(5):
        place = folder / str(attempt)
        try:
            answer = up(place, 100 * secrets.choice(range(first, 320, 5)), memory=True)
        except Failed as error:
            down(place)
            if "taken" not in str(error) or attempt == 4:
                raise
            continue
        try:
            yield answer
        finally:
            down(place)
        return


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="a real S3 server on the loopback address")
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("up")
    start.add_argument("folder", type=Path)
    start.add_argument("port", type=int)
    start.add_argument("--memory", action="store_true")
    verbs.add_parser("down").add_argument("folder", type=Path)
    args = parser.parse_args()
    try:
        if args.verb == "down":
            down(args.folder)
        else:
            print(json.dumps(up(args.folder, args.port, args.memory)))
    except Failed as error:
        print(f"s3server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

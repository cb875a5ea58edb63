"""A real OpenSSH server with SFTP only, chrooted, as a storage box or NAS offers it; and a line that can be cut.

`running(folder)` starts sshd in a mount namespace of its own: the user with key and password, the chroot and
its disk are there only. Root is needed. Knows nothing of Stowage.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

USER, PASSWORD = "box", "correct horse battery"
START = r"""
set -eu
d=$1
mount --make-rprivate /
cp /etc/passwd /etc/group "$d/etc/"
cp /etc/shadow "$d/etc/"
echo "box:x:64321:64321::/:/usr/sbin/nologin" >> "$d/etc/passwd"
echo "box:x:64321:" >> "$d/etc/group"
echo "box:$2:19000:0:99999:7:::" >> "$d/etc/shadow"
for f in passwd group shadow; do mount --bind "$d/etc/$f" "/etc/$f"; done
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir -p /srv/box/home /run/sshd
(umask 022; cp "$d/id.pub" /srv/authorized)
if [ -n "$4" ]; then mount -t tmpfs -o "$4" tmpfs /srv/box/home; fi
chown 64321:64321 /srv/box/home
chmod 700 /srv/box/home
exec /usr/sbin/sshd -D -e -f "$3"
"""
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile /srv/authorized
PasswordAuthentication yes
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
LogLevel ERROR
Subsystem sftp internal-sftp
ForceCommand internal-sftp
ChrootDirectory /srv/box
AllowTcpForwarding no
{more}
"""


class Box:
    """A running server. restart() ends all connections; disk is what the user's folder looks like from outside."""

    def __init__(self, folder: Path, mount: str = "", more: str = ""):
        self.folder, self.mount = folder, mount
        (folder / "etc").mkdir(parents=True)
        for name in ("host_key", "id"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
            subprocess.run(command, check=True)
        self.port = free_port()
        (folder / "sshd_config").write_text(CONFIG.format(port=self.port, folder=folder, more=more))
        self.known_hosts = folder / "known_hosts"
        self.pin(self.port)
        self.process = None

    @property
    def key(self) -> Path:
        return self.folder / "id"

    @property
    def disk(self) -> Path:
        return Path(f"/proc/{self.process.pid}/root/srv/box/home")

    def pin(self, port: int) -> None:
        """The host key as the key of that port of loopback, too."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        with open(self.known_hosts, "a", encoding="utf-8") as file:
            file.write(f"[127.0.0.1]:{port} {kind} {key}\n")

    def start(self) -> None:
        crypted = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD.encode(), check=True, capture_output=True
        ).stdout.decode().strip()  # fmt: skip
        script = ["sh", "-c", START, "sh", str(self.folder), crypted, str(self.folder / "sshd_config"), self.mount]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", *script], stdin=subprocess.DEVNULL, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as line:
                if line.recv(4) == b"SSH-":
                    return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("sshd does not start: " + (self.folder / "log").read_text())
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends the server and all its connections (each is a process of the group, or below it)."""
        children = self.connections()
        for pid in [self.process.pid, *children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def connections(self) -> list:
        """The processes that serve connections."""
        return _below(self.process.pid)

    def cut(self) -> int:
        """Kills the processes of all connections, not the server; how many."""
        pids = self.connections()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)


def _below(pid: int) -> list:
    found = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += [int(child), *_below(int(child))]
    return found


@contextlib.contextmanager
def running(folder: Path, mount: str = "", more: str = ""):
    """A Box that serves. mount: options of a tmpfs that is the user's disk, such as size=1m."""
    box = Box(folder, mount, more)
    box.start()
    try:
        yield box
    finally:
        box.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Line:
    """A port of loopback that leads to another and counts; cut_after: bytes to the server after which it is cut."""

    def __init__(self, to: int):
        self.to = to
        self.cuts: list = []  # one number for each connection to come; None: it holds
        self.sent: list = []  # bytes to the server, of each connection
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._ended = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended = True
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _address = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                return
            index, limit = len(self.sent), self.cuts.pop(0) if self.cuts else None
            self.sent.append(0)
            threading.Thread(target=self._pump, args=(server, client, None, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(client, server, index, limit), daemon=True).start()

    def _pump(self, source, sink, index, limit) -> None:
        try:
            while data := source.recv(1 << 16):
                if index is not None:
                    self.sent[index] += len(data)
                    if limit is not None and self.sent[index] > limit:
                        break
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

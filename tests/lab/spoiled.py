"""Clients of a fleet that are down or hostile: what may answer in the place of sshd, and who is turned. For tests only.

LISTENERS have the codes of errors beside them as the agents of hostile.py have; CODES is of all kinds together.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

from hostile import AGENTS, UNREACHABLE


class Listener:
    """A thread that takes connections at an address and does act(connection) with each."""

    def __init__(self, address: str, port: int, act: Callable[[socket.socket], None]):
        self._socket = socket.create_server((address, port))
        self._act = act
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            connection, _from = self._socket.accept()
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        try:
            self._act(connection)
        except OSError:
            pass
        finally:
            connection.close()


class BlackHole:
    """A port that answers nothing at all, not even that it is closed: its queue of connections is full."""

    def __init__(self, address: str, port: int):
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address, port))
        self._socket.listen(0)
        self._filling = []
        for _ in range(3):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex((address, port))
            self._filling.append(one)


def _endless(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 70 + b"\r\n")


def _noise(connection: socket.socket) -> None:
    while True:
        connection.sendall(os.urandom(4096))


LISTENERS: Dict[str, Tuple[Callable[[socket.socket], None], Set[str]]] = {
    "port-of-noise": (_noise, UNREACHABLE),
    "port-without-end": (_endless, UNREACHABLE),
    "port-of-silence": (lambda connection: time.sleep(3600), UNREACHABLE),
}
OTHERS = {"other-host-key": {"host-key-changed"}, "login-banner": {""}}
CODES: Dict[str, Set[str]] = {
    **{name: codes for name, (_act, codes) in (*AGENTS.items(), *LISTENERS.items())}, **OTHERS,
}  # fmt: skip
# One after the other, where nobody names them: those that issue names first.
KINDS = ["garbage", "frames-for-ever", "silence", "banner", "other-host-key", "port-of-noise", "port-without-end",
         "port-of-silence", "login-banner"]  # fmt: skip
KINDS += [name for name in AGENTS if name not in KINDS]


def spoil(fleet: Any, down: List[Any], bad: List[Any], kinds: List[str]) -> Tuple[List[str], Dict[str, str]]:
    """Takes some hosts of a fleet down, half of them without an answer, and turns some hostile: (names of those that
    are down, name -> kind)."""
    from fleet import PORT

    for number, host in enumerate(down):
        fleet.stop(host)
        if number % 2:
            fleet.listeners.append(BlackHole(host.address, PORT))
    wanted, agent = kinds or KINDS, Path(__file__).with_name("hostile.py").resolve()
    turned = {}
    if any(kind.startswith("sealed-") for kind in wanted[: len(bad)]):
        fleet.stowage("key", "generate", "--no-passphrase")
    for number, host in enumerate(bad):
        kind = turned[host.name] = wanted[number % len(wanted)]
        if kind in LISTENERS:
            fleet.stop(host)
            fleet.listeners.append(Listener(host.address, PORT, LISTENERS[kind][0]))
        elif kind == "other-host-key":
            fleet.stop(host)
            host.key()
            _restart(fleet, host)
        elif kind == "login-banner":
            fleet.stop(host)
            (host.folder / "banner").write_bytes(b"\x1b[2J\x1b]0;owned\x07 Private property\r\n" * 2000)
            config = host.folder / "config"
            config.write_text(config.read_text() + f"Banner {host.folder}/banner\n")
            _restart(fleet, host)
        else:
            host.force(f"{sys.executable} -I {agent} {kind}")
            if kind.startswith("sealed-"):
                host.register("sealed")
    return [host.name for host in down], turned


def _restart(fleet: Any, host: Any) -> None:
    from fleet import SSHD

    subprocess.run([SSHD, "-f", str(host.folder / "config"), "-E", str(host.folder / "log")], check=True)
    fleet.wait(host)

"""A thin line in front of a server: bytes pass at a rate, and the line is cut after so many of them.

Here lives Line for tests: it takes connections at an address of its own and passes them on to another, both ways
counted; what comes back from the other side (what a dump sends) may be slow, and is what cuts are counted in.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import List, Optional, Tuple

PIECE = 16 << 10


class Line:
    """rate: bytes a second of each connection, None: as fast as it goes. cuts: bytes from the other side after which
    the first, second, ... connection is cut; those behind them are not."""

    def __init__(self, address: Tuple[str, int], to: Tuple[str, int], cuts: List[int], rate: Optional[float] = None):
        self._to, self._cuts, self._rate = to, list(cuts), rate
        self.passed: List[int] = []  # bytes from the other side, of each connection
        self.sent: List[int] = []  # and to it
        self._lock = threading.Lock()
        self._open: List[socket.socket] = []
        self._threads: List[threading.Thread] = []
        self._listener = socket.create_server(address, backlog=16)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _peer = self._listener.accept()
            except OSError:
                return
            far = socket.socket()
            for end in (near, far):  # a line holds little
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
            far.connect(self._to)
            with self._lock:
                number = len(self.passed)
                self.passed.append(0)
                self.sent.append(0)
                self._open += [near, far]
            cut = self._cuts[number] if number < len(self._cuts) else None
            for way in ((far, near, self.passed, cut, self._rate), (near, far, self.sent, None, None)):
                thread = threading.Thread(target=self._pass, args=(number, *way), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass(
        self, number: int, source: socket.socket, sink: socket.socket, count: List[int], cut: Optional[int],
        rate: Optional[float],
    ) -> None:  # fmt: skip
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while cut is None or count[number] < cut:
                data = source.recv(PIECE if cut is None else min(PIECE, cut - count[number]))
                if not data:
                    break
                sink.sendall(data)
                count[number] += len(data)
                if rate is not None:
                    time.sleep(max(0.0, begun + count[number] / rate - time.monotonic()))
        for end in (source, sink):  # what passed arrives: what a cut loses must not depend on who reads how fast
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends all."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(5)
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for end in self._open:
            end.close()

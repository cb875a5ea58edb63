"""The agent's end of the line: messages from several threads, a heartbeat, and the end when the line ends.

Here live the locked channel and LineLost; what is said lives in serve, dump and extract.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, BinaryIO, Dict, Optional

from ..wire import NOTE, PROGRESS, Channel

NOTES = 1000  # of a dump that are sent; the others are counted
STUCK = 10.0  # seconds after which whoever has not noticed that the line is lost hangs in a file system, and is ended
BEAT = 5.0  # seconds of silence after which PROGRESS is sent; the protocol promises 10


class LineLost(Exception):
    """The server is not there any more, or somebody ends us: end, after the scripts that must run after a dump. Its
    argument is the signal, when it was one."""


class AgentChannel(Channel):
    """A channel that many threads may send on. progress: what the heartbeat tells, updated by whoever works.

    When the line ends while nobody sends, the heartbeat finds out, ends this process's group (the scripts
    that run) and so makes the main thread raise LineLost (see catch_end).
    """

    def __init__(self, reader: BinaryIO, writer: BinaryIO, peer: str = "the server"):
        super().__init__(reader, writer, peer)
        self.progress: Dict[str, int] = {"entries": 0, "bytes": 0}
        self.lost = False
        self.notes = 0
        self.noticed = threading.Event()  # by whoever works, that the line is lost
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._stop = threading.Event()
        self._beat: Optional[threading.Thread] = None

    def send(self, kind: bytes, *payloads: Any) -> None:
        with self._lock:
            try:
                super().send(kind, *payloads)
                self.writer.flush()
            except (OSError, ValueError):  # ValueError: closed under our hands
                self.lost = True
                raise LineLost from None
            self._last = time.monotonic()

    def flush(self) -> None:
        """Nothing to do: every message is flushed."""

    def send_json(self, kind: bytes, value: Dict[str, Any]) -> None:
        import json

        self.send(kind, json.dumps(value, separators=(",", ":")).encode("ascii"))

    def send_note(self, payload: bytes) -> None:
        """A NOTE of a dump, the first NOTES of them."""
        self.notes += 1
        if self.notes <= NOTES:
            self.send(NOTE, payload)

    def send_rest_of_notes(self) -> None:
        """How many notes were not sent, if any."""
        if self.notes > NOTES:
            more = self.notes - NOTES
            self.send_json(NOTE, {"level": "warning", "path": "", "message": "%d more notes are not shown" % more})

    def start_heartbeat(self) -> None:
        """From now on PROGRESS is sent whenever nothing else is."""
        self._stop.clear()
        self._beat = threading.Thread(target=self._beats, daemon=True)
        self._beat.start()

    def stop_heartbeat(self) -> None:
        """No more PROGRESS; call before the last message."""
        self._stop.set()
        if self._beat is not None and self._beat.is_alive():
            self._beat.join()

    def _beats(self) -> None:
        while not self._stop.wait(BEAT / 5):
            if time.monotonic() - self._last >= BEAT:
                try:
                    self.send_json(PROGRESS, dict(self.progress))
                except LineLost:
                    if not self.noticed.is_set():  # else it would end the scripts that must run after
                        end_group()
                    if not self.noticed.wait(STUCK):
                        os._exit(1)
                    return


def end_group() -> None:
    """SIGTERM to all of this process's group: the scripts it runs, and itself."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


_END = (signal.SIGTERM, signal.SIGHUP)


class catch_end:  # noqa: N801 - used as a with statement reads
    """While inside, SIGTERM and SIGHUP raise LineLost in the main thread; after it they do nothing."""

    def __enter__(self) -> None:
        for number in _END:
            signal.signal(number, _raise)

    def __exit__(self, *_: object) -> None:
        ignore_end()


def ignore_end() -> None:
    """SIGTERM and SIGHUP do nothing here any more; in programs started from here they do what they always do."""
    for number in _END:
        signal.signal(number, _nothing)


def _raise(number: int, _frame: object) -> None:
    raise LineLost(number)


def _nothing(*_: object) -> None:
    pass

"""What the run at work is doing: <state>/status.json, written about once a second, with a heartbeat.

Here live writing and reading that file. It is for people who look; nothing decides by it.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Callable, Dict, Optional, Tuple

from .. import clock, files
from ..catalog import places
from ..catalog.records import is_alive
from ..settings import Settings

INTERVAL = 1.0
STALE_NS = 30 * clock.NS


class Status:
    """Collects progress events of many threads and keeps the file. Use as a context manager."""

    def __init__(self, settings: Settings, run: str, progress: Optional[Callable[[dict], None]] = None):
        self._path = places.status_file(settings.state)
        self._head = {"schema": 1, "pid": os.getpid(), "run": run, "begun_ns": clock.now_ns()}
        self._progress = progress
        self._dumps: Dict[Tuple[str, str], Dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._calling = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="status", daemon=True)

    def event(self, event: Dict[str, Any]) -> None:
        """Takes one event and passes it on to the caller of the run."""
        with self._lock:
            self._dumps[event["client"], event["source"]] = event
        if self._progress is not None:
            with self._calling:
                self._tell(event)

    def _tell(self, event: Dict[str, Any]) -> None:
        try:
            if self._progress is not None:
                self._progress(event)
        except Exception:  # who watched has gone (a closed pipe); the night goes on
            self._progress = None

    def __enter__(self) -> Status:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._write()

    def _write(self) -> None:
        with self._lock:
            value = {**self._head, "heartbeat_ns": clock.now_ns(), "dumps": list(self._dumps.values())}
        # at once or not at all, but not synced: after a crash nobody is at work
        temporary = f"{self._path}.tmp"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                files.write_all(fd, json.dumps(value).encode())
            finally:
                os.close(fd)
            os.replace(temporary, self._path)
        except OSError:
            return  # a full state disk must not end the dumps; the catalog will say what is wrong


def read(settings: Settings) -> Optional[Dict[str, Any]]:
    """What the run at work does, None when there is none. alive: False when the file was left by a killed run."""
    try:
        value = json.loads(places.status_file(settings.state).read_bytes())
        age = clock.now_ns() - int(value["heartbeat_ns"])
        value["alive"] = age < STALE_NS and is_alive(int(value["pid"]))
        return value
    except (OSError, ValueError, KeyError, TypeError):
        return None

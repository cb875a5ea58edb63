"""Progress: bars on a terminal, plain lines elsewhere, nothing beside JSON; all on standard error.

Here lives how progress events look. An event is a dict: client, source, phase, bytes, total (or None), and target
for a copy. It may come from any thread, one at a time.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Dict, List, Optional

from .. import clock, text
from . import _output, _prompt

HEARTBEAT = 60.0
_ENDS = ("done", "failed", "verified", "skipped")
_QUIET = ("waiting", "connecting")


def progress(as_json: bool) -> Any:
    """A context manager that gives the callable for events, None when nobody looks."""
    if as_json:
        return _Silent()
    return _Bars() if sys.stderr.isatty() else _Lines()


def _name(event: Dict[str, Any]) -> str:
    name = ":".join(str(event[key]) for key in ("client", "source") if event.get(key))
    if event.get("target"):
        name += f" -> {event['target']}"
    return text.escape(name or str(event.get("dump", "")))


def begins(event: Dict[str, Any]) -> str:
    """The time of day at which what waits for its time begins."""
    return clock.local(int(event["not_before_ns"]))[-5:]


class _Silent:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_exc: object) -> None:
        pass


class _Lines:
    """A line when something begins and ends, and one a minute in between."""

    def __init__(self) -> None:
        self.told: Dict[str, float] = {}

    def __enter__(self) -> Any:
        return self.event

    def __exit__(self, *_exc: object) -> None:
        pass

    def event(self, event: Dict[str, Any]) -> None:
        """Takes one event."""
        name, phase = _name(event), str(event.get("phase", ""))
        now = time.monotonic()
        ended = phase in _ENDS
        if event.get("not_before_ns"):
            _output.say(f"{name} begins at {begins(event)}, as its earliest says; a run that names it begins at once")
            return
        if phase in _QUIET or not ended and now - self.told.get(name, -HEARTBEAT) < HEARTBEAT:
            return
        level = event.get("level")
        what = f"level {level}, " if isinstance(level, int) else ""
        _output.say(f"{name}: {text.escape(phase)}, {what}{text.size(int(event.get('bytes') or 0))}")
        self.told[name] = now


class _Bars:
    """A bar for each source or copy that is at work; what ended is a line above them."""

    def __init__(self) -> None:
        self.bars: Any = None
        self.tasks: Dict[str, Any] = {}
        self.paused = False
        self.held: List[str] = []  # lines that came during a question
        self.lock = threading.RLock()

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.bars = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True, markup=False, highlight=False),
            transient=True,
            refresh_per_second=4,
        )
        self.bars.start()
        _prompt.beside(self)
        return self.event

    def __exit__(self, *_exc: object) -> None:
        _prompt.beside(None)
        self.bars.stop()

    def pause(self) -> None:
        """Paints nothing until go_on(): bars would wipe out a question that stands on the terminal."""
        with self.lock:
            self.paused = True
            self.bars.stop()

    def go_on(self) -> None:
        """Paints again, unless the command is at its end."""
        with self.lock:
            self.paused = False
            if not _prompt.is_stopping():
                self.bars.start()
            for line in self.held:
                self.bars.console.print(line, soft_wrap=True)
            self.held.clear()

    def event(self, event: Dict[str, Any]) -> None:
        """Takes one event."""
        name, phase = _name(event), str(event.get("phase", ""))
        count, total = int(event.get("bytes") or 0), event.get("total")
        if phase in _ENDS:
            task = self.tasks.pop(name, None)
            if task is not None:
                self.bars.remove_task(task)
            line = f"{name}: {text.escape(phase)}, {text.size(count)}"
            with self.lock:
                if self.paused:
                    self.held.append(line)
                else:
                    self.bars.console.print(line, soft_wrap=True)
            return
        told = text.escape(phase) + (f" {text.size(count)}" if count else "")
        if event.get("not_before_ns"):
            told = f"begins at {begins(event)}"
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task("", total=total, name=name, told=told)
        self.bars.update(self.tasks[name], completed=count, total=_known(total, count), told=told)


def _known(total: Optional[int], count: int) -> Optional[int]:
    # an estimate that turned out too small must not show a full bar
    return None if not total else max(int(total), count + 1)

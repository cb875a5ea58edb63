"""Progress: bars on a terminal, plain lines elsewhere, nothing beside JSON; all on standard error.

Here lives how progress events look. An event is a dict: client, source, phase, bytes, total (or None), and target
for a copy; of what is neither, a name. The plan of a run is told as phase planned, with count and bytes of its dumps.
An event may come from any thread, one at a time.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Dict, List, Optional, Tuple

from .. import clock, text
from ..dump.rates import Rate
from . import _output, _prompt

HEARTBEAT = 60.0
FEW = 20  # dumps of a run: of more only those at work and those that failed are shown, and a line for all
_ENDS = ("done", "failed", "verified", "skipped")
_QUIET = ("waiting", "connecting")
_ASIDE = ("over", "planned")  # of no dump and no copy


def progress(as_json: bool) -> Any:
    """A context manager that gives the callable for events, None when nobody looks."""
    if as_json:
        return _Silent()
    return _Bars() if sys.stderr.isatty() else _Lines()


def _name(event: Dict[str, Any]) -> str:
    if event.get("name"):
        return str(event["name"])
    name = ":".join(str(event[key]) for key in ("client", "source") if event.get(key))
    if event.get("target"):
        name += (" -> " if name else "target ") + str(event["target"])
    return text.escape(name or str(event.get("dump", "")))


def begins(event: Dict[str, Any]) -> str:
    """The time of day at which what waits for its time begins."""
    return clock.local(int(event["not_before_ns"]))[-5:]


def _why(event: Dict[str, Any]) -> str:
    """What it waits for, and when it is tried again; '' when it does not."""
    why = str(event.get("why") or "")
    return f"{why}, again at {begins(event)}" if why and event.get("not_before_ns") else why


def _estimated(event: Dict[str, Any]) -> str:
    """How many clients have said how large their dumps would be."""
    return f"estimated: {event['done']} of {event['total']} clients"


class _Silent:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_exc: object) -> None:
        pass


class _Lines:
    """A line when something begins and ends, and one a minute in between."""

    def __init__(self) -> None:
        self.told: Dict[str, float] = {}
        self.whys: Dict[str, str] = {}

    def __enter__(self) -> Any:
        return self.event

    def __exit__(self, *_exc: object) -> None:
        pass

    def event(self, event: Dict[str, Any]) -> None:
        """Takes one event."""
        name, phase = _name(event), str(event.get("phase", ""))
        now = time.monotonic()
        if phase == "estimated":
            if event["done"] >= event["total"] or now - self.told.setdefault(phase, now) >= HEARTBEAT:
                _output.say(_estimated(event))
                self.told[phase] = now
            return
        if phase in _ASIDE:
            return
        ended = phase in _ENDS
        if event.get("not_before_ns") and not event.get("why"):
            _output.say(f"{name} begins at {begins(event)}, as its earliest says; a run that names it begins at once")
            return
        why = _why(event)
        if why and self.whys.get(name) != why:
            _output.say(f"{name}: {text.escape(why)}")
        self.whys[name] = why
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
        self.all: Optional[_All] = None  # of a run with many dumps

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
        if phase == "estimated":
            if phase not in self.tasks:
                self.tasks[phase] = self.bars.add_task("", total=total, name="estimates", told="")
            told = f"{event['done']} of {total} clients"
            self.bars.update(self.tasks[phase], completed=event["done"], told=told)
            return
        if "estimated" in self.tasks:  # whoever has not answered is waited for no longer
            self.bars.remove_task(self.tasks.pop("estimated"))
        if phase == "planned":
            if event["count"] > FEW:
                self.all = _All(event["count"], event.get("bytes"))
                self.tasks[""] = self.bars.add_task("", total=event["count"], name="all dumps", told="")
            return
        many = self.all is not None and not event.get("name")
        if self.all is not None and many and not event.get("target"):
            done, words = self.all.event(name, phase, count, time.monotonic())
            self.bars.update(self.tasks[""], completed=done, told=words)
        if phase in _ENDS or phase == "over" or many and phase == "waiting":
            task = self.tasks.pop(name, None)
            if task is not None:
                self.bars.remove_task(task)
            if phase in ("over", "waiting") or many and phase != "failed":
                return
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
        if event.get("why"):
            told = text.escape(_why(event))
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task("", total=total, name=name, told=told)
        self.bars.update(self.tasks[name], completed=count, total=_known(total, count), told=told)


class _All:
    """All dumps of a run in one line."""

    def __init__(self, planned: int, expected: Optional[int]) -> None:
        self.planned, self.expected = planned, expected
        self.counts: Dict[str, int] = {}  # bytes of each dump
        self.phases: Dict[str, str] = {}
        self.rate = Rate()

    def event(self, name: str, phase: str, count: int, now: float) -> Tuple[int, str]:
        """(how many are through, what is known of all of them) after an event of one."""
        self.counts[name] = max(count, self.counts.get(name, 0)) if phase in _ENDS else count
        self.phases[name] = phase
        phases = list(self.phases.values())
        failed = phases.count("failed")
        done = phases.count("done") + failed
        sent = sum(self.counts.values())
        self.rate.feed(sent, now)
        words = f"{done} of {self.planned}" + (f", {failed} failed" if failed else "") + f"; {text.size(sent)}"
        words += f" of about {text.size(self.expected)}" if self.expected else ""
        rate = self.rate.value
        return done, words + (f"; {text.size(rate)}/s" if rate is not None else "")


def _known(total: Optional[int], count: int) -> Optional[int]:
    # an estimate that turned out too small must not show a full bar
    return None if not total else max(int(total), count + 1)

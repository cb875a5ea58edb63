"""What the run at work is doing: <state>/status.json, written about once a second, with a heartbeat.

Here live collecting, writing and reading it; how fast and how long is rates.py. It is for people who look; nothing
decides by it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .. import clock, files
from ..catalog import places
from ..catalog.records import is_alive
from ..settings import DUMPS_PER_CLIENT, Settings
from .rates import ENOUGH, AtWork, Coming, Rate, Todo, ends, left, over_lines, with_copies

INTERVAL = 1.0
SHOWN = 10.0  # seconds for which a copy that is over is still shown: who looks now and then is to see its end
COPY_ENDS = ("verified", "failed", "skipped")
DUMP_ENDS = ("done", "failed")
QUEUED = 50  # copies that wait are named, of more only the number
STALE_NS = 30 * clock.NS

Key = Tuple[str, ...]


class _Line:
    """What is known of a dump or copy beside its last event. since: when it began to work. held: it waited for room."""

    def __init__(self) -> None:
        self.rate = Rate()
        self.since: Optional[float] = None
        self.since_ns = 0
        self.tries = 0
        self.held = False

    def event(self, event: Dict[str, Any], now: float) -> None:
        phase = event["phase"]
        if phase == "waiting" and (event.get("not_before_ns") or not event.get("bytes")):
            self.since, self.held = None, bool(event.get("held"))
        elif phase != "waiting" and self.since is None and phase not in DUMP_ENDS:
            self.since, self.since_ns = now, clock.now_ns()
            self.tries += not (self.held and self.tries)  # what waited for room goes on with the same try
            self.held = False


class Status:
    """Collects progress events of many threads and keeps the file. Use as a context manager.

    queue: gives the copies that wait, as in `copies` of the file. now: a clock for durations.
    """

    def __init__(self, settings: Settings, run: str, progress: Optional[Callable[[dict], None]] = None,
                 now: Callable[[], float] = time.monotonic):  # fmt: skip
        self._path = places.status_file(settings.state)
        self._head = {"schema": 1, "pid": os.getpid(), "run": run, "begun_ns": clock.now_ns()}
        self._progress, self._now, self._settings = progress, now, settings
        self._dumps: Dict[Key, Dict[str, Any]] = {}
        self._lines: Dict[Key, _Line] = {}
        self._todo: Dict[Key, Todo] = {}
        self._at_once = 1
        self.queue: Callable[[], Sequence[Dict[str, Any]]] = tuple
        self._sent = {"dump": 0, "copy": 0}  # bytes of what is over
        self._rates = {"dump": Rate(), "copy": Rate()}
        self._copied = 0
        self._copying = 0.0  # seconds in which copies were at work, up to looked
        self._looked: Optional[float] = None
        self._ended: Dict[Key, float] = {}  # copies that are over, and since when
        self._lock = threading.Lock()
        self._calling = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="status", daemon=True)

    def expect(self, todo: Sequence[Todo], at_once: int) -> None:
        """The dumps that are to come, in their order, and how many at once."""
        with self._lock:
            self._at_once = at_once
            for one in todo:
                key = (one.client, one.source)
                self._todo[key] = one
                self._dumps.setdefault(key, {"client": one.client, "source": one.source, "phase": "waiting",
                                             "level": one.level, "bytes": 0, "total": one.bytes})  # fmt: skip
        known = [one.bytes for one in todo if one.bytes is not None]
        expected = sum(known) if len(known) == len(todo) else None
        if self._progress is not None:
            with self._calling:
                self._tell({"phase": "planned", "count": len(todo), "bytes": expected})

    def event(self, event: Dict[str, Any]) -> None:
        """Takes one event and passes it on to the caller of the run."""
        with self._lock:
            if event.get("target"):
                self._copy(event)
            else:
                self._dump(event)
        if self._progress is not None:
            with self._calling:
                self._tell(event)

    def _dump(self, event: Dict[str, Any]) -> None:
        key = (event["client"], event["source"])
        self._lines.setdefault(key, _Line()).event(event, self._now())
        before = self._dumps.get(key)
        if event["phase"] in DUMP_ENDS and (before is None or before["phase"] not in DUMP_ENDS):
            self._sent["dump"] += int(event.get("bytes") or (before or {}).get("bytes") or 0)
        self._dumps[key] = event

    def _copy(self, event: Dict[str, Any]) -> None:
        """Copies stand beside the dumps while they are at work; of those that are made only the number is kept."""
        key = (event["client"], event["source"], event["target"], event["dump"])
        self._lines.setdefault(key, _Line()).event(event, self._now())
        before = self._dumps.get(key)
        self._dumps[key] = event
        if event["phase"] in COPY_ENDS:
            if before is None or before["phase"] not in COPY_ENDS:
                self._sent["copy"] += int((before or {}).get("bytes") or 0)
            self._ended[key] = self._now()
            self._copied += event["phase"] == "verified"

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

    def value(self) -> Dict[str, Any]:
        """What stands in the file."""
        queue = list(self.queue())
        with self._lock:
            now, now_ns = self._now(), clock.now_ns()
            for key, when in list(self._ended.items()):
                if now - when > SHOWN:
                    del self._ended[key]
                    if self._dumps.get(key, {}).get("phase") in COPY_ENDS:
                        del self._dumps[key]
                        self._lines.pop(key, None)
            shown = {key: self._shown(key, event, now, now_ns) for key, event in self._dumps.items()}
            return {**self._head, "heartbeat_ns": now_ns, "copied": self._copied, "dumps": list(shown.values()),
                    **self._whole(shown, queue, now, now_ns)}  # fmt: skip

    def _shown(self, key: Key, event: Dict[str, Any], now: float, now_ns: int) -> Dict[str, Any]:
        """An event, and what follows from those before it."""
        line, todo = self._lines.get(key), self._todo.get(key)
        over = event["phase"] in DUMP_ENDS + COPY_ENDS
        if line is None or over or line.since is None:
            return {**event, "rate": None, "ends_ns": None, "tries": line.tries if line is not None else 0}
        planned = todo if todo is not None and event.get("level") in (None, todo.level) else None
        total = event.get("total") or None
        if planned is not None and planned.bytes is not None:
            total = planned.bytes  # the plan knows of growth and of walks
        count = int(event.get("bytes") or 0)
        line.rate.feed(count, now)
        rate = line.rate.value
        ends_in = None
        if event["phase"] != "waiting":
            ends_in = left(count, total, rate, planned.seconds if planned is not None else None, now - line.since)
        ends_ns = None if ends_in is None else now_ns + round(ends_in * clock.NS)
        return {**event, "total": total, "rate": None if rate is None else round(rate), "since_ns": line.since_ns,
                "ends_ns": ends_ns, "tries": line.tries}  # fmt: skip

    def _whole(self, shown: Dict[Key, Dict[str, Any]], queue: List[Dict[str, Any]], now: float,
               now_ns: int) -> Dict[str, Any]:  # fmt: skip
        """All dumps together, and all copies."""
        dumps = {key: one for key, one in shown.items() if not one.get("target")}
        copies = [one for one in shown.values() if one.get("target") and one["phase"] not in COPY_ENDS]
        count = {"done": 0, "failed": 0, "waiting": 0}
        at_work: List[AtWork] = []
        todo: List[Todo] = []
        coming: List[Coming] = []
        expected: Optional[int] = 0
        for key, one in dumps.items():
            phase = one["phase"]
            plan = self._todo.get(key, Todo(one["client"], one["source"], one.get("level") or 0))
            if phase in count:
                count[phase] += 1
            if phase in DUMP_ENDS:
                size = int(one.get("bytes") or 0)
            elif phase == "waiting" and not one.get("since_ns"):
                todo.append(plan._replace(not_before_ns=int(one.get("not_before_ns") or plan.not_before_ns)))
                size = plan.bytes
            else:
                ends_ns = one.get("ends_ns")
                at_work.append(AtWork(one["client"], None if ends_ns is None else (ends_ns - now_ns) / clock.NS))
                size = max(int(one["total"]), int(one.get("bytes") or 0)) if one.get("total") else None
            if phase not in DUMP_ENDS:
                coming.append(Coming(size, int(one.get("bytes") or 0), plan.copies, plan.network))
            expected = None if size is None or expected is None else expected + size
        sent = sum(int(one.get("bytes") or 0) for one in dumps.values() if one["phase"] not in DUMP_ENDS)
        made = self._sent["dump"] + sent
        self._rates["dump"].feed(made, now)
        rate = self._rates["dump"].value
        if rate and at_work:  # of what has no history, the speed of those at work tells
            todo = [one if one.seconds is not None or one.bytes is None
                    else one._replace(seconds=one.bytes * len(at_work) / rate) for one in todo]  # fmt: skip
        own = {name: client.dumps_at_once for name, client in self._settings.clients.items()}
        ends_in, unknown = ends(at_work, todo, self._at_once, DUMPS_PER_CLIENT, now_ns, own)
        ends_in = max(ends_in, over_lines(coming, self._lines_now(now_ns)))
        through = not at_work and not todo
        together = self._copies(copies, queue, now, now_ns)
        missing, fast = self._to_copy(copies, queue, now)
        all_in, dark = with_copies(ends_in, unknown, coming, missing, fast)
        over = through and not missing
        return {
            **count, "at_work": len(at_work), "planned": len(dumps), "bytes": made, "expected": expected,
            "rate": None if rate is None else round(rate), "unknown": unknown,
            "ends_ns": None if through or unknown else now_ns + round(ends_in * clock.NS),
            "not_before_ns": None if through or not ends_in else now_ns + round(ends_in * clock.NS),
            "run_ends_ns": None if over or dark else now_ns + round(all_in * clock.NS),
            "run_not_before_ns": None if over or not all_in else now_ns + round(all_in * clock.NS),
            "copies": together,
        }  # fmt: skip

    def _lines_now(self, now_ns: int) -> Dict[str, float]:
        """The rates of networks that have one."""
        networks = self._settings.networks.items()
        rates = {name: one.rate.at(now_ns) for name, one in networks if one.rate is not None}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def _to_copy(self, copies: List[Dict[str, Any]], queue: List[Dict[str, Any]], now: float
                 ) -> Tuple[int, Optional[float]]:  # fmt: skip
        """(bytes of copies that this run can make now, how fast it makes them while it does; reading back included)."""
        if self._looked is not None and copies:
            self._copying += now - self._looked
        self._looked = now
        sent = self._sent["copy"] + sum(int(one.get("bytes") or 0) for one in copies)
        missing = sum(max(0, int(one.get("total") or 0) - int(one.get("bytes") or 0)) for one in copies)
        # what waits for its window is not waited for
        missing += sum(int(one.get("bytes") or 0) for one in queue if not one.get("why"))
        return missing, sent / self._copying if self._copying >= ENOUGH else None

    def _copies(self, copies: List[Dict[str, Any]], queue: List[Dict[str, Any]], now: float,
                now_ns: int) -> Dict[str, Any]:  # fmt: skip
        sent = sum(int(one.get("bytes") or 0) for one in copies)
        self._rates["copy"].feed(self._sent["copy"] + sent, now)
        rate = self._rates["copy"].value
        sizes = [max(0, int(one.get("total") or 0) - int(one.get("bytes") or 0)) for one in copies]
        known = all(one.get("total") for one in copies)
        missing = sum(sizes) + sum(int(one.get("bytes") or 0) for one in queue)
        ends_in = missing / rate if rate and known and not any(one.get("why") for one in queue) else None
        return {
            "at_work": len(copies), "waiting": len(queue), "left": missing, "queue": queue[:QUEUED],
            "rate": None if rate is None else round(rate),
            "ends_ns": None if ends_in is None or not missing else now_ns + round(ends_in * clock.NS),
        }  # fmt: skip

    def _write(self) -> None:
        # at once or not at all, but not synced: after a crash nobody is at work
        temporary = f"{self._path}.tmp"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                files.write_all(fd, json.dumps(self.value()).encode())
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

"""What is wrong right now, and of what somebody is to be told: judgements between two nights.

Pure: lines of a report, rows and numbers in, troubles and tellings out; nothing here reads a clock, a file or the
catalog. When it is asked, what it is asked of and who is told: app/watching.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import tzinfo
from statistics import median_low
from typing import Any, Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .. import clock, hours, text
from ..catalog.records import FAIL, OK, WARN, CopyRow, DumpRow
from ..schedule import nights
from .night import SourceLine, count

OVERDUE, DAMAGED, FILLING, MISSING = KINDS = ("source-overdue", "copy-damaged", "holding-filling", "night-missing")
DAY_NS = 86_400 * clock.NS
WAIT_NS = 2 * 3600 * clock.NS  # a night that begins so much later than usual is missing
AGAIN_NS = DAY_NS - 1800 * clock.NS  # told again; a look may come some minutes earlier than yesterday's
FIRST_NS = 26 * 3600 * clock.NS  # after the first look of a server that never had a night
BACK = 0.05  # of a holding disk: so much below what is warned of it must fall before that is over
NIGHTLY = "the nightly run"
SHOWN, KEPT = 20, 200  # troubles that are told one by one in text, and in data


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong now. name: what it is wrong with, the same as long as it lasts. facts: JSON-ready."""

    kind: str
    name: str
    message: str
    hint: str = ""
    status: str = FAIL
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """By which it is known again."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Disk:
    """A holding disk. limit: bytes it may take at all; warn: the share of it that is too much. wrong, hint: why it
    cannot be used."""

    path: str
    used: int = 0
    limit: int = 0
    warn: float = 0.9
    wrong: str = ""
    hint: str = ""

    @property
    def share(self) -> float:
        """How full it is."""
        return 1.0 if self.limit <= 0 else self.used / self.limit


def overdue(lines: Iterable[SourceLine]) -> List[Trouble]:
    """The sources past their rpo."""
    return [
        Trouble(OVERDUE, f"{one.client}:{one.source}", f"{one.client}:{one.source}: {one.message}", one.hint, FAIL,
                {"client": one.client, "source": one.source, "age": one.age, "rpo": one.rpo})
        for one in lines
        if one.code == "past-rpo" or one.age is not None and one.age > one.rpo
    ]  # fmt: skip


def damaged(rows: Iterable[Tuple[CopyRow, DumpRow]], lines: Iterable[SourceLine]) -> List[Trouble]:
    """The copies that are damaged and not made anew, and the sources whose newest dump cannot be restored."""
    found = []
    for copy, dump in rows:
        name = f"{dump.client}:{dump.source} {dump.id} on {copy.target}"
        facts = {"client": dump.client, "source": dump.source, "dump": dump.id, "target": copy.target}
        told = f"{name}: {text.escape(copy.error)}".rstrip(": ")
        found.append(Trouble(DAMAGED, name, told, "stowage stage", FAIL, facts))
    for one in lines:
        if one.code == "image-damaged":
            facts = {"client": one.client, "source": one.source}
            name = f"{one.client}:{one.source}"
            found.append(Trouble(DAMAGED, name, f"{name}: {one.message}", one.hint, FAIL, facts))
    return found


def filling(disks: Iterable[Disk], lasting: Collection[str] = ()) -> List[Trouble]:
    """The holding disks that are too full, or cannot be used. lasting: keys of what was wrong at the last look."""
    found = []
    for disk in disks:
        facts = {"path": disk.path, "used": disk.used, "limit": disk.limit}
        if disk.wrong:
            found.append(Trouble(FILLING, disk.path, disk.wrong, disk.hint, FAIL, facts))
            continue
        told = (f"the holding disk {disk.path} is {100 * disk.share:.0f} % full: {text.size(disk.used)} "
                f"of {text.size(disk.limit)}")  # fmt: skip
        trouble = Trouble(FILLING, disk.path, told, "stowage stage", WARN, facts)
        if disk.share > disk.warn - (BACK if trouble.key in lasting else 0):
            found.append(trouble)
    return found


def missing(
    begun: Sequence[int], first_ns: int, now_ns: int, cycle_days: float, zone: Optional[tzinfo] = None
) -> List[Trouble]:
    """The night that did not come, judged by those that came.

    begun: when runs of everything began. first_ns: the first look. A weekday has a night when it had one in most of the
    last weeks; what is known for less than two weeks goes on in the rhythm it has. No rhythm is longer than the cycle.
    """
    if not begun:
        if now_ns - first_ns <= FIRST_NS:
            return []
        told = f"there was no night since the watch began, {clock.local(first_ns)}"
        return [Trouble(MISSING, NIGHTLY, told, "stowage run", FAIL, {"last": None})]
    firsts: Dict[int, int] = {}
    for moment in begun:
        night = hours.night_of(moment, zone)
        firsts[night] = min(moment, firsts.get(night, moment))
    last = max(firsts)
    minutes = median_low([_after_noon(firsts[night], zone) for night in sorted(firsts)[-15:]])
    tonight = hours.night_of(now_ns, zone)
    furthest = max(1, int(cycle_days))
    for night in range(last + 1, min(tonight, last + furthest) + 1):
        if night - last < furthest and not _is_due(night, last, firsts):
            continue
        due_ns = nights.at(night, (minutes + 12 * 60) % (24 * 60), zone)
        if now_ns <= due_ns + WAIT_NS:
            return []
        told = f"no night since {clock.local(max(begun))}: one was due at {clock.local(due_ns)}"
        return [Trouble(MISSING, NIGHTLY, told, "stowage run", FAIL,
                        {"last": clock.iso(max(begun)), "due": clock.iso(due_ns)})]  # fmt: skip
    return []


def _after_noon(moment: int, zone: Optional[tzinfo]) -> int:
    """Minutes of the clock since the noon that its night began with."""
    shown = hours.wall(moment, zone)
    return (shown.hour * 60 + shown.minute - 12 * 60) % (24 * 60)


def _is_due(night: int, last: int, had: Collection[int]) -> bool:
    first = min(had)
    earlier = [one for one in range(night - 7, max(first, night - 70) - 1, -7) if one <= last][:4]
    if len(earlier) >= 2:
        return 2 * sum(one in had for one in earlier) >= len(earlier)
    known = sorted(had)[-8:]
    gaps = [later - one for one, later in zip(known, known[1:])]
    return night - last >= (median_low(gaps) if len(gaps) >= 2 else 1)


def killed(run: str, begun_ns: int) -> Trouble:
    """The last run did not come to its end, and nobody is at work."""
    told = f"the run of {clock.local(begun_ns)} did not end: it was killed"
    return Trouble(MISSING, run, told, "stowage run", FAIL, {"run": run, "begun": clock.iso(begun_ns)})


# who is told of what


@dataclass(frozen=True)
class Telling:
    """What one who listens is to be told: of these troubles of a kind, that they have begun, last, or (by names alone)
    are over. more: how many others of the kind last."""

    kind: str
    state: str
    troubles: Tuple[Trouble, ...] = ()
    over: Tuple[str, ...] = ()
    more: int = 0

    @property
    def keys(self) -> Tuple[str, ...]:
        """Of all it is about."""
        return tuple(one.key for one in self.troubles) + tuple(f"{self.kind} {name}" for name in self.over)

    @property
    def status(self) -> str:
        """OK when it is over."""
        return OK if self.over else FAIL if any(one.status == FAIL for one in self.troubles) else WARN

    @property
    def subject(self) -> str:
        """One line."""
        return f"stowage {self.status:4s} {self._what()}"

    @property
    def text(self) -> str:
        """All of it, for people."""
        lines = [f"{self.status:4s} {self._what()}"]
        told = [f"{one.status:4s} {_with_hint(one)}" for one in self.troubles] + [f"OK   {name}" for name in self.over]
        if len(told) > 1:
            lines += ["", *told[:SHOWN]]
            lines += [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        if self.more:
            lines += ["", f"as before: {_words(self.kind, self.more, False)}"]
        return "\n".join(lines)

    def as_dict(self, since: Mapping[str, int]) -> Dict[str, Any]:
        """JSON-ready. since: key -> when it began, in ns."""
        return {
            "state": self.state, "count": len(self.keys), "lasting": self.more, "over": list(self.over)[:KEPT],
            "troubles": [as_dict(one, since) for one in self.troubles[:KEPT]],
        }  # fmt: skip

    def _what(self) -> str:
        still = "still: " if self.state == "lasts" else ""
        if len(self.troubles) == 1:
            return still + _with_hint(self.troubles[0])
        names = [*self.over, *(one.name for one in self.troubles)]
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return f"{still}{_words(self.kind, len(names), bool(self.over))}: {listed}"


def tellings(
    kinds: Iterable[str], troubles: Sequence[Trouble], told: Mapping[str, int], now_ns: int
) -> List[Telling]:  # fmt: skip
    """What one who listens to these kinds is to be told now. told: key -> when he was told of it last, in ns."""
    found = []
    for kind in (one for one in KINDS if one in kinds):
        now = {one.key: one for one in troubles if one.kind == kind}
        before = {key: when for key, when in told.items() if key.partition(" ")[0] == kind}
        begun = tuple(one for key, one in now.items() if key not in before)
        lasts = tuple(one for key, one in now.items() if key in before)
        over = tuple(key.partition(" ")[2] for key in before if key not in now)
        due = any(not -3600 * clock.NS < now_ns - before[one.key] < AGAIN_NS for one in lasts)
        if begun:
            found.append(Telling(kind, "begun", begun, more=0 if due else len(lasts)))
        if due:
            found.append(Telling(kind, "lasts", lasts))
        if over:
            found.append(Telling(kind, "ended", over=over, more=len(now)))
    return found


def after(told: Mapping[str, int], telling: Telling, now_ns: int) -> Dict[str, int]:
    """told, once this was told."""
    gone = set(telling.keys) if telling.over else set()
    new = {} if telling.over else dict.fromkeys(telling.keys, now_ns)
    return {**{key: when for key, when in told.items() if key not in gone}, **new}


def as_dict(one: Trouble, since: Mapping[str, int]) -> Dict[str, Any]:
    """JSON-ready. since: key -> when it began, in ns."""
    begun = since.get(one.key)
    return {
        "kind": one.kind, "name": one.name, "status": one.status, "message": one.message, "hint": one.hint,
        "since": clock.iso(begun) if begun else None, **one.facts,
    }  # fmt: skip


def _with_hint(one: Trouble) -> str:
    return f"{one.message} -> {one.hint}" if one.hint else one.message


_WORDS = {
    OVERDUE: ("source", "is past its rpo", "are past their rpo"),
    DAMAGED: ("damaged copy", "is not made anew", "are not made anew"),
    FILLING: ("holding disk", "fills up or cannot be used", "fill up or cannot be used"),
    MISSING: ("night", "is missing", "are missing"),
}
_OVER = {
    OVERDUE: ("source", "is no longer past its rpo", "are no longer past their rpo"),
    DAMAGED: ("damaged copy", "is made anew or gone", "are made anew or gone"),
    FILLING: ("holding disk", "has room again", "have room again"),
    MISSING: ("missing night", "has come", "have come"),
}


def _words(kind: str, number: int, over: bool) -> str:
    what, one, several = (_OVER if over else _WORDS)[kind]
    if number > 1 and what.endswith("copy"):
        return f"{number} {what[:-1]}ies {several}"
    return f"{count(number, what)} {one if number == 1 else several}"

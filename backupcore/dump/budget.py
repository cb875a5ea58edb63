"""The hard limits of a night against what its dumps really take: what may begin, what gives way, what is ended.

Here lives the counting and the order of sacrifice while dumps run; nothing here has a thread or knows a connection.
The plan fits its limits by what is expected, and this keeps them by what comes. Incrementals run first, so that what
is larger than expected shows while there is still something that can wait; a full begins beside them only where they
could not spoil it at their worst. A dump that was begun is ended only for limits of bytes: that gives back what they
guard, while the time of a dump is gone whether it is ended or not. Call all of it under one lock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..schedule.bases import Claim, Planned
from ..schedule.records import HOLDING, SECONDS, TARGET
from ..text import duration, size

EXACT = 1 + 1e-9  # sums of what is expected are no whole numbers

Key = Tuple[str, str, str]


class OverLimit(Exception):
    """The dump at work is ended: its night's limit has no room for it. why: for people."""

    def __init__(self, why: str):
        super().__init__(why)
        self.why = why


class Given(NamedTuple):
    """What the limits took. planned: the dump that is not made. why: for people. came: bytes it had when it was ended,
    0 for one that never began."""

    planned: Planned
    why: str
    came: int = 0


@dataclass
class _AtWork:
    planned: Planned
    begun: float
    bytes: int = 0
    whole: bool = False  # all came; it is ended no more
    ended: str = ""  # why


def key_of(one: Planned) -> Key:
    """What a dump is of."""
    return one.client, one.source, one.segment


class Budget:
    """What is left of a night. limits: of each resource, what dumps may still take; window: seconds in which at least
    one dump may be at work. clock: seconds that only grow."""

    def __init__(
        self, limits: Mapping[str, float], window: Optional[float] = None, clock: Callable[[], float] = time.monotonic
    ):
        self.limits, self.window, self._clock = dict(limits), window, clock
        self.given_up: List[Given] = []
        self._used: Dict[str, float] = dict.fromkeys(self.limits, 0.0)
        self._at_work: Dict[Key, _AtWork] = {}
        self._worked, self._since = 0.0, 0.0

    # before a dump begins

    def order(self, one: Planned) -> int:
        """Sorts the dumps that could begin: incrementals, fulls, then those of clients that were away."""
        claim = _claim(one)
        return 2 if claim.perhaps else int(one.level == 0)

    def settle(self, one: Planned, waiting: Sequence[Planned], now_ns: int) -> Tuple[Optional[Planned], bool]:
        """Whether one, the first that could begin, begins: (the dump to begin or None, whether one has left waiting).

        What does not fit waits for what is at work, since that may be smaller than expected; when nothing is, a
        smaller dump takes its place, or nothing does. waiting: all that have not begun, most important first.
        """
        short = self._short(one, waiting)
        if not short and (not self._at_work or self._calm(one, waiting, now_ns)):
            return one, True  # what could spoil it would be at work, or cannot begin
        if self._at_work:
            return None, False
        why = self._why(one, short)
        self.given_up.append(Given(one, why))
        for place, other in enumerate(one.instead):
            if not self._short(other, waiting, one):
                return replace(other, instead=one.instead[place + 1 :]), True
        if one.level == 0 and one.instead:
            self.given_up.append(Given(one.instead[-1], why))
        return None, True

    def _short(self, one: Planned, waiting: Sequence[Planned], besides: Optional[Planned] = None) -> str:
        """The resource that has no room for one beside what is at work and what matters more; '' when all have."""
        left = {name: limit * EXACT - self._taken(name, real=False) for name, limit in self.limits.items()}
        rank, before = self.order(one), True
        for other in waiting:
            if other is one or other is besides:
                before = False
                continue
            claim, kind = _claim(other), self.order(other)
            if claim.perhaps:
                continue
            if kind > rank or kind == rank and not before:
                # it matters less; but the changes of a source matter more than any full
                if one.level or not other.instead or other.level:
                    continue
                claim = _claim(other.instead[-1])
            for name, amount in claim.takes.items():
                if name in left:
                    left[name] -= amount
        for name, amount in _claim(one).takes.items():
            if amount > max(0.0, left.get(name, amount)):
                return name
        seconds = _claim(one).takes.get(SECONDS, 0.0)
        if self.window is not None and seconds > max(0.0, self.window * EXACT - self._worked_for()):
            return SECONDS
        return ""

    def _calm(self, one: Planned, waiting: Sequence[Planned], now_ns: int) -> bool:
        """Whether no incremental can spoil a full that begins now, however large it turns out."""
        if one.level or self.order(one) != 1:
            return True
        unsure = [found.planned for found in self._at_work.values() if found.planned.level and not found.whole]
        unsure += [found for found in waiting
                   if found.level and found.not_before_ns <= now_ns and not _claim(found).perhaps]  # fmt: skip
        if not unsure:
            return True
        for name, amount in _claim(one).takes.items():
            if name == SECONDS or name not in self.limits:
                continue
            worst = sum(max(_claim(found).most, _claim(found).takes.get(name, 0.0))
                        for found in unsure if name in _claim(found).takes)  # fmt: skip
            rest = self._taken(name, real=False, without={key_of(found) for found in unsure})
            if rest + worst + amount > self.limits[name] * EXACT:
                return False
        return True

    # while it runs

    def begin(self, one: Planned) -> None:
        """A dump begins."""
        if not self._at_work:
            self._since = self._clock()
        self._at_work[key_of(one)] = _AtWork(one, self._clock())

    def grown(self, one: Planned, count: int, whole: bool = False) -> None:
        """So many bytes of it came; whole: all. Raises OverLimit when it is to be ended.

        While real bytes are over a limit, what matters least of all that is at work is ended: fulls that could wait,
        other fulls, then changes; of the same kind low priority first, then what most exceeds what was expected.
        """
        mine = self._at_work[key_of(one)]
        if not mine.ended:
            mine.bytes = max(mine.bytes, count)
            for name in self.limits:
                while name != SECONDS and self._taken(name, real=True) > self.limits[name]:
                    able = [each for each in self._at_work.values()
                            if not each.whole and not each.ended and name in _claim(each.planned).takes]  # fmt: skip
                    if not able:
                        break
                    least = min(able, key=_worth)
                    least.ended = self._outgrown(least, name)
        if mine.ended:
            raise OverLimit(mine.ended)
        mine.whole = mine.whole or whole

    def done(self, one: Planned, stored: Optional[int]) -> None:
        """A dump is over; stored: bytes of its image, None when there is none."""
        mine = self._at_work.pop(key_of(one))
        now = self._clock()
        for name in self.limits:
            if name == SECONDS:
                self._used[name] += now - mine.begun
            elif name in _claim(one).takes:
                self._used[name] += stored or 0
        if not self._at_work:
            self._worked += now - self._since

    def ended(self, one: Planned, why: str) -> Optional[Planned]:
        """A dump was ended; what may take its place, None for nothing."""
        self.given_up.append(Given(one, why, self._at_work[key_of(one)].bytes))
        return replace(one.instead[0], instead=one.instead[1:]) if one.instead else None

    # counting

    def _taken(self, name: str, real: bool, without: Sequence[Key] = ()) -> float:
        """Of a resource, by dumps that are done and by those at work: what came of these, or is expected if more."""
        total = self._used[name]
        for key, mine in self._at_work.items():
            expected = _claim(mine.planned).takes.get(name)
            if expected is None or key in without:
                continue
            if name == SECONDS:
                total += max(self._clock() - mine.begun, expected)
            elif not mine.ended:
                total += mine.bytes if real or mine.whole else max(mine.bytes, expected)
        return total

    def _worked_for(self) -> float:
        return self._worked + (self._clock() - self._since if self._at_work else 0.0)

    def _why(self, one: Planned, name: str) -> str:
        """Why one does not begin."""
        takes = _claim(one).takes
        if name == SECONDS:
            left = max(0.0, self.limits[SECONDS] - self._taken(SECONDS, real=True))
            if self.window is not None:
                left = min(left, max(0.0, self.window - self._worked_for()))
            return f"the window has {duration(left)} left, and it is expected to take {duration(takes[SECONDS])}"
        left = max(0.0, self.limits[name] - self._taken(name, real=True))
        beside = "" if takes[name] > left else " beside what matters more"
        return f"the limit of tonight's {_told(name)} has {size(left)} left, no room for {size(takes[name])}{beside}"

    def _outgrown(self, least: _AtWork, name: str) -> str:
        expected = _claim(least.planned).takes.get(name, 0.0)
        told = f"ended when the limit of tonight's {_told(name)} was reached: {size(least.bytes)} of it had come"
        return f"{told}, {size(expected)} were expected"


def _told(name: str) -> str:
    """A resource for people."""
    if name.startswith(TARGET):
        return f"bytes for {name[len(TARGET) :]}"
    return "bytes for the holding disks" if name == HOLDING else name


def _claim(one: Planned) -> Claim:
    return one.claim if one.claim is not None else _NONE


def _worth(mine: _AtWork) -> Tuple[bool, bool, int, float]:
    """Sort key: what is ended first."""
    claim = _claim(mine.planned)
    expected = max((amount for name, amount in claim.takes.items() if name != SECONDS), default=0.0)
    return mine.planned.level > 0, not claim.may_wait, claim.priority, expected - mine.bytes


_NONE = Claim()

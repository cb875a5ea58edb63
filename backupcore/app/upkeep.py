"""What targets will be asked for: requests of copies to come, and the reading that goes on as it did.

Here lives the reckoning of requests for a forecast. A copy takes so many as its files and upload parts say, times what
such copies took so far; what else a target was asked for each month (verify, drills, restores) goes on as in the last
months. Targets whose driver counts nothing are asked for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from ..catalog import spending
from ..cost import bill, usage
from ..cost.usage import Month
from ..hookspecs import Spent
from ..settings import Settings, TargetSettings
from ..text import parse_size

UPLOAD_PART = 16 << 20
ASIDE = 5  # requests of a copy besides its files: what is there, before and after
MONTHS = 3  # that the rest is the mean of
LEAST = 5  # days of a month that tell something of it
SCALE = (0.3, 10.0)  # what was counted, against what files and parts say, within these bounds


class Made(NamedTuple):
    """A copy that will be made. origin: the target it is read from, or ''."""

    target: str
    when_ns: int
    bytes: int
    objects: int
    origin: str


class Expected:
    """What each target is expected to be used for in a month. this: the one that lasts."""

    def __init__(self, settings: Settings, catalog: Any, this: Month, made: Sequence[Made]):
        self.settings, self.this, self.made = settings, this, made
        self.known = spending.spent_by_month(catalog)
        stays = spending.stays_between(catalog, this.begin_ns - 120 * usage.DAY_NS, this.until_ns)
        self.came: Dict[Tuple[str, str], int] = defaultdict(int)  # requests, by files and parts
        for stay in stays:
            if stay.objects:  # else it came before anything was counted
                wrote = _writes(settings.targets.get(stay.target), stay.bytes, stay.objects)
                self.came[stay.target, spending.month_of(stay.came_ns)] += wrote

    def of(self, when: Month, now_ns: int) -> Dict[str, Spent]:
        """By target; of the month that lasts: what was used so far, and what will be."""
        found: Dict[str, Spent] = {}
        for target in self.settings.targets:
            if not self._counts(target):
                continue
            rest = self._rest(target)
            share = 1.0
            used = Spent()
            if when.name == self.this.name:
                share = (when.end_ns - now_ns) / (when.end_ns - when.begin_ns)
                used = self.known.get((target, when.name), Spent())
            copies = [one for one in self.made if one.target == target and when.begin_ns <= one.when_ns < when.end_ns]
            wrote = sum(_writes(self.settings.targets[target], one.bytes, one.objects) for one in copies)
            sent = sum(one.bytes for one in copies)
            got = sum(
                one.bytes for one in self.made if one.origin == target and when.begin_ns <= one.when_ns < when.end_ns
            )
            more = Spent(write=round(wrote * self._scale(target)), read=got // UPLOAD_PART, sent=sent, got=got)
            found[target] = bill.together((used, bill.times(rest, share), more))
        return found

    def _counts(self, target: str) -> bool:
        price = self.settings.targets[target].price
        counted = any(name == target for name, _month in self.known)
        return counted or price is not None and bool(price.write_1000 or price.request_1000 or price.egress_gb)

    def _months(self, target: str) -> List[Tuple[str, float]]:
        """The months that tell something of a target, and how much of each is known."""
        before = sorted(month for name, month in self.known if name == target and month < self.this.name)[-MONTHS:]
        gone = (self.this.until_ns - self.this.begin_ns) / usage.DAY_NS
        if not before and gone >= LEAST and (target, self.this.name) in self.known:
            return [(self.this.name, gone * usage.DAY_NS / (self.this.end_ns - self.this.begin_ns))]
        return [(month, 1.0) for month in before]

    def _scale(self, target: str) -> float:
        told = [month for month, _share in self._months(target)] or [self.this.name]
        said = sum(self.came.get((target, month), 0) for month in told)
        counted = sum(self.known.get((target, month), Spent()).write for month in told)
        return min(SCALE[1], max(SCALE[0], counted / said)) if said and counted else 1.0

    def _rest(self, target: str) -> Spent:
        """What a month has besides the making of copies."""
        months = self._months(target)
        if not months:
            return Spent()
        whole = bill.together(self.known[target, month] for month, _share in months)
        mean = bill.times(whole, 1 / sum(share for _month, share in months))
        return replace(mean, write=0, sent=0, delete=0, woken=0)


def _writes(target: Any, size: int, objects: int) -> int:
    """Requests that write, of a copy, by its files and upload parts."""
    part = UPLOAD_PART
    if isinstance(target, TargetSettings):
        try:
            part = parse_size(target.options.get("part_size") or UPLOAD_PART)
        except (ValueError, TypeError):
            part = UPLOAD_PART
    parts = -(-size // max(1, part))
    return objects + ASIDE + (parts + 1 if parts > 1 else 0)

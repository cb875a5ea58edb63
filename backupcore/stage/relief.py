"""Room on the holding disks while dumps wait for it: images that may go leave, copies that free most come first.

Here lives what would free room, what keeps it from that, and what is said to those who wait. In need an image goes as
soon as its copies are verified as often as its source asks for, also where the newest are to stay; never before.
Windows hold here, too: a night does not break them unseen. Not here: who waits, and for how long (dump/space.py).
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Collection, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from .. import clock
from ..catalog import aside
from ..catalog.records import HOLDING, DumpRow
from ..errors import StowageError
from ..hours import shown
from . import release
from .service import Key, Service
from .wanted import Wishes, rule_of, source_of

SOON_NS = 15 * 60 * clock.NS  # a window that opens within so long is waited for
OLD = 30.0  # seconds after which the catalog is looked at again though nothing is known to have changed

Unit = Tuple[str, str]
Dumped = Sequence[Tuple[Path, Unit, int]]
Answer = Tuple[str, str, str]  # what is under way, else why nothing is and the next step: dump.space.Help


class _Image(NamedTuple):
    """One image on a holding disk. lacks: verified copies before it may go; wants: targets that could be these."""

    dump: DumpRow
    disk: Path
    lacks: int
    wants: Tuple[str, ...]


class Relief:
    """Makes room; call it from any thread. released, problems: what became of images."""

    def __init__(self, service: Service):
        self.service, self.settings, self.catalog = service, service.settings, service.catalog
        self.released: List[str] = []
        self.problems: List[str] = []
        self._lock = threading.Lock()
        self._images: List[_Image] = []
        self._seen = (-1, 0.0)

    def __call__(self, missing: Mapping[Path, int], dumped: Dumped) -> Answer:
        """missing: bytes by disk, any of which will do. dumped: what is being dumped there, and how large it is."""
        with self._lock:
            self.service.under_way()  # what has just come is looked at
            self._look()
            if self._release(missing):
                return "room was made", "", ""
            self.service.widen()
            at_work, waiting = self.service.under_way()
            return self._ahead(missing, dumped, at_work, waiting)

    def room(self, missing: Mapping[Path, int]) -> bool:
        """For copies that come by way of a holding disk: whether images left, on one that can get what it lacks so."""
        with self._lock:
            self._look()
            able = {
                disk: count for disk, count in missing.items()
                if sum(one.dump.stored_size for one in self._images if one.disk == disk and not one.lacks) >= count
            }  # fmt: skip
            return self._release(able)

    # what is there

    def _look(self) -> None:
        seen, when = self._seen
        changes = self.service.changes
        if changes == seen and time.monotonic() - when < OLD:
            return
        held = self.catalog.held()
        wishes = Wishes(self.settings, self.catalog, sorted({(one.client, one.source) for one in held}))
        self._images = []
        for dump in held:
            disk = aside.disk_of(self.settings, dump, dump.holding)
            lacks = release.lacks(wishes, dump, source_of(self.settings, dump))
            if disk is None or lacks is None or dump.damaged or wishes.state(dump, HOLDING):
                continue
            wants = tuple(name for name in wishes.of(dump) if wishes.state(dump, name) != "verified")
            self._images.append(_Image(dump, disk, lacks, wants))
        self._seen = (changes, time.monotonic())

    def _release(self, missing: Mapping[Path, int]) -> bool:
        """Removes what may go, as much as one of the disks lacks; whether anything went."""
        newest: Dict[Tuple[str, str, str], int] = {}
        for one in self._images:
            unit = (one.dump.client, one.dump.source, one.dump.segment)
            newest[unit] = max(newest.get(unit, 0), one.dump.counter)

        def last(one: _Image) -> tuple:
            newer = newest[one.dump.client, one.dump.source, one.dump.segment] > one.dump.counter
            return not newer, one.dump.begun_ns

        for disk, count in sorted(missing.items(), key=lambda pair: pair[1]):
            freed = 0
            if count <= 0:  # there is room; others come first
                continue
            for one in sorted((one for one in self._images if one.disk == disk and not one.lacks), key=last):
                if freed >= count:
                    break
                freed += self._remove(one)
            if freed:
                return True
        return False

    def _remove(self, one: _Image) -> int:
        with self.service.leaving(one.dump.id) as free:
            if not free:  # it is copied from: that ends
                return 0
            self._images.remove(one)
            try:
                release.remove(self.settings, self.catalog, one.dump)
            except (StowageError, OSError) as error:
                told = getattr(error, "message", "") or f"{one.dump.holding} cannot be removed: {error}"
                if told not in self.problems:
                    self.problems.append(told)
                return 0
        self.released.append(one.dump.id)
        return one.dump.stored_size

    # what will be

    def _ahead(self, missing: Mapping[Path, int], dumped: Dumped, at_work: Collection[Key], waiting: Collection[Key]
               ) -> Answer:  # fmt: skip
        failed, down = self.service.failed(), self.service.down()
        why, hint, told = "", "", ""
        weights: Dict[Key, float] = {}
        for disk, count in sorted(missing.items(), key=lambda pair: pair[1]):
            here = [(size, unit) for place, unit, size in dumped if place == disk and self._would_leave(unit, down)]
            able = []
            for one in self._images:
                if one.disk == disk:
                    coming = [name for name in one.wants if (one.dump.id, name) in {*at_work, *waiting}]
                    held_up, soon = self._held_up(one, coming, failed, down)
                    if held_up[0]:
                        why, hint = (why, hint) if why else held_up
                    elif coming or soon or not one.lacks:
                        able.append((one, soon))
            room = sum(one.dump.stored_size for one, _soon in able) + sum(size for size, _unit in here)
            if not room or room < count:
                continue
            mine = {(one.dump.id, name): float(one.dump.stored_size)
                    for one, _soon in able for name in one.wants if one.lacks}  # fmt: skip
            weights.update(mine)
            told = told or self._told([one for one, _soon in able], at_work)
            told = told or next((soon for _one, soon in able if soon), "")
            if not told:
                told = f"{':'.join(here[0][1])} is dumped, and copied then" if here else "copies are about to begin"
        if told:
            self.service.prefer(weights)
            return told, "", ""
        return "", why, hint

    def _held_up(self, one: _Image, coming: Sequence[str], failed: Collection[Key], down: Collection[str]
                 ) -> Tuple[Tuple[str, str], str]:  # fmt: skip
        """((why an image cannot go tonight, the next step), '' and '' when it can; the window that opens soon)."""
        able, why, hint, soon = 0, "", "", ""
        for name in one.wants:
            opens = self.service.copier.opens(rule_of(self.settings, one.dump, name))
            if name in coming:
                able += 1
            elif (one.dump.id, name) in failed or name in down:
                why, hint = f"the copies to {name} fail", "stowage check"
            elif opens is not None and opens - clock.now_ns() > SOON_NS:
                why, hint = why or f"the copies to {name} wait for their window: {shown(opens)}", "stowage stage --now"
            else:
                able += 1
                soon = f"the window of the copies to {name}: {shown(opens)}" if opens is not None else soon
        return ((why, hint) if able < one.lacks else ("", "")), soon

    def _would_leave(self, unit: Unit, down: Collection[str]) -> bool:
        """Whether what is dumped now could leave the holding disk tonight."""
        source = self.settings.source(*unit)
        if source is None or not source.copies:
            return False
        least = len(source.copies) if source.min_copies is None else max(1, min(source.min_copies, len(source.copies)))
        able = [rule for rule in source.copies if rule.target not in down and self.service.copier.opens(rule) is None]
        return len(able) >= least

    @staticmethod
    def _told(images: Sequence[_Image], at_work: Collection[Key]) -> str:
        by_id = {one.dump.id: one.dump for one in images}
        for name, target in at_work:
            if name in by_id:
                return f"copying {by_id[name].client}:{by_id[name].source} to {target}"
        return ""

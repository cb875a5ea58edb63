"""Who may write how much on which holding disk, and who waits for room when there is none.

Here live the choice among the disks, the reservations, and the order in which those that wait get what becomes free.
How room is made, by copies and by images that may go, is the relief's affair, which stage/ brings; which folders lie
on a disk is holding.py.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import HoldingFull, StowageError
from ..settings import HoldingDisk
from ..text import size
from .stored import Tally, device, holds

UNKNOWN = 64 << 20  # what a dump without a past is expected to take
STEP = 64 << 20  # a reservation grows by this much, or by a tenth of itself
SLACK = 1 << 20  # manifest, RESTORE.txt and such
SHARE = 0.5  # a disk that nobody writes to is preferred while it has so much of the room of the one that has most
LOOK = 1.0  # seconds between two looks at what is waited for
SURE = 3  # so many looks in a row must find that nothing frees room
LAST = (float("inf"),)  # a rank after all others
LONGEST = 4 * 3600.0  # seconds: a night is not to end in the next one because a line is slow

Key = Tuple[str, str]


class Help(NamedTuple):
    """What a relief has to say. coming: what is under way and will free room, '' when nothing is; else why: what keeps
    the images where they are, hint: the next step."""

    coming: str = ""
    why: str = ""
    hint: str = ""


# relief(bytes that are missing by disk, what is dumped there now and how large it is): removes what may go and has the
# copies made that free most. Any of these disks will do. Returns what Help has, in its order.
Relief = Callable[[Mapping[Path, int], Sequence[Tuple[Path, Key, int]]], Tuple[str, str, str]]


class Asker(NamedTuple):
    """Who asks for room. rank: who matters more sorts first. source: (client, source). tell: takes what it waits for,
    '' when it waits no longer. again: whether the dump would be tried once more when it gave way. spills: without room
    it goes straight to targets, and need not be begun anew."""

    rank: Tuple[Any, ...] = ()
    source: Key = ("", "")
    tell: Callable[[str], None] = lambda told: None
    again: bool = False
    spills: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return ":".join(self.source)


class GaveWay(Exception):
    """This dump ends, so that one that matters more gets its room, or since there is room elsewhere; it is to be tried
    again when the others are through. why: for people. came: bytes that it had."""

    def __init__(self, why: str, came: int):
        super().__init__(why)
        self.why, self.came = why, came


class Spilled(HoldingFull):
    """As GaveWay, for one that can go on without a holding disk. way: what it is when it cannot."""

    way: GaveWay


class Space:
    """Who may write how much on which holding disk. Thread-safe; one for a run.

    relief: as Relief, None: nothing frees room. asker(): who the calling thread asks for.
    """

    def __init__(
        self, disks: Sequence[HoldingDisk], relief: Optional[Relief] = None, asker: Callable[[], Asker] = Asker
    ):
        self.disks = list(disks)
        self._relief, self._asker = relief, asker
        self._changed = threading.Condition()
        self._rooms: List[Room] = []
        self._waiting: List[_Waiting] = []
        self._lost: Dict[Path, str] = {}
        self._least: Dict[Any, int] = {}  # rank of a dump that gave way -> what it needs at least
        self._left: Dict[Any, Path] = {}  # rank of a dump -> the disk it could not be written to
        self._kinds = {disk.path: device(disk.path) for disk in self.disks}
        self._tally = Tally()
        self._stopped = False

    # what dumps ask

    def reserve(self, expected: int | None) -> Room:
        """Room for a dump of expected bytes (None: unknown). Among the disks that have it, one that nobody writes to,
        then the one that has most. Waits as long as something will free room. Raises HoldingFull."""
        asker = self._asker()
        least = max(0 if expected is None else expected, self._least.get(asker.rank, 0)) + SLACK
        wanted = (UNKNOWN if expected is None else expected + expected // 10) + SLACK
        if not self.disks:
            raise HoldingFull("no holding disk is configured")
        return self._obtain(_Waiting(asker, None, least, max(wanted, least)))

    def again(self, path: Path, have: int) -> Optional[Room]:
        """Room on the disk where a dump that was cut lies, of the bytes that came; None when the disk is not there.
        What was counted as cut is this room's from now on, and more of it comes by taking it."""
        with self._changed:
            disk = next((one for one in self.disks if one.path == path and self._is_there(one)), None)
            if disk is None:
                return None
            room = Room(self, disk, have, self._asker())
            room.written = have
            self._rooms.append(room)
            return room

    # what copies ask that come by way of a holding disk

    def borrow(self, count: int, disk: Optional[Path] = None) -> Optional[Room]:
        """Room for count bytes that only pass through, at once or not at all; disk: there. Who waits comes first."""
        with self._changed:
            mine = _Waiting(Asker(LAST), None, count + SLACK, count + SLACK)
            if disk is not None:
                mine.only = disk
            return self._take(mine)

    def lacks(self, count: int) -> Dict[Path, int]:
        """Disk -> bytes that it lacks for borrow(count)."""
        with self._changed:
            return {one.path: count + SLACK - self._free(one) for one in self.disks if one.path not in self._lost}

    def _grow(self, room: Room, total: int) -> None:
        self._obtain(_Waiting(room.asker, room, total - room.reserved, max(STEP, room.reserved // 10)))

    def _close(self, room: Room) -> None:
        with self._changed:
            if room in self._rooms:
                self._rooms.remove(room)
                self._tally.add(room.disk.path, room.written)
            self._changed.notify_all()

    # what the driver says

    def lose(self, disk: Path, why: str) -> None:
        """A disk takes nothing: why is said of it where there is no room."""
        with self._changed:
            self._lost.setdefault(disk, why)

    def leave(self, disk: Path, asker: Asker, came: int, failed: bool) -> bool:
        """Whether a dump that could not be written to a disk can be made on another; it is not sent there again. came:
        bytes that it had. failed: nothing more is reserved on that disk, unless it is the last one."""
        with self._changed:
            others = [one for one in self.disks if one.path != disk and self._free(one) >= came + SLACK]
            if failed and any(self._is_there(one) for one in self.disks if one.path != disk):
                self._lost.setdefault(disk, "cannot be written")
            self._left[asker.rank] = disk
            self._least[asker.rank] = max(came, self._least.get(asker.rank, 0))
            self._changed.notify_all()
            return bool(others)

    def check_not_stopped(self) -> None:
        """Raises StowageError when the run ends."""
        if self._stopped:
            raise StowageError("the run was stopped")

    def stop(self) -> None:
        """The run ends: nobody waits any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # waiting

    def _obtain(self, mine: _Waiting) -> Room:
        with self._changed:
            room = self._take(mine)
            if room is not None:
                return room
            if self._relief is None:
                raise self._full(mine, Help())
            self._waiting.append(mine)
        try:
            return self._wait(mine)
        finally:
            with self._changed:
                self._waiting.remove(mine)
                self._changed.notify_all()
            if mine.told:
                mine.asker.tell("")

    def _wait(self, mine: _Waiting) -> Room:
        begun, sure = time.monotonic(), 0
        while True:
            with self._changed:
                here = [disk for disk in self.disks if mine.could_use_on(disk) and disk.path not in self._lost]
                missing = {disk.path: mine.least - self._free(disk) for disk in here}
                others = [room for room in self._rooms if room.disk in here and not self._is_waiting(room)]
            found = Help()
            if self._relief is not None and missing:  # not under the lock: it removes images
                dumped = [(room.disk.path, room.asker.source, room.reserved) for room in others]
                found = Help(*self._relief(missing, dumped))
            with self._changed:
                room = self._take(mine)
                if room is not None:
                    return room
                if self._stopped:
                    raise StowageError("the run was stopped")
                if mine.gives_way:
                    way = self._gives_way(mine, "what matters more waited for its room")
                    raise way if mine.asker.again else self._full(mine, found)
                coming = found.coming or self._other_room(mine, here, others)
                if time.monotonic() - begun > LONGEST:
                    coming, found = "", found._replace(why=found.why or "it had waited for hours")
                # the copies of a dump that ends right now are not begun yet: nobody is sure after one look
                sure = 0 if coming else sure + 1
                if sure >= SURE:
                    self._stuck(mine, found)
                if coming and coming != mine.told:
                    mine.told = coming
                    mine.asker.tell(coming)
                self._changed.wait(LOOK if coming else LOOK / 10)

    def _take(self, mine: _Waiting) -> Optional[Room]:
        """What it waits for, when it is there and nobody comes first."""
        if mine.room is not None:
            disk = mine.room.disk
            free = self._free(disk)
            if free < mine.least or self._is_first_come(mine, disk):
                return None
            mine.room.reserved += min(free, max(mine.least, mine.wanted))
            return mine.room
        free_of = [(self._free(disk), disk) for disk in self.disks if not self._is_first_come(mine, disk)]
        able = [(free, disk) for free, disk in free_of if free >= mine.least and mine.only in (None, disk.path)]
        left = self._left.get(mine.asker.rank)
        able = [(free, disk) for free, disk in able if disk.path != left] or able
        if not able:
            return None
        most = max(free for free, _disk in able)
        # two dumps at once on one disk only slow each other down, where another has room as well
        roomy = [(free, disk) for free, disk in able if free >= min(mine.wanted, most) and free >= most * SHARE]
        free, disk = min(roomy, key=lambda pair: (self._writers(pair[1]), -pair[0]))
        room = Room(self, disk, min(mine.wanted, free), mine.asker)
        self._rooms.append(room)
        return room

    def _is_first_come(self, mine: _Waiting, disk: HoldingDisk) -> bool:
        """Whether another is to have the room of this disk before this one."""
        return any(one is not mine and one.order < mine.order and one.could_use_on(disk) for one in self._waiting)

    def _is_waiting(self, room: Room) -> bool:
        return any(one.room is room for one in self._waiting)

    def _writers(self, disk: HoldingDisk) -> int:
        return sum(room.disk is disk for room in self._rooms)

    def _other_room(self, mine: _Waiting, here: Sequence[HoldingDisk], others: Sequence[Room]) -> str:
        """Who else may leave enough: a dump at work what it reserved and does not write, or one that waits and comes
        first."""
        for room in others:
            if room.leaving and room in self._rooms:
                return f"{room.asker.name} gives way"
        for disk in here:
            at_work = [room for room in others if room.disk is disk and room in self._rooms]
            rest = sum(max(0, room.reserved - room.written) for room in at_work)
            if rest and self._free(disk) + rest >= mine.least:
                return f"{at_work[0].asker.name} is at work there"
        ahead = [one for one in self._waiting if one.order < mine.order and any(map(one.could_use_on, here))]
        return f"{min(ahead, key=lambda one: one.order).asker.name} comes first" if ahead else ""

    def _stuck(self, mine: _Waiting, found: Help) -> None:
        """Nothing frees room. Raises GaveWay or HoldingFull, unless another gives way."""
        if mine.room is None:
            raise self._full(mine, found)
        disk, needs = mine.room.disk, mine.room.written + mine.least
        others = [one for one in self.disks if one is not disk and self._is_there(one) and holds(one) > needs]
        if mine.asker.again and others and self._left.get(mine.asker.rank) is None:
            self._left[mine.asker.rank] = disk.path
            raise self._gives_way(mine, "another holding disk may have more room")
        rivals = [one for one in self._waiting if one is not mine and one.could_use_on(disk)]
        growing = [one for one in (*rivals, mine) if one.room is not None]
        able = [one for one in growing if one.asker.again]
        least = max(able or growing, key=lambda one: one.asker.rank)
        if least is not mine:
            least.gives_way = True
            self._changed.notify_all()
        elif able and any(one.room is not None or one.asker.rank < mine.asker.rank for one in rivals):
            raise self._gives_way(mine, "what matters more waited for its room")
        else:
            raise self._full(mine, found)

    def _gives_way(self, mine: _Waiting, why: str) -> Exception:
        written = 0
        if mine.room is not None:
            written, mine.room.leaving = mine.room.written, not mine.asker.spills
        self._least[mine.asker.rank] = written + mine.least
        way = GaveWay(f"{size(written)} of it had come: {why}", written)
        if not mine.asker.spills:
            return way
        full = self._full(mine, Help())
        spilled = Spilled(full.message, full.hint)
        spilled.way = way
        return spilled

    def _full(self, mine: _Waiting, found: Help) -> HoldingFull:
        hint = found.hint or "stowage stage, or raise holding: use"
        why = f"; {found.why}" if found.why else ""
        if mine.room is not None:
            came = size(mine.room.written + mine.least)
            return HoldingFull(
                f"the holding disk {mine.room.disk.path} is full: {came} of this dump came, no more fits{why}", hint
            )
        left = ", ".join(
            f"{disk.path} {self._lost[disk.path]}" if disk.path in self._lost
            else f"{disk.path} has {size(max(0, self._free(disk)))} left" for disk in self.disks
        )  # fmt: skip
        return HoldingFull(f"no holding disk has room for {size(mine.least)}: {left}{why}", hint)

    def _is_there(self, disk: HoldingDisk) -> bool:
        """Whether it takes anything at all; it may be full by now, even a little over, by what a file system needs
        for itself."""
        kind = device(disk.path)
        return disk.path not in self._lost and kind is not None and kind == self._kinds[disk.path]

    def _free(self, disk: HoldingDisk) -> int:
        """Bytes that no dump has and none has reserved."""
        if disk.path in self._lost:
            return -1
        try:
            found = os.statvfs(disk.path)
        except OSError:
            return -1
        if device(disk.path) != self._kinds[disk.path]:
            self._lost[disk.path] = "is not mounted any more"
            return -1
        mine = [room for room in self._rooms if room.disk is disk]
        # what is reserved but not yet written looks free to the file system
        free = found.f_bavail * found.f_frsize - sum(max(0, room.reserved - room.written) for room in mine)
        if disk.use < 0:
            return free + disk.use
        left = disk.use - sum(room.reserved for room in mine)
        found = left - self._tally.lately(disk.path)
        # before anybody waits or is refused, it is counted again: something may have gone
        return min(free, found if found >= disk.use // 4 else left - self._tally.now(disk.path))


class Room:
    """What one dump may write. written: what it has. leaving: it ends, and takes what it has away."""

    def __init__(self, space: Space, disk: HoldingDisk, reserved: int, asker: Asker = Asker()):
        self.disk = disk
        self.reserved = reserved
        self.written = 0
        self.leaving = False
        self.asker = asker
        self._space = space

    def take(self, count: int) -> None:
        """count bytes more will be written; grows the reservation, and waits while room is being made. Raises
        HoldingFull, GaveWay."""
        total = self.written + count
        if total > self.reserved:
            self._space._grow(self, total)
        self.written = total

    def close(self) -> None:
        """Nothing more comes: what is not written is free again."""
        self._space._close(self)


class _Waiting:
    """One that waits. room: what it has already, None when it has not begun. least, wanted: bytes it needs and would
    like besides."""

    def __init__(self, asker: Asker, room: Optional[Room], least: int, wanted: int):
        self.asker, self.room, self.least, self.wanted = asker, room, least, wanted
        self.gives_way = False
        self.told = ""
        self.only: Optional[Path] = None  # the disk that it has to be on
        # who has begun frees room by its end: it goes on before another begins
        self.order = (room is None, asker.rank)

    def could_use_on(self, disk: HoldingDisk) -> bool:
        """Whether room on this disk would help it."""
        return self.room is None or self.room.disk is disk

"""What a drill tries: files by lot and small sources, from the copy that is farthest away; and what all would take.

Here lives the choice from catalog and indexes; whose turn it is and the reckoning are pure and live in
verify/drill.py, the trying in drilling.py. No client is asked here.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from .. import clock, text
from ..catalog import drills
from ..catalog.drills import PROVEN, Drilled
from ..errors import NothingThatOld, RequestError, StowageError
from ..image import index
from ..restore import choose, recent, request, sleeping
from ..settings import Settings
from ..verify import drill as reckon
from .engine import Engine
from .restoring import HOLDING, images

FILES, SOURCE = "files", "source"
ENTRIES = 5000  # a source of more is not small
SPARE = 3  # paths more than are wanted: an older dump's may be gone
LOOKED_AT = 24  # paths in one index at most: more are looked up line by line
HEADERS = 3072  # what stands before a content at most; of a file with holes 4096 bytes at least are not there


@dataclass(frozen=True)
class Asked:
    """What `stowage drill` was asked. files: of each client, None: as configured. small: so many in all."""

    clients: Sequence[str] = ()
    files: Optional[int] = None
    target: Optional[str] = None
    ring: Any = None
    small: bool = False
    seconds: Optional[float] = None  # None: as long as it takes


@dataclass(frozen=True)
class Pick:
    """What is tried of one source. expected: hex SHA-256 -> path of each content that must come back."""

    place: str
    what: str
    wanted: Any
    files: int = 0
    bytes: int = 0
    entries: int = 0
    expected: Dict[str, bytes] = field(default_factory=dict)

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        whole = self.what == SOURCE
        paths = [self.wanted.root] if whole else [pattern.text for pattern in self.wanted.patterns]
        return {
            "client": self.wanted.client, "source": self.wanted.source, "what": self.what, "place": self.place,
            "dump": self.wanted.dump.id, "files": self.files, "bytes": self.bytes,
            "paths": [text.escape(path) for path in paths],
        }  # fmt: skip


def far_first(settings: Settings, target: Optional[str] = None, dice: Optional[random.Random] = None) -> List[str]:
    """The places a restore may read, the one first that would be left if this server burned down."""
    if target is not None:
        return [target]
    far = [name for name, one in settings.targets.items() if one.remote]
    near = [name for name, one in settings.targets.items() if not one.remote]
    if dice is not None:  # of several that are as far, each has its turn
        dice.shuffle(far)
        dice.shuffle(near)
    return [*far, *near, HOLDING]


def standing(engine: Engine, client: str, places: Sequence[str]) -> Dict[str, Tuple[str, Any]]:
    """source -> (place, request.Wanted): all of it, as of the newest dump that the first of places has whole."""
    found: Dict[str, Tuple[str, Any]] = {}
    own = engine.settings.clients[client].sources
    for place in places:
        if len(found) == len(own):
            break
        try:
            rows = request.resolve(engine.settings, engine.catalog, [f"{client}:/"], None, place)
        except (NothingThatOld, RequestError):
            continue
        for one in rows:
            if one.source in own and not recent.newer_ns(one.dump):  # an interim dump proves nothing of a source
                found.setdefault(one.source, (place, replace(one, without=(), notes=())))
    return found


def estimates(engine: Engine, results: Sequence[Drilled] = ()) -> Dict[str, dict]:
    """client -> what a restore of all of it would take, by what was measured until now."""
    settings, places = engine.settings, far_first(engine.settings)
    speeds = {place: reckon.speed(found) for place, found in _measures(engine, results).items()}
    prices = {name: one.price for name, one in settings.targets.items()}
    found = {}
    for client in _clients(settings):
        loads = [
            reckon.Load(source, place, sum(dump.stored_size for dump in wanted.chain), len(wanted.chain))
            for source, (place, wanted) in sorted(standing(engine, client, places).items())
        ]
        if loads:
            found[client] = reckon.estimate(loads, speeds, prices).as_dict()
    return found


def _measures(engine: Engine, results: Sequence[Drilled]) -> Dict[str, List[reckon.Measure]]:
    found: Dict[str, List[reckon.Measure]] = {}

    def add(place: str, size: Any, seconds: Any) -> None:
        if isinstance(size, int) and isinstance(seconds, (int, float)):
            found.setdefault(place, []).append(reckon.Measure(place, size, seconds))

    for run in engine.catalog.runs(limit=50, kind="restore"):
        read = run.summary.get("read")
        if run.status != "FAIL" and isinstance(read, dict) and len(read) == 1:
            (place,) = read
            add(place, read[place], run.summary.get("seconds"))
    for run in drills.remembered(engine.catalog, clock.now_ns()):
        for one in drills.of_run(run):
            if one.status == PROVEN:
                add(one.place, one.read, one.seconds)
    for one in results:
        if one.status == PROVEN:
            add(one.place, one.read, one.seconds)
    return found


def _clients(settings: Settings) -> List[str]:
    return [one.name for one in settings.clients.values() if one.state != "retired" and one.sources]


class Choice:
    """The picks of one drill. without: clients that no place has a copy of. asleep: copies that were passed over, since
    they sleep in an archive: waking them takes hours and money. Raises RequestError."""

    def __init__(self, engine: Engine, asked: Asked, dice: random.Random):
        self.engine, self.asked, self.dice = engine, asked, dice
        self.settings: Settings = engine.settings
        self.without: List[str] = []
        self.asleep: List[str] = []
        self._known: set = set()  # places whose speed is known
        for name in asked.clients:
            engine.client(name)
        if asked.target not in (None, HOLDING):
            engine.target_name(asked.target)
        self._count = self.settings.drill.files if asked.files is None else asked.files
        if not 1 <= self._count <= 1000:
            raise RequestError("--files is a number from 1 to 1000", "stowage drill --help")

    def picks(self) -> Iterator[Pick]:
        """What is tried, client after client; chosen when it is asked for."""
        names = [name for name in _clients(self.settings) if not self.asked.clients or name in self.asked.clients]
        past = [one for run in drills.remembered(self.engine.catalog, clock.now_ns()) for one in drills.of_run(run)]
        last = reckon.last_tries(past)
        self._known = {one.place for one in past if one.status == PROVEN and one.read >= reckon.BIG}
        if not self.asked.small:
            for name in reckon.turns(names, last, len(names), self.dice):
                yield from self._of_client(name, self._count, True)
            return
        waiting = reckon.turns(names, last, len(names), self.dice)
        chosen: List[Tuple[str, Any]] = []
        for name in waiting:  # those without any copy do not use up the turns
            if len(chosen) == self._count:
                break
            there = self._standing(name)
            if there:
                chosen.append((name, there))
        whole = self.dice.randrange(len(chosen)) if chosen else -1
        for number, (name, there) in enumerate(chosen):
            count = self._count // len(chosen) + (number < self._count % len(chosen))
            yield from self._of_client(name, count, number == whole, there)

    def _standing(self, client: str) -> Dict[str, Tuple[str, Any]]:
        places = far_first(self.settings, self.asked.target, self.dice)
        found = standing(self.engine, client, places)
        slept, many = {}, len(self.asleep)
        while True:
            slept = {name: one for name, one in found.items() if self._sleeps(*one)}
            if not slept:
                break
            self.asleep += [f"{client}:{name} on {place}" for name, (place, _wanted) in sorted(slept.items())]
            # of these the next place has its turn
            places = [place for place in places if place not in {place for place, _wanted in slept.values()}]
            other = standing(self.engine, client, places)
            found = {name: other.get(name) if name in slept else one for name, one in found.items()}
            found = {name: one for name, one in found.items() if one is not None}
        if not found and len(self.asleep) == many:
            self.without.append(client)
        return found

    def _sleeps(self, place: str, wanted: Any) -> bool:
        try:
            return sleeping.any_of(images(self.engine, place, self.asked.ring), wanted)
        except StowageError:
            return False  # found when it is tried

    def _of_client(self, client: str, count: int, whole: bool, there: Any = None) -> Iterator[Pick]:
        """So many files of a client, and one of its small sources."""
        there = there or self._standing(client)
        left = sorted(there)
        if whole:
            small = [name for name in left if self._is_small(there[name][1])]
            if small:
                name = self.dice.choice(small)
                yield from self._pick_source(*there[name])
                left = [other for other in left if other != name]
        if left:
            for name, share in sorted(Counter(self.dice.choices(left, k=count)).items()):
                yield from self._pick_files(*there[name], share)

    def _is_small(self, wanted: Any) -> bool:
        dumps = wanted.chain
        size, entries = sum(one.archive_size for one in dumps), sum(one.entries for one in dumps)
        return size <= self.settings.drill.size // 2 and entries <= ENTRIES

    def _pick_source(self, place: str, wanted: Any) -> Iterator[Pick]:
        try:
            yield self._pick(place, SOURCE, wanted)
        except StowageError as error:
            yield self._broken(place, SOURCE, wanted, error)

    def _pick_files(self, place: str, wanted: Any, count: int) -> Iterator[Pick]:
        try:
            found = self._some_files(place, wanted, count)
            if found:
                yield _pick_of(place, FILES, replace(wanted, patterns=_patterns(wanted, found)), found.values())
            elif self._is_small(wanted):
                yield self._pick(place, SOURCE, wanted)
        except StowageError as error:
            yield self._broken(place, FILES, wanted, error)

    def _broken(self, place: str, what: str, wanted: Any, error: StowageError) -> Pick:
        # found when it is tried: the index cannot be had
        return Pick(place, what, replace(wanted, patterns=wanted.patterns[:1]))

    def _some_files(self, place: str, wanted: Any, count: int) -> Dict[bytes, index.Entry]:
        """Files of the view by their path, drawn by lot from all dumps of the chain.

        How fast a place is shows only what is large: of one that was not measured yet more is read, the largest first.
        """
        readable = images(self.engine, place, self.asked.ring)
        limit = max(1 << 16, self.settings.drill.size // 2 // self._count)
        numbers = reckon.lines({dump.id: dump.entries for dump in wanted.chain}, count * 16, self.dice)
        paths: Dict[bytes, int] = {}
        for dump in wanted.chain:
            for line in _lines_at(readable.chunks(dump), numbers.get(dump.id, [])):
                entry = index.parse(line)
                if entry.kind == "f" and 0 < entry.size <= limit:
                    paths[entry.path] = entry.size
        drawn = sorted(paths)
        self.dice.shuffle(drawn)
        spare = count + SPARE
        if place not in self._known and sum(dump.stored_size for dump in wanted.chain) >= reckon.BIG:
            spare = count = max(LOOKED_AT, count)
            drawn.sort(key=lambda path: paths[path], reverse=True)
            drawn = drawn[:1] + self.dice.sample(drawn[1:], max(0, len(drawn) - 1))
        drawn = drawn[:spare]
        if not drawn:
            return {}
        selection = choose.Selection(readable, replace(wanted, patterns=_patterns(wanted, drawn)))
        try:
            rows = {row.entry.path: row.entry for row in selection.rows()}
        finally:
            selection.close()
        found: Dict[bytes, index.Entry] = {}
        for path in drawn:
            entry = rows.get(path)  # not there any more, or something else now
            fits = entry is not None and entry.kind == "f" and sum(one.size for one in found.values()) <= limit * count
            if fits and entry.size <= limit and len(found) < count:
                found[path] = entry
        return found

    def _pick(self, place: str, what: str, wanted: Any) -> Pick:
        """A pick with what must come back, by the index. Raises what a restore would raise."""
        selection = choose.Selection(images(self.engine, place, self.asked.ring), wanted)
        try:
            return _pick_of(place, what, wanted, (row.entry for row in selection.rows()))
        finally:
            selection.close()

def _patterns(wanted: Any, paths: Iterable[bytes]) -> Tuple[request.Pattern, ...]:
    """Exactly these paths of the index, whatever signs are in them."""
    return tuple(request.Pattern(wanted.absolute(path), path, path) for path in paths)


def _pick_of(place: str, what: str, wanted: Any, rows: Iterable[index.Entry]) -> Pick:
    """What must come back of these entries."""
    expected: Dict[str, bytes] = {}
    count = size = entries = 0
    for entry in rows:
        if entry.kind in "-n":
            continue
        entries += 1
        count += entry.kind in "fh"
        if entry.kind == "f":
            size += entry.size
            whole = 0 <= entry.length - entry.size <= HEADERS
            if entry.size and entry.sha256 is not None and whole:
                expected[entry.sha256.hex()] = wanted.absolute(entry.path)
    return Pick(place, what, wanted, count, size, entries, expected)


def _lines_at(chunks: Iterator[bytes], numbers: Sequence[int]) -> Iterator[bytes]:
    """The lines of an index with these numbers, ascending."""
    wanted, at = list(numbers), 0
    for chunk in chunks:
        if not wanted:
            return
        count = chunk.count(b"\n")
        if wanted[0] < at + count:
            lines = chunk[:-1].split(b"\n")
            while wanted and wanted[0] < at + count:
                yield lines[wanted.pop(0) - at]
        at += count

"""All histories of a server, below <state>/search: brought up to date, opened, cleaned.

    search/<client>/<source>[.<segment>]/<8 hex digits of the root's SHA-256>.history
    search/lock                                    held by who updates

Here live what is missing, what is dead, and the order of an update. It is a cache: every history can be removed at any
time and is made again from the indexes. A dump that is in no history is never silently left out: open_all() names it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Collection, Iterable, Iterator, NamedTuple, Sequence

from .. import files
from ..errors import KeyLocked, KeyMissing, StowageError
from . import compact, forked, merge
from .history import History, HistoryDamaged, Writer
from .lineage import Lineage, Member

VERSION = 1
TOGETHER = 32  # incrementals that go into a history in one pass
DEAD = 8  # so many removed dumps, and more of them than of the others, and a history is written anew without them

Chunks = Callable[[Any], Iterable[bytes]]  # a dump's row -> the lines of its index in chunks of whole lines


class Key(NamedTuple):
    """What has one history: a source, as long as its root stays."""

    client: str
    source: str
    segment: str
    root: str


@dataclass
class Updated:
    """What an update did. failed: (dump, why). closed: those of them that are sealed and that no key opens, or whose
    base is. busy: another process is at it, nothing was done."""

    dumps: int = 0
    entries: int = 0
    removed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)
    busy: bool = False

    def fail(self, row: Any, error: StowageError | None) -> None:
        """This one did not go in; error: why, None: since its base did not."""
        told = f"its base {row.base} could not be searched" if error is None else error.message
        self.failed.append((row.id, told))
        if row.base in self.closed if error is None else isinstance(error, (KeyMissing, KeyLocked)):
            self.closed.add(row.id)

    def count(self, rows: Sequence[Any]) -> None:
        """These went in."""
        self.dumps += len(rows)
        self.entries += sum(row.entries for row in rows)

    def add(self, other: Updated) -> None:
        """What another part of the update did."""
        self.dumps += other.dumps
        self.entries += other.entries
        self.failed += other.failed
        self.closed |= other.closed


@dataclass
class Opened:
    """A history to be searched. live: numbers of its dumps that the catalog has, oldest first."""

    key: Key
    history: History
    lineage: Lineage
    live: list[int]

    @property
    def root(self) -> bytes:
        """The path of the source on its client."""
        return os.fsencode(self.key.root).rstrip(b"/") or b"/"


def folder(state: Path) -> Path:
    """Where all histories are."""
    return Path(state) / "search"


def place(state: Path, key: Key) -> Path:
    """The file of a history."""
    name = f"{key.source}.{key.segment}" if key.segment else key.source
    digest = hashlib.sha256(os.fsencode(key.root)).hexdigest()[:8]
    return folder(state) / key.client / name / f"{digest}.history"


def by_key(dumps: Iterable[Any]) -> dict[Key, list[Any]]:
    """Rows of the catalog by history, each list in the order of the counters."""
    found: dict[Key, list[Any]] = {}
    for row in dumps:
        found.setdefault(Key(row.client, row.source, row.segment, row.path), []).append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row.counter)
    return found


def read(state: Path, key: Key) -> tuple[History, Lineage] | None:
    """The history of a key, None when there is none that can be used. Close it."""
    return _read(place(state, key), key)


def _read(path: Path, key: Key) -> tuple[History, Lineage] | None:
    try:
        history = History(path)
    except (FileNotFoundError, NotADirectoryError, HistoryDamaged, PermissionError):
        return None
    try:
        head = history.head
        if head["version"] == VERSION and head["key"] == list(key):
            return history, Lineage.read(head["dumps"])
    except (KeyError, TypeError, ValueError, IndexError):
        pass
    os.close(history.fd)
    return None


def missing(state: Path, dumps: Iterable[Any]) -> list[Any]:
    """The rows of dumps that no history has."""
    found = []
    for key, rows in by_key(dumps).items():
        opened = read(state, key)
        if opened is None:
            found += rows
            continue
        with opened[0]:
            found += [row for row in rows if row.id not in opened[1].numbers]
    return found


def open_all(state: Path, dumps: Iterable[Any]) -> tuple[list[Opened], list[Any]]:
    """The histories of dumps, and the rows of the dumps that are in none."""
    found, absent = [], []
    for key, rows in sorted(by_key(dumps).items()):
        opened = read(state, key)
        if opened is None:
            absent += rows
            continue
        history, lineage = opened
        absent += [row for row in rows if row.id not in lineage.numbers]
        found.append(Opened(key, history, lineage, lineage.live([row.id for row in rows])))
    return found, absent


def _own(state: Path, *paths: Path) -> None:
    """What root makes belongs to whom the state folder belongs: the night may run as somebody else."""
    if os.geteuid() == 0:
        owner = files.owner_of_state(state)
        for path in paths:
            os.chown(path, *owner, follow_symlinks=False)


@contextlib.contextmanager
def lock(state: Path, wait: bool) -> Iterator[bool]:
    """Held while histories are written; gives whether it could be had."""
    files.make_folder(folder(state))
    fd = os.open(folder(state) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    _own(state, folder(state), folder(state) / "lock")
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


def update(
    state: Path, dumps: Iterable[Any], chunks: Chunks, wait: bool = True, clean: bool = True, processes: int = 1
) -> Updated:
    """Brings the histories up to date with dumps: all rows of the catalog, or (clean False) some sources' rows.

    A dump whose index cannot be read is named in failed, and those that build on it; the others are done.
    processes: so many histories at once, chunks() is then called in forked processes. Raises OSError when nothing can
    be written.
    """
    done = Updated()
    with lock(state, wait) as mine:
        if not mine:
            done.busy = True
            return done
        keys = by_key(dumps)
        work = [(state, key, keys[key], chunks) for key in sorted(keys)]
        if processes == 1 or len(work) == 1:
            for one in work:
                done.add(_update_one(*one))
        else:
            _WORK[:] = work
            with contextlib.closing(forked.each(_numbered, zip(range(len(work))), processes)) as parts:
                for part in parts:
                    done.add(part)
            _WORK.clear()
        if clean:
            done.removed = _clean(state, {place(state, key) for key in keys})
    return done


_WORK: list[tuple] = []  # of this update, for the processes that are forked


def _numbered(number: int) -> Updated:
    return _update_one(*_WORK[number])


def _update_one(state: Path, key: Key, rows: Sequence[Any], chunks: Chunks) -> Updated:
    try:
        return _fill(_Build(state, key), rows, chunks)
    except HistoryDamaged:
        # found out in the middle: made again from the indexes
        place(state, key).unlink(missing_ok=True)
        return _fill(_Build(state, key), rows, chunks)


def _fill(build: _Build, rows: Sequence[Any], chunks: Chunks) -> Updated:
    done = Updated()
    absent = [row for row in rows if row.id not in build.lineage.numbers]
    try:
        for step in _steps(absent, build.lineage, done):
            try:
                build.add(step, chunks)
                done.count(step)
                continue
            except HistoryDamaged:
                raise
            except StowageError as error:
                if len(step) == 1:
                    done.fail(step[0], error)
                    continue
            for row in step:  # one of several is bad: the others are done alone
                if row.base not in build.lineage.numbers:
                    done.fail(row, None)
                    continue
                try:
                    build.add([row], chunks)
                    done.count([row])
                except HistoryDamaged:
                    raise
                except StowageError as error:
                    done.fail(row, error)
        live = {row.id for row in rows}
        dead = sum(member.id not in live for member in build.lineage.members)
        if dead >= DEAD and dead > len(live):
            build.compact(live)
        build.publish()
    finally:
        build.discard()
    return done


def _steps(absent: Sequence[Any], lineage: Lineage, done: Updated) -> Iterator[list[Any]]:
    """What goes in together: a full alone, incrementals one after the other."""
    known = set(lineage.numbers)
    step: list[Any] = []
    for row in absent:
        if row.base is not None:
            bad = {name for name, _why in done.failed}
            if row.base not in known or row.base in bad:
                done.fail(row, None)
                continue
        if step and (row.base is None or len(step) == TOGETHER):
            yield step
            step = []
            if row.base in {name for name, _why in done.failed}:
                done.fail(row, None)
                continue
        known.add(row.id)
        if row.base is None:
            yield [row]
        else:
            step.append(row)
    if step:
        yield step


class _Build:
    """A history on its way: each step is a new file beside it, the last one takes its place, synced."""

    def __init__(self, state: Path, key: Key):
        self.state, self.path, self.key = state, place(state, key), key
        self.lineage = Lineage()
        self._count = 0
        self._now: Path | None = None
        opened = _read(self.path, key)
        if opened is not None:
            os.close(opened[0].fd)
            self._now, self.lineage = self.path, opened[1]

    def _next(self) -> Path:
        self._count += 1
        return self.path.with_name(f"{self.path.name}.{self._count}.tmp")

    def _step(self, lineage: Lineage, write: Callable[[Writer, History | None], None]) -> None:
        old = History(self._now) if self._now is not None else None
        writer = Writer(self._next())
        try:
            write(writer, old)
            writer.finish({"version": VERSION, "key": list(self.key), "dumps": lineage.as_lists()})
        except BaseException:
            writer.discard()
            raise
        finally:
            if old is not None:
                os.close(old.fd)
        self._forget()
        self._now, self.lineage = writer.path, lineage

    def add(self, rows: Sequence[Any], chunks: Chunks) -> None:
        """A full, or some incrementals. Raises StowageError when an index cannot be read; then nothing has changed."""
        lineage = Lineage(self.lineage.members)

        def write(writer: Writer, old: History | None) -> None:
            feeds = []
            for row in rows:
                reference = len(lineage.members) - 1 if row.base is None else lineage.numbers[row.base]
                number = lineage.add(Member(row.id, reference, row.level, row.counter, row.begun_ns))
                feeds.append(merge.Feed(number, lineage.way(reference), row.base is None, chunks(row)))
            if old is None:
                merge.begin(writer, feeds[0])
            else:
                merge.update(writer, old, feeds)

        self._step(lineage, write)

    def compact(self, live: Collection[str]) -> None:
        """Drops what only dead dumps had."""
        lineage = compact.lineage(self.lineage, live)
        self._step(lineage, lambda writer, old: compact.rewrite(writer, old, self.lineage, lineage))

    def publish(self) -> None:
        """Puts the last step in its place."""
        if self._now in (None, self.path):
            return
        fd = os.open(self._now, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        _own(self.state, self._now, self.path.parent, self.path.parent.parent)
        # the folder is not synced: after a power cut the old history may be there again, which is only older
        os.replace(self._now, self.path)
        self._now = self.path

    def _forget(self) -> None:
        if self._now not in (None, self.path):
            self._now.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes what was not published."""
        self._forget()
        self._now = None


def _clean(state: Path, wanted: set[Path]) -> int:
    """Removes histories of sources that have no dump any more, and what a kill left."""
    count = 0
    for path in list(folder(state).glob("*/*/*")):
        if path not in wanted:
            path.unlink(missing_ok=True)
            count += path.suffix == ".history"
    for depth in ("*/*", "*"):
        for path in list(folder(state).glob(depth)):
            if path.is_dir():
                try:
                    path.rmdir()
                except OSError:  # something is in it
                    continue
    return count

"""All histories of a server, below <state>/search: brought up to date, opened, cleaned.

    search/<client>/<source>[.<segment>]/<8 hex digits of the root's SHA-256>.history
    search/lock                                    held by who updates

Here live what is missing, what is dead, and the order of an update. It is a cache: every history can be removed at any
time and is made again from the indexes. A dump that is in no history is never silently left out: open_all() names it.
"""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

from .. import files
from ..errors import ImageDamaged, StowageError
from . import merge
from .history import History, Writer
from .lineage import Lineage, Member

VERSION = 1
TOGETHER = 32  # incrementals that go into a history in one pass

Chunks = Callable[[Any], Iterable[bytes]]  # a dump's row -> the lines of its index in chunks of whole lines


class Key(NamedTuple):
    """What has one history: a source, as long as its root stays."""

    client: str
    source: str
    segment: str
    root: str


@dataclass
class Updated:
    """What an update did. failed: (dump, why). busy: another process is at it, nothing was done."""

    dumps: int = 0
    entries: int = 0
    removed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    busy: bool = False

    def add(self, other: Updated) -> None:
        """What another part of the update did."""
        self.dumps += other.dumps
        self.entries += other.entries
        self.failed += other.failed


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
    try:
        history = History(place(state, key))
    except (FileNotFoundError, NotADirectoryError, ImageDamaged, PermissionError):
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


@contextmanager
def lock(state: Path, wait: bool) -> Iterator[bool]:
    """Held while histories are written; gives whether it could be had."""
    files.make_folder(folder(state))
    fd = os.open(folder(state) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
            with multiprocessing.get_context("fork").Pool(processes) as pool:
                for part in pool.imap_unordered(_numbered, range(len(work))):
                    done.add(part)
            _WORK.clear()
        if clean:
            done.removed = _clean(state, {place(state, key) for key in keys})
    return done


_WORK: list[tuple] = []  # of this update, for the processes that are forked


def _numbered(number: int) -> Updated:
    return _update_one(*_WORK[number])


def _update_one(state: Path, key: Key, rows: Sequence[Any], chunks: Chunks) -> Updated:
    done = Updated()
    opened = read(state, key)
    lineage = Lineage()
    if opened is not None:
        os.close(opened[0].fd)
        lineage = opened[1]
    absent = [row for row in rows if row.id not in lineage.numbers]
    for step in _steps(absent, lineage, done):
        try:
            _pass(state, key, step, chunks)
            failed: Sequence[Any] = ()
        except StowageError as error:
            failed = step
            if len(step) == 1:
                done.failed.append((step[0].id, error.message))
                continue
        for row in failed:  # one of several is bad: the others are done alone
            known = read(state, key)
            if known is None:
                break
            os.close(known[0].fd)
            if row.base not in known[1].numbers:
                done.failed.append((row.id, f"its base {row.base} could not be searched"))
                continue
            try:
                _pass(state, key, [row], chunks)
            except StowageError as error:
                done.failed.append((row.id, error.message))
        bad = {name for name, _why in done.failed}
        good = [row for row in step if row.id not in bad]
        done.dumps += len(good)
        done.entries += sum(row.entries for row in good)
    return done


def _steps(absent: Sequence[Any], lineage: Lineage, done: Updated) -> Iterator[list[Any]]:
    """What goes in together: a full alone, incrementals one after the other."""
    known = set(lineage.numbers)
    step: list[Any] = []
    for row in absent:
        if row.base is not None:
            bad = {name for name, _why in done.failed}
            if row.base not in known or row.base in bad:
                done.failed.append((row.id, f"its base {row.base} could not be searched"))
                continue
        if step and (row.base is None or len(step) == TOGETHER):
            yield step
            step = []
            if row.base in {name for name, _why in done.failed}:
                done.failed.append((row.id, f"its base {row.base} could not be searched"))
                continue
        known.add(row.id)
        if row.base is None:
            yield [row]
        else:
            step.append(row)
    if step:
        yield step


def _pass(state: Path, key: Key, rows: Sequence[Any], chunks: Chunks) -> None:
    """One new file with rows more."""
    opened = read(state, key)
    old, lineage = opened if opened else (None, Lineage())
    try:
        writer = Writer(place(state, key))
        try:
            feeds = []
            for row in rows:
                reference = len(lineage.members) - 1 if row.base is None else lineage.numbers[row.base]
                number = lineage.add(Member(row.id, reference, row.level, row.counter, row.begun_ns))
                feeds.append(merge.Feed(number, lineage.way(reference), row.base is None, chunks(row)))
            if old is None:
                merge.begin(writer, feeds[0])
            else:
                merge.update(writer, old, feeds)
            writer.finish({"version": VERSION, "key": list(key), "dumps": lineage.as_lists()})
        except BaseException:
            writer.discard()
            raise
    finally:
        if old is not None:
            os.close(old.fd)


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

"""Holding images that may go: only what is verified on the targets it is wanted on, and not the newest ones.

Here live the decision and the removal, in an order that a kill cannot turn against the image: the catalog forgets
the place first, then the folder moves out of the way in one step, then it is removed. Not here: retention on targets.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from .. import files
from ..catalog import aside, reading, units
from ..catalog.records import DumpRow
from ..catalog.store import Catalog
from ..errors import StowageError
from ..image import layout
from ..settings import Settings, Source
from .wanted import Wishes, source_of

# Below a holding disk's .incoming, which belongs to nobody while the run lock is held: the next sweep clears it.
TRASH = ".incoming/gone"
AT_ONCE = 100  # images that leave by the same steps


@dataclass(frozen=True)
class Released:
    """dumps: names of the dumps whose image left the holding disk. problems: what could not be removed, and why."""

    dumps: Tuple[str, ...]
    problems: Tuple[str, ...] = ()


def may_go(settings: Settings, catalog: Catalog) -> List[DumpRow]:
    """The dumps whose holding image is not needed any more, oldest first.

    A dump that is wanted nowhere stays: its image is all there is. min_copies says how many of the copies that are
    wanted are enough, else all of them; the rest is made from those. The newest keep_on_holding images of each source,
    or segment of one, stay whatever their copies are, but not what segments have followed; a damaged dump stays for a
    person to look at.
    """
    wishes = Wishes(settings, catalog)
    every = wishes.dumps
    followed = {
        (*key, segment)
        for key, of_one in units.by_source(every).items()
        for segment in units.retired(units.newest_of(of_one))
    }
    newer: Dict[Tuple[str, str, str], int] = {}
    found = []
    for dump in sorted(every, key=lambda dump: dump.counter, reverse=True):
        if dump.holding is None:
            continue
        unit = (dump.client, dump.source, dump.segment)
        newer[unit] = newer.get(unit, 0) + 1
        source = source_of(settings, dump)
        keep = 0 if unit in followed else source.policy.keep_on_holding if source else 1
        if newer[unit] > keep and not dump.damaged and _safe(wishes, dump, source):
            found.append(dump)
    return sorted(found, key=lambda dump: (dump.begun_ns, dump.id))


def _safe(wishes: Wishes, dump: DumpRow, source: Optional[Source]) -> bool:
    """Whether so many of the copies that are wanted are verified; all of them, when nobody said how many."""
    return lacks(wishes, dump, source) == 0


def lacks(wishes: Wishes, dump: DumpRow, source: Optional[Source]) -> Optional[int]:
    """How many verified copies more this image needs before it may go; None: it is wanted nowhere, and stays."""
    wanted = wishes.of(dump)
    if not wanted:
        return None
    verified = sum(wishes.state(dump, target) == "verified" for target in wanted)
    least = source.min_copies if source is not None else None
    return max(0, (len(wanted) if least is None else max(1, min(least, len(wanted)))) - verified)


def release(settings: Settings, catalog: Catalog) -> Released:
    """Removes the images that may go, but not what is being read. Call while the run lock is held."""
    gone: List[str] = []
    problems: List[str] = []
    read = reading.now(settings.state)
    leaving = [dump for dump in may_go(settings, catalog) if dump.id not in read]
    for first in range(0, len(leaving), AT_ONCE):
        _release(settings, catalog, leaving[first : first + AT_ONCE], gone, problems)
    return Released(tuple(gone), tuple(problems))


def _release(
    settings: Settings, catalog: Catalog, leaving: Sequence[DumpRow], gone: List[str], problems: List[str]
) -> None:
    """Each step is made for all of them before the next: catalog and disk are waited for once, not once for each."""
    ready = []
    for dump in leaving:
        disk = _disk(settings, dump, Path(dump.holding or ""))
        if disk is not None and disk.is_dir() and not (disk / aside.OWNER).is_file():
            continue  # it is not mounted, which the run has said: what lies on it is not forgotten
        with _telling(dump, problems):
            ready.append((dump, *_way(settings, dump)))
    if not ready:
        return
    try:
        first, *also = (dump.id for dump, _folder, _trash in ready)
        catalog.set_holding(first, None, also)
    except StowageError as error:
        problems.append(error.message)
        return
    moved = []
    for dump, folder, trash in ready:
        with _telling(dump, problems):
            if _move(folder, trash):
                moved.append((dump, folder, trash))
            else:
                gone.append(dump.id)
    unsynced = set()
    for parent in dict.fromkeys(place.parent for _dump, *places in moved for place in places):
        try:
            files.sync_folder(parent)
        except OSError as error:
            problems.append(f"{parent} cannot be written: {error.strerror}")
            unsynced.add(parent)
    for dump, folder, trash in moved:
        if unsynced & {folder.parent, trash.parent}:
            continue  # the next sweep's
        with _telling(dump, problems):
            _clear(folder, trash)
            gone.append(dump.id)


@contextlib.contextmanager
def _telling(dump: DumpRow, problems: List[str]) -> Iterator[None]:
    try:
        yield
    except StowageError as error:
        problems.append(error.message)
    except OSError as error:
        problems.append(f"{dump.holding} cannot be removed: {error.strerror}")


def remove(settings: Settings, catalog: Catalog, dump: DumpRow) -> None:
    """Removes a holding image. Raises StowageError, OSError."""
    folder, trash = _way(settings, dump)
    catalog.set_holding(dump.id, None)
    if _move(folder, trash):
        files.sync_folder(folder.parent)
        files.sync_folder(trash.parent)
        _clear(folder, trash)


def _way(settings: Settings, dump: DumpRow) -> Tuple[Path, Path]:
    """Where the image lies, and where to it goes first. Raises StowageError, OSError."""
    folder = Path(dump.holding or "")
    disk = _disk(settings, dump, folder)
    if disk is None:
        raise StowageError(f"{folder} is on no configured holding disk: it is left there")
    if not disk.is_dir() or folder.is_symlink():
        raise StowageError(f"{folder} is not there: is the holding disk mounted?")
    trash = disk / TRASH / dump.id
    _make(trash.parent)
    return folder, trash


def _move(folder: Path, trash: Path) -> bool:
    """Moves it out of the way; False when it is not there."""
    if not folder.is_dir():
        return False
    _make(trash.parent)  # what ends beside this may have taken it for empty
    if trash.exists():
        shutil.rmtree(trash)
    os.rename(folder, trash)
    return True


def _clear(folder: Path, trash: Path) -> None:
    (trash / layout.MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(trash)
    for empty in (folder.parent, folder.parent.parent, trash.parent):
        try:
            empty.rmdir()
        except OSError:
            continue


def _make(folder: Path) -> None:
    # a dump that ends removes what is empty there, between two steps of ours
    for attempt in range(20):
        try:
            files.make_folder(folder)
            return
        except FileNotFoundError:
            if attempt == 19:
                raise


def _disk(settings: Settings, dump: DumpRow, folder: Path) -> Optional[Path]:
    """The holding disk that folder lies on, exactly where a dump of that name lies; None when on none."""
    below = layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)
    for disk in settings.holding:
        if folder == disk.path / below:
            return disk.path
    return None

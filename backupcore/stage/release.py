"""Holding images that may go: only what is verified on all targets it is wanted on, and not the newest ones.

Here live the decision and the removal, in an order that a kill cannot turn against the image: the catalog forgets
the place first, then the folder moves out of the way in one step, then it is removed. Not here: retention on targets.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from .. import files
from ..catalog import units
from ..catalog.records import CopyRow, DumpRow
from ..catalog.store import Catalog
from ..errors import StowageError
from ..image import layout
from ..settings import Settings
from .wanted import copies_by_dump, policy_of, wanted_of

# Below a holding disk's .incoming, which belongs to nobody while the run lock is held: the next sweep clears it.
TRASH = ".incoming/gone"


@dataclass(frozen=True)
class Released:
    """dumps: names of the dumps whose image left the holding disk. problems: what could not be removed, and why."""

    dumps: Tuple[str, ...]
    problems: Tuple[str, ...] = ()


def may_go(settings: Settings, catalog: Catalog) -> List[DumpRow]:
    """The dumps whose holding image is not needed any more, oldest first.

    A source of which no copies are wanted keeps all its images. The newest keep_on_holding images of each source, or
    segment of one, stay whatever their copies are, but not what segments have followed; a damaged dump stays for a
    person to look at.
    """
    rows = copies_by_dump(catalog)
    every = catalog.dumps()
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
        source = (dump.client, dump.source, dump.segment)
        newer[source] = newer.get(source, 0) + 1
        policy = policy_of(settings, dump)
        keep = 0 if source in followed else policy.keep_on_holding if policy else 1
        if newer[source] > keep and not dump.damaged and _safe(settings, dump, rows.get(dump.id, {})):
            found.append(dump)
    return sorted(found, key=lambda dump: (dump.begun_ns, dump.id))


def _safe(settings: Settings, dump: DumpRow, rows: Dict[str, CopyRow]) -> bool:
    wanted = wanted_of(settings, dump, list(rows.values()))
    return bool(wanted) and all(target in rows and rows[target].state == "verified" for target in wanted)


def release(settings: Settings, catalog: Catalog) -> Released:
    """Removes the images that may go. Call while the run lock is held."""
    gone, problems = [], []
    for dump in may_go(settings, catalog):
        try:
            _remove(settings, catalog, dump)
            gone.append(dump.id)
        except StowageError as error:
            problems.append(error.message)
        except OSError as error:
            problems.append(f"{dump.holding} cannot be removed: {error.strerror}")
    return Released(tuple(gone), tuple(problems))


def _remove(settings: Settings, catalog: Catalog, dump: DumpRow) -> None:
    folder = Path(dump.holding or "")
    disk = _disk(settings, dump, folder)
    if disk is None:
        raise StowageError(f"{folder} is on no configured holding disk: it is left there")
    if not disk.is_dir() or folder.is_symlink():
        raise StowageError(f"{folder} is not there: is the holding disk mounted?")
    trash = disk / TRASH / dump.id
    files.make_folder(trash.parent)
    catalog.set_holding(dump.id, None)
    if not folder.is_dir():
        return
    if trash.exists():
        shutil.rmtree(trash)
    os.rename(folder, trash)
    files.sync_folder(folder.parent)
    files.sync_folder(trash.parent)
    (trash / layout.MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(trash)
    for empty in (folder.parent, folder.parent.parent, trash.parent):
        try:
            empty.rmdir()
        except OSError:
            continue


def _disk(settings: Settings, dump: DumpRow, folder: Path) -> Optional[Path]:
    """The holding disk that folder lies on, exactly where a dump of that name lies; None when on none."""
    below = layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)
    for disk in settings.holding:
        if folder == disk.path / below:
            return disk.path
    return None

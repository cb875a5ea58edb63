"""Damaged images on the holding disk: put aside, so that nobody takes them for good, and kept until there is a new one.

    <holding>/.damaged/<client>/<source>/<dump>/

Here live the steps, in an order that a kill cannot turn against the image, and what tells a disk that is not mounted
from an image that is gone. Call what changes something while the run lock is held.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, Optional

from .. import files
from ..errors import StowageError
from ..image import layout
from ..settings import Settings
from .records import HOLDING, CopyRow, DumpRow

DAMAGED = ".damaged"
OWNER = ".stowage"  # on each holding disk: the id of the server that it belongs to


def disk_of(settings: Settings, dump: DumpRow, folder: Optional[str]) -> Optional[Path]:
    """The holding disk on which folder is where a dump of that name lies; None when on none that is configured."""
    below = layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)
    for disk in settings.holding:
        if folder is not None and Path(folder) == disk.path / below:
            return disk.path
    return None


def is_here(disk: Path, server: str) -> bool:
    """Whether the disk is mounted: its marker says whose it is. The bare mount point has none."""
    try:
        return (disk / OWNER).read_text("ascii", "replace").strip() == server
    except OSError:
        return False


def aside_of(settings: Settings, dump: DumpRow, row: Optional[CopyRow]) -> Optional[Path]:
    """Where the damaged image was put; None when there is none."""
    folder = (row.upload or {}).get("folder") if row is not None else None
    disk = disk_of(settings, dump, folder)
    place = _place(disk, dump) if disk is not None else None
    return place if place is not None and place.is_dir() else None


def put_aside(settings: Settings, catalog: Any, dump: DumpRow, why: str) -> None:
    """The image on the holding disk is damaged or gone: it counts for nothing from now on. Another copy is good."""
    disk = disk_of(settings, dump, dump.holding)
    if disk is None:
        raise StowageError(f"{dump.holding} is on no configured holding disk: it is left there")
    # first the note, then the step out of the way, then the catalog: a kill in between leaves it damaged or missing
    note_damage(catalog, dump, why)
    place, folder = _place(disk, dump), Path(dump.holding or "")
    if folder.is_dir() and not folder.is_symlink():
        files.make_folder(place.parent)
        if place.exists():
            shutil.rmtree(place)
        os.rename(folder, place)
        files.sync_folder(folder.parent)
        files.sync_folder(place.parent)
        for empty in (folder.parent, folder.parent.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()
    catalog.set_holding(dump.id, None)


def note_damage(catalog: Any, dump: DumpRow, why: str) -> None:
    """A row among the copies says that the holding image is damaged."""
    upload = {"folder": dump.holding}
    catalog.put_copy(CopyRow(dump.id, HOLDING, "damaged", upload, dump.stored_size, error=why))


def forget(settings: Settings, catalog: Any, dump: DumpRow, row: Optional[CopyRow]) -> None:
    """Removes what was put aside, and the row that says so: there is a good image, or none is needed."""
    place = aside_of(settings, dump, row)
    if place is not None:
        (place / layout.MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(place)
        for empty in (place.parent, place.parent.parent, place.parent.parent.parent):
            with contextlib.suppress(OSError):
                empty.rmdir()
    catalog.remove_copy(dump.id, HOLDING)


def _place(disk: Path, dump: DumpRow) -> Path:
    return disk / DAMAGED / layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)

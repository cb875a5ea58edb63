"""The state of a dump that is not there any more, made again from the indexes of its chain.

After a rebuild no dump has its state, and a state may rot: with the indexes at hand the next dump is an incremental
all the same. Here live which indexes, the steps that put the file in its place for good, and the row; the merge is
fold.py. Made when a dump needs it, not by a rebuild: most dumps of a catalog are nobody's base.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, List, Mapping, Optional, Sequence

from .. import files
from ..catalog import places
from ..catalog.records import DumpRow
from ..errors import ImageDamaged
from ..image import _zstd
from ..image import codec as codecs
from ..settings import Settings
from . import fold, statefile
from .accept import SPARE

if TYPE_CHECKING:  # loading the database takes a while: whoever has a catalog has loaded it
    from ..catalog.store import Catalog

STEP = 1 << 20


def indexes(settings: Settings, row: DumpRow, by_id: Mapping[str, DumpRow]) -> Optional[List[Path]]:
    """The indexes of a dump's chain, the full's first; None when one is not on this server."""
    found: List[Path] = []
    link: Optional[DumpRow] = row
    while link is not None and len(found) < 10:  # a chain has ten levels at most
        path = places.find_index(settings.state, link.client, link.source, link.id, link.segment)
        if path is None:
            return None
        found.append(path)
        if link.base is None:
            return found[::-1] if link.level == 0 else None
        link = by_id.get(link.base)
    return None


def remake(settings: Settings, catalog: Catalog, chain: Sequence[DumpRow]) -> Path:
    """Makes the state of the last dump of a chain, the full first, in its place. Raises ImageDamaged, OSError."""
    base = chain[-1]
    paths = indexes(settings, base, {row.id: row for row in chain})
    if paths is None:
        raise ImageDamaged(f"the state of {base.id} is missing, and so is an index of its chain")
    # a sweep clears what a killed run left there; the name is no dump's
    work = places.pending_folder(settings.state) / base.client / f"remake-{secrets.token_hex(4)}"
    files.make_folder(work)
    try:
        temporary = work / "state"
        with _NewState(temporary) as file:
            counts = fold.fold([_Text(path) for path in paths], work, file.add)
            for row, path, found in zip(chain, paths, counts):
                if found.entries != row.entries:
                    raise ImageDamaged(f"{path} has {found.entries} lines, its dump {row.entries}")
            file.end()
        folder = places.state_folder(settings.state, base.client, base.source, base.segment)
        files.make_folder(folder)
        place = folder / f"{base.id}.state"
        os.rename(temporary, place)
        files.sync_folder(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    catalog.keep_state(base.id, place.name)
    catalog.set_files({row.id: found.files for row, found in zip(chain, counts) if row.files <= 0})
    return place


class _Text:
    """The text of an index file, as often as it is asked for."""

    def __init__(self, path: Path):
        self._path = path
        self._codec = codecs.get("zstd" if path.suffix == ".zst" else "gzip" if path.suffix == ".gz" else "none")

    def __call__(self) -> Iterator[bytes]:
        with open(self._path, "rb") as file:
            yield from self._codec.unpack(iter(lambda: file.read(STEP), b""))


class _NewState:
    """A file of state that is written here."""

    def __init__(self, path: Path):
        self._path = path
        self._codec = codecs.get("zstd" if _zstd.library() else "gzip")
        self._hasher = hashlib.sha256()

    def __enter__(self) -> _NewState:
        self._fd = files.create(self._path)
        self._write(statefile.MAGIC)
        return self

    def __exit__(self, *_exc: Any) -> None:
        os.close(self._fd)

    def _write(self, data: bytes) -> None:
        self._hasher.update(data)
        files.write_all(self._fd, data)

    def add(self, blocks: bytes) -> None:
        """Takes blocks as one payload. Raises OSError, also when the disk of the catalog would be full."""
        disk = os.fstatvfs(self._fd)
        if disk.f_bavail * disk.f_frsize < SPARE + len(blocks):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self._path))
        payload = self._codec.compress(blocks)
        self._write(statefile.head(payload))
        self._write(payload)

    def end(self) -> None:
        """Ends and syncs it."""
        self._write(statefile.END)
        files.write_all(self._fd, self._hasher.digest())
        os.fsync(self._fd)

"""Where a copy is made from: the holding disk, else another target's copy.

Here live the places that a dump can be copied from, nearest first, and how a file of one gets where it can be sent:
from the holding disk as it lies, from a target by way of a file on the holding disk, and no further unless its bytes
are those that were signed. Which copies are due is wanted.py, the way to the target copy.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Protocol

from .. import files
from ..catalog.records import HOLDING, DumpRow
from ..errors import HoldingFull, ImageDamaged, StowageError, TargetRefused
from ..hookspecs import TargetError
from ..image import layout, recipients
from ..image.folder import check_folder, key_files, read_small
from ..image.manifest import SIZE_LIMIT, Manifest, digest, open_manifest
from ..image.signing import LENGTH
from ..text import size

SPOOL = ".incoming/copies"  # below a holding disk: nobody's while the run lock is held, so a sweep clears it
MakeRoom = Callable[[Mapping[Path, int]], bool]


class Rooms(Protocol):
    """Where room on the holding disks is taken from, by dumps and by what passes through (dump.space.Space)."""

    def borrow(self, count: int, disk: Optional[Path] = None) -> Optional[Any]:
        """Room for count bytes, at once or not at all, with .disk.path, .take(count) and .close(); disk: there."""
        ...

    def lacks(self, count: int) -> Dict[Path, int]:
        """Disk -> bytes that it lacks for borrow(count)."""
        ...


class Item(NamedTuple):
    """A file to copy."""

    name: str
    size: int
    sha256: str


class OriginDamaged(ImageDamaged):
    """What a copy was to be made from is not what its manifest says. origin: a target's name, or HOLDING."""

    origin = HOLDING


def items_of(manifest: Manifest, content: bytes, signature: bytes, restore: int, keys: Mapping[str, bytes], sums: int,
             dump: DumpRow) -> List[Item]:  # fmt: skip
    """All files of a dump, manifest.json last. restore, sums: sizes of RESTORE.txt and SHA256SUMS."""
    items = [Item(record.name, record.size, record.sha256) for record in manifest.all_files()]
    items.append(Item(layout.SUMS, sums, manifest.sums_sha256))
    items.append(Item(layout.RESTORE, restore, manifest.restore_sha256))
    if manifest.seal:
        # not signed: the bytes of the copy it is made from are all there is to go by
        items += [Item(name, len(text), digest(text)) for name, text in keys.items()]
    items.append(Item(layout.SIGNATURE, len(signature), digest(signature)))
    items.append(Item(layout.MANIFEST, len(content), dump.manifest_sha256))
    return items


class FromHolding:
    """The image on the holding disk. parts: False: they are at the target already, only the other files lie there."""

    name = HOLDING

    def __init__(self, dump: DumpRow, public_keys: Mapping[str, bytes], parts: bool = True):
        self.dump, self.public_keys, self.parts = dump, public_keys, parts
        self.folder = Path(dump.holding or "")

    def items(self) -> List[Item]:
        """The files to copy, once the folder is what the catalog and its manifest say. Raises OriginDamaged."""
        if not self.folder.is_dir():
            hint = "is the holding disk mounted? then: stowage stage; else: stowage verify --target holding"
            raise StowageError(f"the image is not on the holding disk: {self.folder}", hint)
        try:
            manifest = check_folder(self.folder, self.public_keys, parts=self.parts)
            content = read_small(self.folder / layout.MANIFEST, SIZE_LIMIT)
            signature = read_small(self.folder / layout.SIGNATURE, LENGTH)
            keys = {name: read_small(self.folder / name, recipients.SIZE_LIMIT) for name in key_files(self.folder)}
            restore, sums = ((self.folder / name).stat().st_size for name in (layout.RESTORE, layout.SUMS))
        except ImageDamaged as error:
            raise self.damaged(error.message) from None
        except OSError as error:
            raise self.damaged(f"{self.folder}: {error.strerror}") from None
        if digest(content) != self.dump.manifest_sha256 or manifest.prefix != prefix_of(self.dump):
            raise self.damaged(f"{self.folder} is another dump than the catalog knows")
        return items_of(manifest, content, signature, restore, keys, sums, self.dump)

    @contextlib.contextmanager
    def file(self, item: Item) -> Iterator[Path]:
        """Where the file lies; its bytes are checked by whoever sends them, once."""
        yield self.folder / item.name

    def wrong(self, item: Item) -> OriginDamaged:
        """What to raise when the file turned out to be another."""
        return self.damaged(f"{self.folder}: {item.name} is damaged: its SHA-256 is not what the manifest says")

    def damaged(self, message: str) -> OriginDamaged:
        """An error that names this origin."""
        return OriginDamaged(message, _again(self.dump))


class FromCopy:
    """A copy at another target, or a damaged image whose good files are of use. open_copy(): it, as of image.copies,
    when it is first used. rooms: None: there is no way by a holding disk. make_room: as relief.Relief.room."""

    def __init__(self, dump: DumpRow, name: str, open_copy: Callable[[], Any], public_keys: Mapping[str, bytes],
                 rooms: Optional[Rooms], make_room: MakeRoom):  # fmt: skip
        self.dump, self.name, self._open, self.public_keys = dump, name, open_copy, public_keys
        self.rooms, self.make_room = rooms, make_room

    @cached_property
    def copy(self) -> Any:
        """Raises StowageError when the place is away."""
        try:
            return self._open()
        except TargetError as error:
            raise TargetRefused.of(self.name, error) from None

    def items(self) -> List[Item]:
        """As FromHolding.items(). Raises TargetRefused, too."""
        copy = self.copy
        try:
            content = copy.small(layout.MANIFEST, SIZE_LIMIT)
            signature = copy.small(layout.SIGNATURE, LENGTH)
            if digest(content) != self.dump.manifest_sha256:
                raise ImageDamaged(f"{layout.MANIFEST} is not the one that the catalog knows")
            manifest = open_manifest(content, signature, self.public_keys)
            sums, restore = (len(copy.small(name, SIZE_LIMIT)) for name in (layout.SUMS, layout.RESTORE))
            keys: Dict[str, bytes] = {}
            if manifest.seal:
                numbered = sorted((layout.parse_keys_name(name) or 0, name) for name in copy.sizes())
                keys = {name: copy.small(name, recipients.SIZE_LIMIT) for number, name in numbered if number}
                there = {line.file for line in recipients.read_keys(keys.values())}
                if {record.name for record in manifest.all_files()} - there:
                    raise ImageDamaged(f"{layout.keys_name()} lacks keys")
        except ImageDamaged as error:
            raise self.damaged(error.message) from None
        if manifest.prefix != prefix_of(self.dump):
            raise self.damaged(f"this is the dump {manifest.prefix}")
        return items_of(manifest, content, signature, restore, keys, sums, self.dump)

    @contextlib.contextmanager
    def file(self, item: Item) -> Iterator[Path]:
        """A file on the holding disk with the bytes of the item, which are checked. Raises OriginDamaged."""
        room = self._room(item.size)
        try:
            folder = room.disk.path / SPOOL / f"{self.dump.id}-{secrets.token_hex(4)}"
            _make(folder)
            path = folder / item.name
            try:
                self.fetch(item, path)
                room.take(item.size)
                yield path
            finally:
                path.unlink(missing_ok=True)
                for empty in (folder, folder.parent):
                    with contextlib.suppress(OSError):
                        empty.rmdir()
        finally:
            room.close()

    def fetch(self, item: Item, path: Path) -> None:
        """Writes the item's bytes to a new file at path, synced. Raises OriginDamaged, TargetRefused, HoldingFull."""
        found = hashlib.sha256()
        try:
            fd = files.create(path)
            try:
                for piece in self.copy.pieces(item.name, 0, item.size):
                    found.update(piece)
                    files.write_all(fd, piece)
                os.fsync(fd)
            finally:
                os.close(fd)
        except ImageDamaged as error:
            raise self.damaged(error.message) from None
        except OSError as error:
            raise HoldingFull(f"{path} cannot be written: {error.strerror}", "make room on the holding disk") from None
        if found.hexdigest() != item.sha256:
            raise self.wrong(item)

    def wrong(self, item: Item) -> OriginDamaged:
        """What to raise when the file turned out to be another."""
        return self.damaged(f"{item.name} is not what was signed")

    def damaged(self, message: str) -> OriginDamaged:
        """An error that names this origin."""
        error = OriginDamaged(
            f"the copy of {self.dump.id} on {self.name} is damaged: {message}", _again(self.dump)
        )
        error.origin = self.name
        return error

    def _room(self, count: int) -> Any:
        """Room on a holding disk for so many bytes; images that may go leave for it. Raises HoldingFull."""
        while self.rooms is not None:
            room = self.rooms.borrow(count)
            if room is not None:
                return room
            lacks = self.rooms.lacks(count)
            # what nobody lacks is kept for a dump that waits for it
            if not any(missing > 0 for missing in lacks.values()) or not self.make_room(lacks):
                break
        told = f"no holding disk has room for {size(count)} on their way from {self.name}"
        raise HoldingFull(told, "make room on one, or raise holding: use")


def _make(folder: Path) -> None:
    """The folder, though another copy that ends may just remove the one above, which it found empty."""
    for _try in range(100):
        try:
            files.make_folder(folder)
            return
        except FileNotFoundError:
            continue
    raise HoldingFull(f"{folder} cannot be made", "look at the holding disk")


def _again(dump: DumpRow) -> str:
    return f"stowage run --client {dump.client} --source {dump.source} --level 0"


def prefix_of(dump: DumpRow) -> str:
    """The dump's folder below a holding disk or target."""
    return layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)

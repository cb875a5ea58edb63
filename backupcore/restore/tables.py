"""Frame tables of images: a small one in memory, of a large one the server's copy, which is searched in its file.

Here live looking for that copy, and making it when there is none: the table is then read once, as a stream. What a
table says is image.frames; that the file is the one of the manifest was checked by who calls.

The copy lies beside the index, in the clear like that: numbers and digests, no name and no byte of content. It is bound
to the table by the digest that the signed manifest has of it, and each of its records has a check: a copy that was
swapped, cut or rotted is not used. The frames themselves are checked all the same.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Union

from .. import files
from ..errors import ImageDamaged
from ..image import frames
from ..image.manifest import Manifest

Table = Union[frames.Table, frames.Copy, "Kept"]
SPARE = 64 << 20  # bytes that a copy leaves free on the disk of the catalog
STEP = 1 << 20


class Kept:
    """A frame table by its copy; when that proves to be damaged, by what again() gives, and the copy is removed."""

    def __init__(self, copy: frames.Copy, path: Path, again: Callable[[], Table]):
        self._table: Any = copy
        self._path, self._again = path, again

    def _mend(self) -> None:
        forget(self._path)
        self._table = self._again()

    @property
    def archive_size(self) -> int:
        """Bytes of the archive."""
        try:
            return self._table.archive_size
        except frames.CopyDamaged:
            self._mend()
            return self._table.archive_size

    def cover(self, offset: int, length: int) -> Iterator[frames.Frame]:
        """The frames that hold length bytes of the archive from offset. Raises ImageDamaged when none do."""
        end, mended = offset + length, False
        while True:
            try:
                for frame in self._table.cover(offset, end - offset):
                    yield frame
                    offset = min(end, frame.offset + frame.length)
                return
            except frames.CopyDamaged:
                if mended:
                    raise
                self._mend()
                mended = True


def kept(path: Path | None, manifest: Manifest) -> frames.Copy | None:
    """The copy at path when it is that of this image's table; a damaged one is removed."""
    if path is None:
        return None
    try:
        file = open(path, "rb")  # noqa: SIM115 - the copy reads on in it
    except OSError:
        return None
    try:
        copy = frames.Copy(file, bytes.fromhex(manifest.frames.sha256))
        last = copy[len(copy) - 1]
        if manifest.parts and copy.archive_size == manifest.archive_size and (last.part, last.place + last.stored) == (
            len(manifest.parts) - 1, manifest.parts[-1].size,
        ):  # fmt: skip
            return copy
    except ImageDamaged:
        pass
    file.close()
    forget(path)
    return None


def forget(path: Path | None) -> None:
    """Removes a copy that is not right."""
    if path is not None:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            pass  # where nothing can be removed nothing can be written: it is passed over the next time, too


def table_of(path: Path | None, manifest: Manifest, chunks: Callable[[], Iterable[bytes]]) -> Table:
    """The table that chunks() gives the text of, maybe twice; a large one is put at path. Raises ImageDamaged."""
    found = _checked(frames.read(chunks()), manifest)
    first = list(itertools.islice(found, frames.SMALL + 1))
    if len(first) <= frames.SMALL:
        return frames.Table(first)
    if path is not None:
        try:
            return _keep(path, manifest, itertools.chain(first, found))
        except (OSError, struct.error):
            pass  # no room, or nothing may be written here: then it takes memory
    return frames.Table(_checked(frames.read(chunks()), manifest))


def _keep(path: Path, manifest: Manifest, found: Iterable[frames.Frame]) -> frames.Copy:
    files.make_folder(path.parent)
    temporary = Path(files.temporary_of(path))
    digest = bytes.fromhex(manifest.frames.sha256)
    try:
        with open(files.create(temporary), "wb") as file:
            count, buffer = 0, bytearray()
            for frame in found:
                buffer += frames.record(frame)
                count += 1
                if len(buffer) >= STEP:
                    disk = os.fstatvfs(file.fileno())
                    if disk.f_bavail * disk.f_frsize < SPARE:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    file.write(buffer)
                    del buffer[:]
            file.write(bytes(buffer) + frames.trailer(count, digest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        files.sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return frames.Copy(open(path, "rb"), digest)  # noqa: SIM115 - the copy reads on in it


def _checked(found: Iterator[frames.Frame], manifest: Manifest) -> Iterator[frames.Frame]:
    """The frames, which must fill the parts of the image. Raises ImageDamaged."""
    part, end, size = -1, 0, 0
    fits = True
    for frame in found:
        if frame.part != part:
            fits = fits and (part < 0 or part < len(manifest.parts) and manifest.parts[part].size == end)
            part = frame.part
        end, size = frame.place + frame.stored, frame.offset + frame.length
        yield frame
    fits = fits and part == len(manifest.parts) - 1 and (part < 0 or manifest.parts[part].size == end)
    if not fits or size != manifest.archive_size:
        raise ImageDamaged(f"{manifest.frames.name} does not fit the parts of the image")

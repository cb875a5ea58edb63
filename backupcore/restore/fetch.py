"""Bytes of images, checked before use: from the holding disk, else from the nearest target, else from the next.

Here lives ImageReader (manifest, frame table and frames of one dump); all dumps together are images.py.
Nothing is used unchecked: the manifest by its signature and by the catalog's digest, the
frame table and the index by the manifest (of a sealed dump also by their MAC), a frame by the frame table: its
SHA-256, or of a sealed dump its MAC, before a byte of it is opened. What one place has lost or broken is read from
the next, and noted. Where a dump lies is places.py, how its keys are had filekeys.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

from .. import files
from ..catalog.records import DumpRow
from ..errors import ImageDamaged, KeyLocked, KeyMissing, StillAsleep, StowageError, TargetRefused
from ..image import frames, layout, manifest, recipients, seal
from . import indexes, tables
from .filekeys import FileKeys
from .places import Place, PlaceFailed
from .report import DumpUse

GAP = 256 << 10  # neighbours this near are read as one
RANGE = 16 << 20  # at most this much in one request
STEP = 1 << 20
AHEAD_LIMIT = 4 << 20  # of one that is read before the manifest says how large it is


@dataclass(frozen=True)
class Group:
    """Frames of one part that are read by one request: from `start`, `length` bytes."""

    part: int
    start: int
    length: int
    frames: tuple[frames.Frame, ...]


def join(wanted: Iterable[frames.Frame]) -> list[Group]:
    """Few requests for frames in ascending order: neighbours no more than GAP apart are joined up to RANGE."""
    found: list[list[frames.Frame]] = []
    for frame in wanted:
        last = found[-1] if found else None
        if (
            last
            and last[-1].part == frame.part
            and 0 <= frame.place - (last[-1].place + last[-1].stored) <= GAP
            and frame.place + frame.stored - last[0].place <= RANGE
        ):
            last.append(frame)
        else:
            found.append([frame])
    return [
        Group(row[0].part, row[0].place, row[-1].place + row[-1].stored - row[0].place, tuple(row)) for row in found
    ]


class ImageReader:
    """One dump's image, read from the first of places that has it whole.

    note(message) is told what a place has lost or broken. broken: something of it is right at no place, though
    every place answered. Thread-safe.
    """

    def __init__(
        self, dump: DumpRow, places: Sequence[Place], public_keys: Mapping[str, bytes], note: Callable[[str], None],
        ring: Any, copy: Path | None = None,
    ):  # fmt: skip
        self.dump = dump
        self._copy = copy  # where this server keeps its copy of a large frame table
        self.places = list(places)
        self.note = note
        self._keys = public_keys
        self._file_keys = FileKeys(ring)
        self._lock = threading.RLock()
        self._manifest: manifest.Manifest | None = None
        self._table: tables.Table | None = None
        self._error: StowageError | None = None
        self._lost: set[str] = set()
        self._sound: set[str] = set()  # places whose manifest is right
        self._asleep: dict[tuple[str, str], PlaceFailed] = {}  # (place, file) that sleeps in an archive there
        self._ahead: dict[tuple[str, str], bytes] = {}  # small files that were asked for before they were needed
        self.broken = False

    @property
    def name(self) -> str:
        """The dump as people name it."""
        return f"{self.dump.client}:{self.dump.source} {self.dump.id}"

    def manifest(self) -> manifest.Manifest:
        """The manifest, signed by a known key and the one the catalog knows. Raises ImageDamaged or TargetRefused."""
        self._open(False)
        return self._manifest

    def table(self) -> tables.Table:
        """The frame table that the manifest vouches for.

        Raises ImageDamaged or TargetRefused; KeyMissing or KeyLocked when the dump is sealed and no key opens it.
        """
        self._open()
        return self._table

    def _open(self, table: bool = True) -> None:
        with self._lock:
            if self._error:
                raise self._error
            if self._table is not None or self._manifest is not None and not table:
                return
            errors = []
            for place in self._good():
                try:
                    if place.name not in self._sound:
                        self._manifest = self._read_manifest(place)
                        self._sound.add(place.name)
                    if table:
                        self._table = self._read_table(place)
                    return
                except (ImageDamaged, TargetRefused) as error:
                    errors.append(error)
                    self._lose(place, error)
                except (KeyMissing, KeyLocked) as error:
                    self._error = error  # the copies may be whole: nothing is lost
                    raise self._named(error) from None
            self._error = self._nowhere(errors)
            raise self._error

    def place(self) -> str:
        """The name of the place that is read first. Raises as manifest() does."""
        self._open(False)
        return self._good()[0].name

    def _nowhere(self, errors: Sequence[StowageError]) -> StowageError:
        named = {"client": self.dump.client, "source": self.dump.source}
        if not self.places:
            return TargetRefused(f"no copy of {self.name} is known where it may be read from", **named)
        asleep = any(getattr(error, "asleep", False) for error in errors)
        there = asleep or any(getattr(error, "away", False) for error in errors)
        self.broken = self.broken or not there and bool(errors)
        cls = ImageDamaged if any(isinstance(error, ImageDamaged) for error in errors) else TargetRefused
        cls = StillAsleep if asleep else cls  # what sleeps may be whole
        told = "; ".join(dict.fromkeys(error.message for error in errors)) or "every copy failed before"
        return cls(f"{self.name} cannot be read: {told}", errors[-1].hint if errors else "", **named)

    def _lose(self, place: Place, error: StowageError) -> None:
        with self._lock:
            self._lost.add(place.name)
        self.note(f"{self.dump.id} on {place.name}: {error.message}")

    def _named(self, error: StowageError) -> StowageError:
        error.client, error.source = error.client or self.dump.client, error.source or self.dump.source
        return error

    def _read_manifest(self, place: Place) -> manifest.Manifest:
        # small files that lie side by side: asked for at once, since a bucket answers slowly
        sealed = self._file_keys.expected
        table = layout.frames_name(self.dump.codec) + (layout.SEALED if sealed else "")
        with ThreadPoolExecutor(4) as pool:
            asked = [
                pool.submit(place.read_small, layout.MANIFEST, manifest.SIZE_LIMIT),
                pool.submit(place.read_small, layout.SIGNATURE, 1024),
            ]
            more = {}
            if self._copy is None or not self._copy.exists():
                more[table] = pool.submit(place.read_small, table, AHEAD_LIMIT)
            if sealed:
                more[layout.keys_name()] = pool.submit(place.read_small, layout.keys_name(), recipients.SIZE_LIMIT)
            data, signature = (one.result() for one in asked)
            for name, one in more.items():
                with contextlib.suppress(StowageError):  # whether they are needed is known when the manifest is
                    self._ahead[place.name, name] = one.result()
        keys = self._ahead.pop((place.name, layout.keys_name()), None)
        if keys is not None:
            self._file_keys.keep(place, layout.keys_name(), keys)
        try:
            found = manifest.open_manifest(data, signature, self._keys)
        except ImageDamaged as error:
            raise ImageDamaged(f"{layout.MANIFEST}: {error.message}", error.hint) from None
        if hashlib.sha256(data).hexdigest() != self.dump.manifest_sha256:
            raise ImageDamaged(f"{layout.MANIFEST} is signed, but not the one the catalog knows")
        row = self.dump
        mine = row.client, row.source, row.segment, row.id
        if (found.client, found.source, found.segment or "", found.dump) != mine:
            raise ImageDamaged(f"{layout.MANIFEST} is that of {found.client}:{found.source} {found.dump}")
        return found

    def _read_table(self, place: Place) -> tables.Table:
        found = self._manifest
        record = found.frames
        opener = self._opener(seal.FRAMES, place=place)  # also for a copy: who cannot open the dump hears it now
        copy = tables.kept(self._copy, found) if self._copy is not None else None
        if copy is not None:
            return tables.Kept(copy, self._copy, self._table_again)
        data = self._ahead.pop((place.name, record.name), None)
        if data is not None:
            return self._table_of(opener, lambda: [data])
        with tempfile.TemporaryFile() as file:
            for piece in place.pieces(record.name, 0, record.size):
                file.write(piece)

            def pieces() -> Iterator[bytes]:
                file.seek(0)
                yield from iter(lambda: file.read(STEP), b"")

            return self._table_of(opener, pieces)

    def _table_again(self) -> tables.Table:
        """The table read once more: the copy at hand was damaged."""
        self.note(f"the copy of the frame table of {self.dump.id} was damaged and is made again")
        with self._lock:
            self._table = None
        return self.table()

    def _table_of(self, opener: seal.Opener | None, pieces: Callable[[], Iterable[bytes]]) -> tables.Table:
        """The table of which pieces() gives the stored bytes, as often as it is asked. Raises ImageDamaged."""
        found = self._manifest
        digest, length = hashlib.sha256(), 0
        for piece in pieces():
            digest.update(piece)
            length += len(piece)
        _check(found.frames, digest.hexdigest(), length)
        if opener is not None:
            _check_table(opener, found, found.frames, digest.digest())
        packer = indexes.codec_of(layout.frames_name(found.codec))

        def chunks() -> Iterable[bytes]:
            if opener is None:
                return packer.unpack(pieces())
            stream = opener.stream()
            return packer.unpack(stream.update(piece) for piece in pieces())

        return tables.table_of(self._copy, found, chunks)

    def _opener(self, kind: bytes, part: int = 0, place: Place | None = None) -> seal.Opener | None:
        """What opens a file of the image; None when it is not sealed. Raises as table() does."""
        places = [place] if place else []
        places += [one for one in self._good() if one is not place]
        return self._file_keys.opener(self._manifest, places, kind, part)

    def check_index(self, path: Path) -> bool:
        """Whether the index file at path, which is in the clear, is that of this image. Raises as table() does."""
        found = self.manifest()
        digest = hashlib.sha256()
        opener = self._opener(seal.INDEX)
        cipher = opener.stream() if opener else None
        try:
            with open(path, "rb") as file:
                for piece in iter(lambda: file.read(1 << 20), b""):
                    # sealed once more it must be what the manifest has the digest of
                    digest.update(cipher.update(piece) if cipher else piece)
        except OSError:
            return False
        return digest.hexdigest() == found.index.sha256

    def fetch_index(self, path: Path) -> None:
        """Puts the index of this image at path, checked and in the clear. Raises as table() does."""
        record = self.manifest().index
        opener = self._opener(seal.INDEX)
        errors = []
        for place in self._good():
            files.make_folder(path.parent)
            temporary = Path(files.temporary_of(path))
            try:
                fd = files.create(temporary)
                try:
                    digest, length = hashlib.sha256(), 0
                    cipher = opener.stream() if opener else None
                    for piece in place.pieces(record.name, 0, record.size):
                        digest.update(piece)
                        length += len(piece)
                        files.write_all(fd, cipher.update(piece) if cipher else piece)
                    _check(record, digest.hexdigest(), length)
                    if opener:
                        _check_table(opener, self._manifest, record, digest.digest())
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.replace(temporary, path)
                files.sync_folder(path.parent)
                return
            except (ImageDamaged, TargetRefused) as error:
                errors.append(error)
                self.note(f"{self.dump.id} on {place.name}: {error.message}")
            except OSError as error:
                raise TargetRefused(f"{path} cannot be written: {error.strerror}") from None
            finally:
                temporary.unlink(missing_ok=True)
        raise self._nowhere(errors)

    def _good(self) -> list[Place]:
        with self._lock:
            return [place for place in self.places if place.name not in self._lost]

    def read(self, group: Group) -> dict[int, bytes | StowageError]:
        """The checked and opened stored bytes of each frame of group by its number, or why it cannot be had."""
        found: dict[int, bytes | StowageError] = {}
        errors: list[StowageError] = []
        wanted: Sequence[frames.Frame] = group.frames
        try:
            opener = self._opener(seal.PART, group.part)
        except StowageError as error:
            keys = isinstance(error, (KeyMissing, KeyLocked))
            error = self._named(error) if keys else self._nowhere([error])
            return dict.fromkeys((frame.number for frame in wanted), error)
        for place in self._good():
            for piece in [group] if len(wanted) == len(group.frames) else join(wanted):
                found.update(self._read(place, piece, opener, errors))
            wanted = [frame for frame in wanted if frame.number not in found]
            if not wanted:
                return found
        error = self._nowhere(errors)
        found.update((frame.number, error) for frame in wanted)
        return found

    def _read(
        self, place: Place, group: Group, opener: seal.Opener | None, errors: list[StowageError]
    ) -> dict[int, bytes]:
        """The frames of group that are right at place; what is wrong with the others is noted."""
        name = self._manifest.parts[group.part].name
        if (place.name, name) in self._asleep:  # asked once: the next place may have it awake
            errors.append(self._asleep[place.name, name])
            return {}
        try:
            data = memoryview(place.read(name, group.start, group.length))
        except PlaceFailed as error:
            if error.asleep:
                self._asleep[place.name, name] = error
                errors.append(error)
                return {}
            if len(group.frames) > 1 and not error.away:
                # a part that is cut: what it still has is good
                found = {}
                for frame in group.frames:
                    alone = Group(frame.part, frame.place, frame.stored, (frame,))
                    found.update(self._read(place, alone, opener, errors))
                return found
            errors.append(error)
            if error.away:
                self._lose(place, error)
            else:
                self.note(f"{self.dump.id} on {place.name}: {error.message}")
            return {}
        found = {}
        for frame in group.frames:
            start = frame.place - group.start
            stored = _opened(opener, frame, data[start : start + frame.stored])
            if stored is not None:
                found[frame.number] = stored
                continue
            damage = ImageDamaged(f"frame {frame.number} in {name} is damaged")
            errors.append(damage)
            self.note(f"{self.dump.id} on {place.name}: {damage.message}")
        return found

    def uses(self) -> list[DumpUse]:
        """What was read of this dump so far, and from where."""
        row = self.dump
        return [
            DumpUse(row.id, row.client, row.source, row.level, row.begun_ns, place.name, place.bytes)
            for place in self.places
            if place.bytes
        ]


def _opened(opener: seal.Opener | None, frame: frames.Frame, stored: memoryview) -> Any:
    """The stored bytes of a frame in the clear; None when they are not those of the frame table."""
    if len(stored) != frame.stored:
        return None
    if opener is None:
        return stored if hashlib.sha256(stored).digest() == frame.digest else None
    try:
        return opener.frame(frame.number, frame.place, stored, bool(frame.flags & frames.LAST), frame.digest)
    except ImageDamaged:
        return None


def _check_table(opener: seal.Opener, found: manifest.Manifest, record: manifest.FileRecord, digest: bytes) -> None:
    mac = bytes.fromhex(found.seal["macs"][record.name])
    try:
        opener.check_table(record.size, digest, mac)
    except ImageDamaged:
        raise ImageDamaged(f"{record.name} is not what was sealed") from None


def _check(record: manifest.FileRecord, digest: str, size: int) -> None:
    if (size, digest) != (record.size, record.sha256):
        raise ImageDamaged(f"{record.name} is not what the manifest says")

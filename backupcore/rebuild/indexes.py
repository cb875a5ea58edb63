"""The indexes of the dumps of a target, fetched many at once, opened when they are sealed and a key is at hand.

Here lives their way to <state>/index; of what stands in them only the regular files are counted, since no manifest
tells how many a dump holds. An index that cannot be had now is
no failure: whoever needs it fetches it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Tuple

from .. import files
from ..catalog import places
from ..errors import ImageDamaged, KeyLocked, KeyMissing, StowageError, TargetRefused
from ..hookspecs import Target, TargetError
from ..image import codec, layout
from ..image.manifest import Manifest
from ..image.seal import INDEX, Opener
from .scan import WORKERS

LISTED = 1000  # dumps whose names are kept for who asks for all
BATCH = 200  # numbers in one transaction of the catalog
SPARE = 256 << 20  # bytes that indexes leave free on the disk of the catalog


@dataclass
class Indexes:
    """What became of them. there: were on this server already. closed: sealed, and no key opens them.
    failed: (dump, why), the first of them."""

    fetched: int = 0
    there: int = 0
    closed: int = 0
    failed: int = 0
    bytes: int = 0
    files: Dict[str, int] = field(default_factory=dict)  # dump -> regular files, until they are told
    why_closed: str = ""
    closed_dumps: List[str] = field(default_factory=list)
    failures: List[Tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict:
        """JSON-ready."""
        return {
            "fetched": self.fetched, "there": self.there, "closed": self.closed, "failed": self.failed,
            "bytes": self.bytes, "why_closed": self.why_closed,
            "closed_dumps": self.closed_dumps,
            "failures": [{"dump": dump, "message": why} for dump, why in self.failures],
        }  # fmt: skip


def bring(
    state: Path, target: Target, manifests: Iterator[Manifest], keys: Any, told: Callable[[int], None],
    counted: Callable[[Dict[str, int]], None],
) -> Indexes:  # fmt: skip
    """Brings the index of each dump that this server has none of. keys: a KeyRing, or None. counted(dump -> files)."""
    found = Indexes()
    work = places.rebuild_folder(state)
    files.make_folder(work)
    waiting: Deque[Tuple[Manifest, "Future[Tuple[int, int]]"]] = deque()
    with ThreadPoolExecutor(WORKERS, "index") as pool:
        try:
            for manifest in manifests:
                if places.find_index(state, manifest.client, manifest.source, manifest.dump, manifest.segment or ""):
                    found.there += 1
                    continue
                waiting.append((manifest, pool.submit(_bring, state, work, target, manifest, keys)))
                if len(waiting) >= 4 * WORKERS:
                    _note(found, *waiting.popleft(), told)
                if len(found.files) >= BATCH:
                    counted(found.files)
                    found.files = {}
            while waiting:
                _note(found, *waiting.popleft(), told)
        finally:
            counted(found.files)
            for _manifest, future in waiting:
                future.cancel()
    return found


def _note(
    found: Indexes, manifest: Manifest, future: "Future[Tuple[int, int]]", told: Callable[[int], None]
) -> None:  # fmt: skip
    try:
        size, found.files[manifest.dump] = future.result()
        found.bytes += size
        found.fetched += 1
    except (KeyMissing, KeyLocked) as error:
        found.closed += 1
        found.why_closed = found.why_closed or error.message
        if len(found.closed_dumps) < LISTED:
            found.closed_dumps.append(manifest.dump)
    except StowageError as error:
        found.failed += 1
        if len(found.failures) < LISTED:
            found.failures.append((manifest.dump, error.message))
    told(found.fetched + found.closed + found.failed)


def _bring(state: Path, work: Path, target: Target, manifest: Manifest, keys: Any) -> Tuple[int, int]:
    """(bytes, regular files) of the index."""
    record = manifest.index
    opener = _opener(target, manifest, keys)
    disk = os.statvfs(state)
    if record.size > disk.f_bavail * disk.f_frsize - SPARE:
        raise TargetRefused(f"no room for the index of {manifest.dump} below {state}")
    temporary = work / secrets.token_hex(8)
    try:
        fd = files.create(temporary)
        try:
            digest, length = hashlib.sha256(), 0
            for piece in _pieces(target, f"{manifest.prefix}/{record.name}", record.size):
                digest.update(piece)
                length += len(piece)
                files.write_all(fd, piece)
            if (length, digest.hexdigest()) != (record.size, record.sha256):
                raise ImageDamaged(f"{record.name} is not what the manifest says")
            if opener is not None:
                mac = bytes.fromhex(manifest.sealed.macs[record.name])
                opener.check_table(length, digest.digest(), mac)
                _open(fd, temporary, opener)
            os.fsync(fd)
        finally:
            os.close(fd)
        count = _files(temporary, manifest.codec)
        folder = places.index_folder(state, manifest.client, manifest.source, manifest.segment or "")
        files.make_folder(folder)
        os.rename(temporary, folder / f"{manifest.dump}.tsv{layout.SUFFIXES[manifest.codec]}")
        return record.size, count
    except OSError as error:
        raise TargetRefused(f"the index of {manifest.dump} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _files(path: Path, packer: str) -> int:
    """The regular files of an index, without a look at its lines; 0 when it cannot be unpacked."""
    found, rest = 0, b""
    with open(path, "rb") as file, contextlib.suppress(ImageDamaged):  # it is as signed: who needs it says the rest
        for piece in codec.get(packer).unpack(iter(lambda: file.read(1 << 20), b"")):
            text = rest + piece
            cut = text.rfind(b"\n") + 1
            text, rest = text[:cut], text[cut:]
            # behind the kind stands a mode; behind a link that is just `f`, the digest that such a line has not
            found += text.count(b"\tf\t") - text.count(b"\tf\t-\t")
    return found


def _opener(target: Target, manifest: Manifest, keys: Any) -> Optional[Opener]:
    """What opens the index, None when it is not sealed. Raises KeyMissing, KeyLocked."""
    if manifest.seal is None:
        return None
    if keys is None:
        raise KeyMissing(f"{manifest.prefix} is sealed, and no private key is at hand", "give one by --key FILE")

    def read_small(name: str, limit: int) -> bytes:
        data = b""
        for piece in _pieces(target, f"{manifest.prefix}/{name}", None):
            data += piece
            if len(data) > limit:
                raise ImageDamaged(f"{name} is larger than {limit} bytes")
        return data

    opened = keys.unlock(manifest, read_small, files=[manifest.index.name])
    return Opener(opened[manifest.index.name], manifest.prefix, INDEX)


def _open(fd: int, path: Path, opener: Opener) -> None:
    """Opens a sealed file in its place: byte for byte, so it may be written over while it is read."""
    stream, place = opener.stream(), 0
    with open(path, "rb") as sealed:
        for piece in iter(lambda: sealed.read(1 << 20), b""):
            os.lseek(fd, place, os.SEEK_SET)
            files.write_all(fd, stream.update(piece))
            place += len(piece)


def _pieces(target: Target, name: str, length: Optional[int]) -> Iterator[bytes]:
    try:
        yield from target.read(name, 0, length)
    except TargetError as error:
        raise TargetRefused(error.message, error.hint) from None

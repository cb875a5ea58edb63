"""Renews for whom the keys of a dump are wrapped: one more file of keys beside those that are there.

Here live one dump's places and what is added to them; which dumps and places there are is found in app/. Nothing is
ever changed or removed: it works where objects are locked, and a kill leaves either the file or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Protocol, Sequence, Set, Tuple

from .. import files
from ..errors import ImageDamaged, StowageError, TargetRefused
from ..hookspecs import Target, TargetError
from ..image import layout, recipients
from ..image.folder import read_small
from ..image.manifest import SIZE_LIMIT, Manifest, digest
from ..image.recipients import NOBODY, PASSPHRASE, KeyLine, Recipient
from .ring import KeyRing

MOST_FILES = 100  # of keys in one place; more are no work of ours
_LEFTOVER = re.compile(r"\.keys\.[0-9a-f]{16}\.tmp\Z")


class Place(Protocol):
    """Where a dump lies. name: holding, or a target's."""

    name: str

    def names(self) -> List[str]:
        """The names of its files. Raises StowageError."""
        ...

    def read_small(self, name: str, limit: int) -> bytes:
        """A file. Raises StowageError, also when it is larger than limit."""
        ...

    def add(self, name: str, data: bytes) -> None:
        """A new file, for good. Raises StowageError, also when there is one."""
        ...


class HoldingFolder:
    """A dump's folder on a holding disk."""

    name = "holding"

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def names(self) -> List[str]:
        """The files; what a killed renewal left is removed."""
        try:
            found = os.listdir(self.folder)
            for name in found:
                if _LEFTOVER.match(name):
                    os.unlink(self.folder / name)
        except OSError as error:
            raise StowageError(f"{self.folder}: {error.strerror}", "is the holding disk mounted?") from None
        return found

    def read_small(self, name: str, limit: int) -> bytes:
        """A file of the folder."""
        return read_small(self.folder / name, limit)

    def add(self, name: str, data: bytes) -> None:
        """Written beside, synced, linked in place: never over another one."""
        fresh = self.folder / f".keys.{secrets.token_hex(8)}.tmp"
        try:
            files.write_synced(fresh, data)
            try:
                os.link(fresh, self.folder / name)
            finally:
                os.unlink(fresh)
            files.sync_folder(self.folder)
        except OSError as error:
            raise StowageError(f"{self.folder}/{name}: {error.strerror}") from None


class TargetFolder:
    """A dump's folder on a target. spool: a folder of this server for what is sent."""

    def __init__(self, name: str, target: Target, prefix: str, spool: Path):
        self.name, self.target, self.prefix, self.spool = name, target, prefix, spool

    def names(self) -> List[str]:
        """The files at the target."""
        with self._told():
            return [found.name[len(self.prefix) + 1 :] for found in self.target.list(self.prefix + "/")]

    def read_small(self, name: str, limit: int) -> bytes:
        """A file at the target."""
        found = bytearray()
        with self._told():
            for piece in self.target.read(f"{self.prefix}/{name}"):
                found += piece
                if len(found) > limit:
                    raise ImageDamaged(f"{name} is larger than {limit} bytes")
        return bytes(found)

    def add(self, name: str, data: bytes) -> None:
        """Sent if absent, and read back where the target does not prove what it took."""
        path = self.spool / secrets.token_hex(8)
        sha256 = hashlib.sha256(data).hexdigest()
        files.make_folder(self.spool)
        files.write_synced(path, data)
        try:
            with self._told():
                stored = self.target.put(f"{self.prefix}/{name}", path, if_absent=True, sha256=sha256)
        finally:
            path.unlink(missing_ok=True)
        if not stored.proven and self.read_small(name, len(data)) != data:
            raise TargetRefused(f"target {self.name} gives other bytes of {self.prefix}/{name} than were sent")

    @contextlib.contextmanager
    def _told(self) -> Any:
        try:
            yield
        except TargetError as error:
            raise TargetRefused(f"target {self.name}: {error.message}", error.hint or "stowage check") from None


@dataclass
class Outcome:
    """What became of one dump. added: place -> (the file that was added, its hex SHA-256); failed: place -> why not.
    sealed: there was something to renew at all."""

    sealed: bool = True
    added: Dict[str, Tuple[str, str]] = field(default_factory=dict)
    failed: Dict[str, StowageError] = field(default_factory=dict)


@dataclass
class _Found:
    place: Place
    names: Set[str]
    lines: List[KeyLine]


def rewrap(places: Iterable[Place], manifest_sha256: str, active: Sequence[Recipient], ring: KeyRing) -> Outcome:
    """Wraps the keys of one dump for the active recipients that a place has none for; a place that fails costs only
    that. manifest_sha256: as the catalog knows it."""
    outcome, manifest = Outcome(), None
    found: List[_Found] = []
    for place in places:
        try:
            manifest = manifest or _manifest(place, manifest_sha256)
            if manifest.sealed is None:
                return Outcome(sealed=False)
            found.append(_look(place))
        except StowageError as error:
            outcome.failed[place.name] = error
    if manifest is None or not found:
        return outcome
    seal = manifest.sealed
    everything = [line for one in found for line in one.lines]
    keys: Any = None
    for one in found:
        missing = [who for who in active if not _covers(who, one.lines, seal.commitments)]
        if not missing:
            continue
        try:
            # opened once, and only when something is missing: it may ask for a passphrase
            keys = keys or ring.open(manifest.prefix, seal, everything)
            lines = [line for file in sorted(keys) for line in recipients.key_lines(file, keys[file], missing)]
            name = _free_name(one.names)
            data = b"".join([*lines, *recipients.private_lines(missing)])
            one.place.add(name, data)
            outcome.added[one.place.name] = (name, digest(data))
        except StowageError as error:
            outcome.failed[one.place.name] = error
    return outcome


def _manifest(place: Place, sha256: str) -> Manifest:
    data = place.read_small(layout.MANIFEST, SIZE_LIMIT)
    if digest(data) != sha256:
        raise ImageDamaged(f"{place.name}: manifest.json is not the one that the catalog knows")
    return Manifest.from_bytes(data)


def _look(place: Place) -> _Found:
    names = set(place.names())
    if layout.MANIFEST not in names:
        raise TargetRefused(f"{place.name}: the dump is not there any more", "stowage verify")
    numbers = sorted(number for number in map(layout.parse_keys_name, names) if number)
    texts = [place.read_small(layout.keys_name(number), recipients.SIZE_LIMIT) for number in numbers[:MOST_FILES]]
    return _Found(place, names, recipients.read_keys(texts))


def _covers(who: Recipient, lines: Iterable[KeyLine], wanted: Iterable[str]) -> bool:
    """Whether every file has a line for this recipient. That it opens cannot be seen without the private key."""
    mine = {line.file for line in lines if line.fingerprint == who.fingerprint and line.type == who.type}
    return mine >= set(wanted) and (who.type != PASSPHRASE or NOBODY in mine)


def _free_name(names: Set[str]) -> str:
    for number in range(1, MOST_FILES + 1):
        name = layout.keys_name(number)
        if name not in names:
            return name
    raise StowageError(f"there are {MOST_FILES} files of keys already", "look who wrote them")

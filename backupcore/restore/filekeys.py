"""The keys of one sealed dump's files, unwrapped when they are needed and each only once.

Here lives where the wrapped keys come from (keys.tsv of any place that has the dump) and that an image of thousands
of parts reads them once; private keys and passphrases are keys.ring's business, what a key does image.seal's.
"""

from __future__ import annotations

import threading
from typing import Any, Iterable, Sequence

from ..errors import ImageDamaged, KeyLocked, KeyMissing, StowageError, TargetRefused
from ..image import layout, recipients, seal
from ..image.manifest import Manifest
from .places import Place


class FileKeys:
    """ring: a keys.ring.KeyRing. Thread-safe."""

    def __init__(self, ring: Any):
        self._ring = ring
        self._lock = threading.RLock()
        self._openers: dict[str, seal.Opener] = {}
        self._texts: dict[tuple[str, str], bytes] = {}
        self._lines: dict[str, list[recipients.KeyLine]] = {}
        self._seal: seal.Seal | None = None

    @property
    def expected(self) -> bool:
        """Whether dumps of this server may well be sealed; only a guess, to ask for the right files at once."""
        folder = self._ring.folder / "recipients"
        return bool(self._ring.files) or folder.is_dir() and any(folder.iterdir())

    def keep(self, place: Place, name: str, data: bytes) -> None:
        """A keys.tsv that was read already."""
        self._texts[place.name, name] = data

    def opener(self, manifest: Manifest, places: Iterable[Place], kind: bytes, part: int = 0) -> seal.Opener | None:
        """What opens a file of the dump; None when it is not sealed.

        Raises KeyMissing, KeyLocked; ImageDamaged, TargetRefused when no place has the wrapped key.
        """
        if manifest.seal is None:
            return None
        name = {seal.INDEX: manifest.index, seal.FRAMES: manifest.frames}.get(kind) or manifest.parts[part]
        with self._lock:
            found = self._openers.get(name.name)
            if found is None:
                key = self._known(manifest, name.name) or self._unlock(manifest, list(places), name.name)
                found = self._openers[name.name] = seal.Opener(key, manifest.prefix, kind, part)
            return found

    def _known(self, manifest: Manifest, name: str) -> seal.FileKey | None:
        """The key from what was read for another file."""
        lines = self._lines.get(name)
        if not lines:
            return None
        self._seal = self._seal or manifest.sealed
        try:
            own = self._lines.get(recipients.NOBODY, [])
            return self._ring.open(manifest.prefix, self._seal, lines + own, [name])[name]
        except (KeyMissing, ImageDamaged):
            return None  # a renewed keys.tsv or another place may have it still

    def _unlock(self, manifest: Manifest, places: Sequence[Place], name: str) -> seal.FileKey:
        errors: list[StowageError] = []
        for place in places:
            read: list[bytes] = []

            def read_small(file: str, limit: int, place: Place = place, read: list[bytes] = read) -> bytes:
                data = self._texts.get((place.name, file))
                if data is None:
                    data = self._texts[place.name, file] = place.read_small(file, limit)
                read.append(data)
                return data

            try:
                key = self._ring.unlock(manifest, read_small, [name])[name]
            except KeyLocked:
                raise
            except (KeyMissing, ImageDamaged, TargetRefused) as error:
                errors.append(error)
                continue
            for line in recipients.read_keys(read):
                self._lines.setdefault(line.file, []).append(line)
            return key
        for cls in (KeyMissing, ImageDamaged, StowageError):
            for error in errors:
                if isinstance(error, cls):
                    raise error
        raise TargetRefused(f"{layout.keys_name()} is nowhere")

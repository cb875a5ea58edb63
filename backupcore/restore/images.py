"""All dumps that a restore may read: which is where, and where its index is.

Here lives Images; reading one dump, checked, is fetch.py.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

from .. import text
from ..catalog import places as state_places
from ..catalog.records import DumpRow
from ..errors import ImageDamaged, RequestError
from ..hookspecs import Target
from ..image import layout, manifest
from ..keys import store
from ..settings import Settings
from . import indexes, seek
from .fetch import ImageReader
from .places import HOLDING, HoldingPlace, Place, TargetPlace
from .report import DumpUse

_GOOD_COPIES = ("verified", "done")


class Images:
    """Every dump's image and index, wherever they lie.

    open_target(name) gives an open target, the same at each call. only: None, "holding" or a target's name.
    ring: the keys.ring.KeyRing for sealed dumps; None: what opens without a passphrase on this server.
    """

    def __init__(
        self, settings: Settings, catalog: Any, open_target: Callable[[str], Target], only: str | None = None,
        ring: Any = None,
    ):  # fmt: skip
        if only not in (None, HOLDING) and only not in settings.targets:
            raise RequestError(
                f"unknown target {text.escape(only)!r}", "known: " + ", ".join([HOLDING, *sorted(settings.targets)])
            )
        self.settings = settings
        self.catalog = catalog
        self.only = only
        self.notes: list[str] = []
        self.unsearched: list[dict[str, str]] = []  # records of dumps that a search could not look into
        self.ring = ring or store.private_keys(settings.keys)
        self._open_target = open_target
        self._keys: Mapping[str, bytes] | None = None
        self._readers: dict[str, ImageReader] = {}
        self._checked: set[str] = set()
        self._lock = threading.Lock()

    def note(self, message: str) -> None:
        """Keeps what a person should know, once."""
        with self._lock:
            if message not in self.notes and len(self.notes) < 1000:
                self.notes.append(message)

    def places(self, dump: DumpRow) -> list[Place]:
        """Where dump can be read, nearest first: holding disk, folders, then whatever is far."""
        found: list[Place] = []
        if dump.holding is not None and self.only in (None, HOLDING):
            found.append(HoldingPlace(dump.holding))
        prefix = layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None)
        copies = [
            copy for copy in self.catalog.copies(dump=dump.id)
            if copy.state in _GOOD_COPIES and copy.target in self.settings.targets and self.only in (None, copy.target)
        ]  # fmt: skip
        order = list(self.settings.targets)

        def distance(copy: Any) -> tuple:
            return self.settings.targets[copy.target].remote, _GOOD_COPIES.index(copy.state), order.index(copy.target)

        found += [TargetPlace(copy.target, self._open_target, prefix) for copy in sorted(copies, key=distance)]
        return found

    def reader(self, dump: DumpRow) -> ImageReader:
        """The reader of dump's image; opened when first used."""
        if self._keys is None:
            self._keys = manifest.load_public_keys(self.settings.keys)
        with self._lock:
            known = self._readers.get(dump.id)
        if known is None:
            known = self._readers[dump.id] = ImageReader(
                dump, self.places(dump), self._keys, self.note, self.ring,
                state_places.frames_copy(self.settings.state, dump.client, dump.source, dump.id, dump.segment),
            )  # fmt: skip
        return known

    def index(self, dump: DumpRow) -> Path:
        """The index file of dump on this server; fetched again when it is missing. Raises as ImageReader does."""
        state = self.settings.state
        path = state_places.find_index(state, dump.client, dump.source, dump.id, dump.segment)
        if path is None:
            folder = state_places.index_folder(state, dump.client, dump.source, dump.segment)
            path = folder / f"{dump.id}.tsv{layout.SUFFIXES[dump.codec]}"
            self.reader(dump).fetch_index(path)
            self._checked.add(dump.id)
        return path

    def checked_index(self, dump: DumpRow) -> Path:
        """The index file of dump, the very one its manifest vouches for. Raises as ImageReader does."""
        path = self.index(dump)
        if dump.id not in self._checked:
            reader = self.reader(dump)
            if not reader.check_index(path):
                self.note(f"the index {path} was damaged and is fetched again")
                reader.fetch_index(path)
            self._checked.add(dump.id)
        return path

    def chunks(self, dump: DumpRow, bases: Sequence[bytes] | None = None) -> Iterator[bytes]:
        """The lines of dump's index in chunks; bases: at least those of these paths, of what is below them, and of
        their parents. Raises ImageDamaged."""
        path = self.index(dump)
        try:
            if bases is not None and indexes.ROOT not in bases:
                try:
                    yield from seek.chunks(path, bases)
                    return
                except seek.Unseekable:
                    pass
            yield from indexes.chunks(path)
        except OSError as error:
            raise ImageDamaged(f"the index {path} cannot be read: {error.strerror}") from None

    def mark_broken(self) -> None:
        """Tells the catalog of dumps of which no copy was whole, so that no other dump is based on them."""
        for reader in self._readers.values():
            if reader.broken and self.only is None and not reader.dump.damaged:
                self.catalog.mark_damaged(reader.dump.id)
                self.note(f"{reader.name} has no whole copy: the next dump of the source will be a full")

    def uses(self) -> list[DumpUse]:
        """What was read so far: one record for each dump and place."""
        return [use for reader in self._readers.values() for use in reader.uses()]

    def requests(self) -> int:
        """How many reads that took."""
        return sum(place.requests for reader in self._readers.values() for place in reader.places)

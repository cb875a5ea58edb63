"""One dump's way to one target: its files in order, each proven, manifest.json last.

Here live the order of the uploads, what a resume may skip, and what `verified` means. A dump exists at a
target if and only if its manifest.json does, so that is put last and only if absent. Not here: which copies
are due, and what becomes of errors.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from .. import clock
from ..catalog import locked
from ..catalog.records import CopyRow, DumpRow
from ..catalog.store import Catalog
from ..errors import ImageDamaged, StowageError, TargetRefused
from ..hookspecs import Paused, Stored, Target, TargetError, WrongDigest
from ..image import layout
from ..image.manifest import SIZE_LIMIT, Manifest, digest
from . import pace as pacing
from . import waking
from .origins import Item, OriginDamaged, prefix_of

SAVE_SECONDS = 1.0  # between two notes of how far a copy is


class Copying:
    """The copy of one dump to one target. report(phase, bytes done, bytes in all) may raise to stop it."""

    def __init__(
        self,
        catalog: Catalog,
        dump: DumpRow,
        row: CopyRow,
        target: Target,
        origins: Sequence[Any],
        report: Callable[[str, int, int], None],
        pace: Optional[pacing.Pace] = None,
    ):
        self.catalog, self.dump, self.row, self.target = catalog, dump, row, target
        self.origins, self.report, self.pace = list(origins), report, pace
        self.prefix = prefix_of(dump)
        upload = row.upload if isinstance(row.upload, dict) else {}
        # name -> "<size> <sha256>" of what is there and good; the state of the file that was cut
        self.files: Dict[str, str] = dict(upload.get("files") or {})
        self.current: Dict[str, Any] = dict(upload.get("current") or {})
        # what lies there was this very dump once: whatever of it is another now is put anew
        self.repair = row.state == "damaged" or bool(upload.get("repair"))
        self.asked = upload.get("asked")  # by a person, from that target: no rule has to want it
        self.bad: Dict[str, str] = {}  # origins found damaged on the way, and what is wrong with them
        self.changed = False  # whether anything at the target is other than it was
        self.sizes: Dict[str, int] = {}
        self.there = False
        self.saved = 0.0
        self.unsaved = False  # whether a file came that no note tells of
        self.done = 0
        self.total = 0

    def make(self) -> int:
        """Makes and verifies the copy; returns its bytes. Raises OriginDamaged, TargetRefused, TargetError; Paused when
        its time is over, Sleeping when what it is made from has to be woken: what was sent is used by the next try."""
        try:
            return self._make()
        except BaseException as error:
            if self.unsaved or isinstance(error, (Paused, waking.Sleeping)):
                self._note("copying")
            raise

    def _make(self) -> int:
        *items, manifest = self._items()
        self.total = sum(item.size for item in items) + manifest.size
        self._note("copying")
        self.there = self._refuse_another()
        self.sizes = self._listed() if self.files or self.current or self.there or self.repair else {}
        for item in items:
            self._bring(item)
        self._check_sizes(items)
        if not self.there:
            self._put_manifest(manifest)
            found = self.target.stat(self._at(manifest))
            if found is None or found.size != manifest.size:
                raise TargetRefused(f"target {self.row.target} lost {self._at(manifest)}", "stowage check")
        # with its files: what it costs there is told by them. The next note, not this one, is waited for
        self._note("done", lasting=False, bytes=self.total)
        if self.files.get(manifest.name) != _proof(manifest) and not self._reads_right(manifest):
            # it came under this name by this copy or is the same dump's: without it the next try begins anew
            self._take_away(manifest)
            raise self._other_bytes(manifest)
        keys = {item.name: item.sha256 for item in items if layout.parse_keys_name(item.name)}
        if self.repair:  # files of it were put anew: what was known of their locks is so no more
            locked.forget(self.catalog, self.dump.id, self.row.target)
        # wrapped keys are not signed: what they were is what verify will compare them with
        self._note("verified", bytes=self.total, verified_ns=clock.now_ns(), upload={"keys": keys} if keys else {})
        return self.total

    # -- before

    def _items(self) -> List[Item]:
        """The files to copy, manifest.json last, by the first origin that has them right."""
        error: Optional[StowageError] = None
        for origin in list(self.origins):
            try:
                return origin.items()
            except OriginDamaged as failure:
                self.bad[failure.origin] = failure.message
                error = error or failure
            except StowageError as failure:
                error = waking.worth_more(error, failure, origin)
            del self.origins[0]
        hint = "stowage verify"
        raise error or StowageError(f"no place is known that {self.dump.id} could be copied from", hint)

    def _refuse_another(self) -> bool:
        """Whether this very dump's manifest is there already; another one there is refused, whoever's it is."""
        name = f"{self.prefix}/{layout.MANIFEST}"
        found = self.target.stat(name)
        if found is None:
            return False
        content = self._read_small(name, SIZE_LIMIT)
        if digest(content) == self.dump.manifest_sha256:
            return True
        if self.repair:
            return False
        raise TargetRefused(
            f"target {self.row.target} holds another dump named {self.prefix}{_whose(content)}",
            "give each backup server a prefix of its own",
        )

    def _listed(self) -> Dict[str, int]:
        return {found.name: found.size for found in self.target.list(self.prefix + "/")}

    def _check_sizes(self, items: List[Item]) -> None:
        sizes = self._listed()
        for item in items:
            if sizes.get(self._at(item)) != item.size:
                del self.files[item.name]
                self._note("copying")
                found = sizes.get(self._at(item), "no")
                again = f"stowage stage --target {self.row.target}"
                raise TargetRefused(f"{self._at(item)} has {found} bytes there, {item.size} were sent", again)

    # -- files

    def _bring(self, item: Item) -> None:
        """The file at the target, good: as an earlier try left it, or sent now."""
        if self.sizes.get(self._at(item)) == item.size and (
            self.files.get(item.name) == _proof(item)
            or ((self.there or self._was_sent(item)) and self._reads_right(item))
        ):
            self._count(item.size)
        else:
            resume = self.current.get("state") if self.current.get("name") == item.name else None
            before = self.done
            stored = self._put(
                item, resume=resume, checkpoint=lambda state: self._checkpoint(item.name, state), progress=self._count
            )
            self.done = before + item.size
            if not stored.proven and not self._reads_right(item):
                self._take_away(item)
                raise self._other_bytes(item)
        self.files[item.name] = _proof(item)
        if self.current.get("name") == item.name:
            self.current = {}
        self.unsaved = True
        if time.monotonic() - self.saved >= SAVE_SECONDS:  # a note for each small file would take longer than the file
            self._note("copying")

    def _was_sent(self, item: Item) -> bool:
        """Whether an earlier try may have been killed between the last byte of the file and its note of that. Where
        reading costs money, the driver finds it out by what the place tells."""
        return self.current.get("name") == item.name and not self.target.capabilities.metered

    def _put_manifest(self, item: Item) -> None:
        try:
            stored = self._put(item, if_absent=not self.repair)
        except TargetError:
            # it may be ours: put, and the answer was lost
            if not self._refuse_another():
                raise
            return
        self._count(item.size)
        if stored.proven:
            self.files[item.name] = _proof(item)

    def _put(self, item: Item, **more: Any):
        """Sends the file from the first origin that has it right."""
        self.changed = True
        error: Optional[StowageError] = None
        for origin in self.origins:
            try:
                stored = self._copied_there(origin, item, more)
                if stored is not None:
                    return stored
                with origin.file(item) as path:
                    try:
                        more["sha256"] = item.sha256
                        return pacing.put(self.target, self.pace, self._at(item), path, item.size, **more)
                    except WrongDigest:
                        raise origin.wrong(item) from None
            except OriginDamaged as failure:
                self.bad[failure.origin] = failure.message
                error = error or failure
            except StowageError as failure:
                error = waking.worth_more(error, failure, origin)
        assert error is not None
        raise error

    def _copied_there(self, origin: Any, item: Item, more: Mapping[str, Any]) -> Optional[Stored]:
        """The file, copied from another target by the place itself and read back if need be; None when it has to come
        through this machine: the place cannot, or what it copied is not what was signed."""
        copy_from = getattr(self.target, "copy_from", None)
        other = getattr(getattr(origin, "copy", None), "target", None)
        if copy_from is None or other is None or item.name == layout.MANIFEST:  # that one is put only if absent
            return None
        before = self.done
        stored = copy_from(other, self._at(item), size=item.size, sha256=item.sha256, pace=self.pace, **more)
        self.done = before
        if stored is None:
            return None
        if stored.proven or self._reads_right(item):
            return replace(stored, proven=True)
        return None

    def _reads_right(self, item: Item) -> bool:
        """Whether reading the file back gives the bytes that were sent."""
        found, size = hashlib.sha256(), 0
        for piece in self.target.read(self._at(item)):
            found.update(piece)
            size += len(piece)
            self.report("verifying", self.done, self.total)
            if size > item.size:
                return False
        return found.hexdigest() == item.sha256

    def _take_away(self, item: Item) -> None:
        """What is not what was sent; where the night may not delete, the next try puts it anew, over what is there."""
        self.changed = True
        try:
            self.target.delete(self._at(item))
        except TargetError:
            self.repair = True
            self._note("copying")

    def _other_bytes(self, item: Item) -> TargetRefused:
        told = f"target {self.row.target} gives other bytes of {self._at(item)} than were sent"
        return TargetRefused(
            told, f"stowage stage --target {self.row.target}; again and again: do not trust this target"
        )

    def _read_small(self, name: str, limit: int) -> bytes:
        content = bytearray()
        for piece in self.target.read(name):
            content += piece
            if len(content) > limit:
                raise TargetRefused(f"{name} on target {self.row.target} is larger than {limit} bytes")
        return bytes(content)

    # -- notes

    def _at(self, item: Item) -> str:
        return f"{self.prefix}/{item.name}"

    def _count(self, count: int) -> None:
        self.done += count
        self.report("copying", self.done, self.total)

    def _checkpoint(self, name: str, state: Mapping[str, Any]) -> None:
        new = self.current.get("name") != name or not _same_upload(self.current.get("state"), state)
        self.current = {"name": name, "state": dict(state)}
        if new or time.monotonic() - self.saved >= SAVE_SECONDS:
            self._note("copying")

    def _note(self, state: str, lasting: bool = True, **values: Any) -> None:
        """The row in the catalog: how far this copy is. lasting: as put_copy()."""
        upload: Dict[str, Any] = {"files": self.files, "current": self.current}
        if self.repair:
            upload["repair"] = True
        if self.asked:
            upload["asked"] = self.asked
        self.row = replace(self.row, **{"state": state, "upload": upload, "error": "", "updated_ns": 0, **values})
        self.catalog.put_copy(self.row, lasting)
        self.saved, self.unsaved = time.monotonic(), False


def _same_upload(old: Optional[Mapping[str, Any]], new: Mapping[str, Any]) -> bool:
    """Whether only numbers differ: then a note a second will do."""
    return old is not None and all(old.get(key) == value for key, value in new.items() if not isinstance(value, int))


def _proof(item: Item) -> str:
    return f"{item.size} {item.sha256}"


def _whose(content: bytes) -> str:
    try:
        return f", of the backup server {Manifest.from_bytes(content).server}"
    except ImageDamaged:
        return ", whose manifest cannot be read"

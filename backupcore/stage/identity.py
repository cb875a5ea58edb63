"""Which place a target is: two targets of one configuration that are one place under two addresses are told apart.

    .stowage/<server id>              at a target: this server's id, and below it a random id of the place, made at the
                                      first use (a marker of an older version gets one)
    <state>/targets/<name>/place      what was read there last, and of which options

A NAS as a folder and by SFTP, an endpoint by name and by address: what prune removes by one is gone for the other, and
a copy counts twice. Where two targets show one id, one is given another by way of its own address: if the other shows
that as well they are one place; if not, one was copied from the other, and has its own id from then on. Call under the
run lock. Not here: what becomes of such a target (place.py, prune.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from .. import files
from ..errors import StowageError, TargetRefused
from ..hookspecs import Asleep, Target, TargetError
from ..image import layout
from ..settings import Settings

LIMIT = 4096  # bytes of a marker
_ID = re.compile(r"[0-9a-f]{32}\Z")
_TURN = threading.Lock()  # two targets that become ready at once see each other


class SamePlace(TargetRefused):
    """A target is the same place as another. names: both."""

    names: Tuple[str, str] = ("", "")


class Identities:
    """The places of one server's targets."""

    def __init__(self, settings: Settings, server: str, open_target: Callable[[str], Target]):
        self.settings, self._open = settings, open_target
        self.marker = f"{layout.MARK}/{server}"
        self._trial = f"{layout.MARK}/trial-{server}"
        self._server = server

    def settle(self, name: str, target: Target) -> None:
        """Puts the marker where there is none, and remembers which place this is. Raises SamePlace, TargetError."""
        found = self._read(target)
        with _TURN:
            if not found:
                found = self._read(target)  # the other of two targets may have been here meanwhile
            if not found:
                found = self._given(name, target, found is None)
            for other in self._like(name, found):
                found = self._compared(name, target, other, found)
            self._remember(name, found)

    def shown_by(self, name: str, target: Target) -> Optional[str]:
        """Another target whose mark this one shows; nothing is written. Raises TargetError."""
        return next(iter(self._like(name, self._read(target) or "")), None)

    def twins(self) -> Iterator[SamePlace]:
        """Targets that are one place, each pair once; those that are away by what was read there last."""
        shown: Dict[str, List[str]] = {}
        opened: Dict[str, Target] = {}
        for name in self.settings.targets:
            found = self._remembered(name)
            with contextlib.suppress(Exception):  # whatever a driver raises: it is told where the target is used
                opened[name] = self._open(name)
                found = self._read(opened[name]) or ""
            if found:
                shown.setdefault(found, []).append(name)
        for found, names in shown.items():
            for other in names[1:]:
                try:
                    if other in opened:
                        self._remember(names[0], found)
                        self._remember(other, self._compared(other, opened[other], names[0], found))
                    else:
                        raise self._same(other, names[0])
                except SamePlace as error:
                    yield error
                except TargetError:
                    yield self._same(other, names[0])

    def tried(self, names: Sequence[str]) -> Iterator[SamePlace]:
        """Which of these are one place, of those without a mark: one writes a small file, the others look for it.
        None is left, but where nobody may delete; no lock is needed. Raises StowageError."""
        fresh: Dict[str, Target] = {}
        for name in names:
            target = self._open(name)
            with contextlib.suppress(TargetError):
                if target.stat(self.marker) is None:
                    fresh[name] = target
        known: Set[str] = set()
        for name in list(fresh):
            target = fresh.pop(name)
            if name in known or not fresh:
                continue
            trial = secrets.token_hex(16)
            try:
                self._put(name, target, trial, self._trial, "trial")
                alike = [other for other, theirs in fresh.items() if self._shows(theirs, trial)]
            except TargetError:
                continue
            finally:
                with contextlib.suppress(TargetError):
                    target.delete(self._trial)
            known.update(alike)
            yield from (self._same(other, name) for other in alike)

    # inside

    def _shows(self, target: Target, trial: str) -> bool:
        with contextlib.suppress(TargetError):
            return self._read(target, self._trial) == trial
        return False

    def _given(self, name: str, target: Target, absent: bool) -> str:
        """A new id, noted there; '' where an older marker cannot be replaced."""
        new = secrets.token_hex(16)
        try:
            self._put(name, target, new)
        except TargetError:
            if absent:
                raise
            return ""
        return new

    def _put(self, name: str, target: Target, place: str, marker: str = "", file: str = "marker") -> None:
        local = self._folder(name) / file
        files.make_folder(local.parent)
        files.replace(local, f"{self._server}\n{place}\n".encode())
        target.put(marker or self.marker, local)

    def _read(self, target: Target, marker: str = "") -> Optional[str]:
        """The id that is shown there, '' of a marker without one, None when there is no marker. Raises TargetError."""
        if target.stat(marker or self.marker) is None:
            return None
        content = b""
        try:
            for piece in target.read(marker or self.marker):
                content += piece
                if len(content) > LIMIT:
                    return ""
        except Asleep:  # somebody's rule archived it: it is put anew
            return ""
        lines = content.decode("ascii", "replace").split("\n")
        return lines[1] if len(lines) > 1 and _ID.match(lines[1]) else ""

    def _compared(self, name: str, target: Target, other: str, found: str) -> str:
        """The id of a target that shows that of another: a new one when it is another place. Raises SamePlace,
        TargetError."""
        try:
            theirs = self._open(other)
            now = self._read(theirs)
        except (StowageError, TargetError) as error:
            told = f"target {name} shows the mark of target {other}, which cannot be asked now: {error.message}"
            hint = f"when {other} is back: stowage stage; or take it out of the configuration"
            raise TargetRefused(told, hint) from None
        if now != found:  # it moved, or was made anew
            self._remember(other, now or "")
            return found
        new = secrets.token_hex(16)
        self._put(name, target, new)
        if self._read(theirs) == new:
            self._remember(other, new)
            raise self._same(name, other)
        return new

    def _same(self, name: str, other: str) -> SamePlace:
        told = f"targets {other} and {name} are one place under two addresses: what is removed by one is gone for both"
        error = SamePlace(told, "take one of the two out of the configuration")
        error.names = (other, name)
        return error

    def _like(self, name: str, found: str) -> List[str]:
        """The other targets that showed the same id last."""
        others = [other for other in self.settings.targets if other != name] if found else []
        return [other for other in others if self._remembered(other) == found]

    def _folder(self, name: str) -> Path:
        return self.settings.state / "targets" / name

    def _options(self, name: str) -> str:
        one: Any = self.settings.targets[name]
        told = json.dumps([one.type, dict(one.options)], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()

    def _remember(self, name: str, found: str) -> None:
        if self._remembered(name) != found:
            path = self._folder(name) / "place"
            files.make_folder(path.parent)
            files.replace(path, json.dumps({"place": found, "options": self._options(name)}).encode() + b"\n")

    def _remembered(self, name: str) -> str:
        """The id; '' when none was read, or of other options."""
        try:
            kept = json.loads((self._folder(name) / "place").read_bytes())
            return str(kept["place"]) if kept["options"] == self._options(name) else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

"""Where one dump lies: its folder on a holding disk or on a target, read by ranges.

Here live the reading and the counting of bytes; whether they are right is fetch.py's business.
"""

from __future__ import annotations

import os
import threading
from typing import Callable, Iterator, NamedTuple

from .. import text
from ..errors import ImageDamaged, StowageError, TargetRefused
from ..hookspecs import Asleep, Target, TargetError

HOLDING = "holding"
PIECE = 16 << 20  # at most this much in one piece


class PlaceFailed(TargetRefused):
    """A place did not give what was asked for. away: it may be the place itself, not this file. asleep: the file is
    whole, in an archive that has to be asked for it."""

    away = False
    asleep = False


class Rest(NamedTuple):
    """Whether a file sleeps in an archive; its name at the target, and how long it takes to wake."""

    sleeps: bool
    name: str = ""
    usual: str = ""


class Place:
    """Where one dump lies; name: as in reports; counts what it gave. archives: files there may sleep."""

    archives = False

    def __init__(self, name: str):
        self.name = name
        self.bytes = 0
        self.requests = 0
        self._lock = threading.Lock()

    def read(self, name: str, offset: int, length: int) -> bytes:
        """The bytes of a range. Raises PlaceFailed, also when the file is shorter."""
        return b"".join(self.pieces(name, offset, length))

    def read_small(self, name: str, limit: int) -> bytes:
        """A whole file. Raises PlaceFailed, ImageDamaged when it has more than limit bytes."""
        found, size = [], 0
        for piece in self.pieces(name):
            size += len(piece)
            if size > limit:
                raise ImageDamaged(f"{name} is larger than {limit} bytes")
            found.append(piece)
        return b"".join(found)

    def pieces(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes of a range (length None: to the end of the file) in pieces."""
        with self._lock:
            self.requests += 1
        for piece in self._pieces(name, offset, length):
            with self._lock:
                self.bytes += len(piece)
            yield piece

    def _pieces(self, name: str, offset: int, length: int | None) -> Iterator[bytes]:
        raise NotImplementedError

    def asleep(self, name: str) -> Rest | None:
        """Whether a file sleeps, by reading a byte of it; None: it is not there, or the place cannot be reached."""
        try:
            for _piece in self._pieces(name, 0, 1):
                break
        except PlaceFailed as error:
            return None if not error.asleep else Rest(True, self.name_of(name), error.hint)
        return Rest(False)

    def name_of(self, name: str) -> str:
        """The name of a file of the dump as its place knows it."""
        return name


class HoldingPlace(Place):
    """A dump's folder on a holding disk."""

    def __init__(self, folder: str):
        super().__init__(HOLDING)
        self.folder = folder

    def _pieces(self, name: str, offset: int, length: int | None) -> Iterator[bytes]:
        left = PIECE if length is None else length
        try:
            fd = os.open(os.path.join(self.folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                while left:
                    piece = os.pread(fd, min(left, PIECE), offset)
                    if not piece:
                        return
                    yield piece
                    offset += len(piece)
                    left -= len(piece) if length is not None else 0
            finally:
                os.close(fd)
        except OSError as error:
            raise PlaceFailed(f"{self.folder}/{name} cannot be read: {error.strerror}") from None


class TargetPlace(Place):
    """A dump's folder on a target."""

    def __init__(self, name: str, open_target: Callable[[str], Target], prefix: str):
        super().__init__(name)
        self._open = open_target
        self._prefix = prefix

    def _pieces(self, name: str, offset: int, length: int | None) -> Iterator[bytes]:
        try:
            yield from self._open(self.name).read(self.name_of(name), offset, length)
        except Asleep as error:
            failed = PlaceFailed(f"target {self.name}: {text.escape(error.message)}", error.hint)
            failed.asleep = True
            raise failed from None
        except TargetError as error:
            failed = PlaceFailed(f"target {self.name}: {text.escape(error.message)}", error.hint)
            failed.away = error.retry
            raise failed from None
        except StowageError as error:  # it could not even be opened
            failed = PlaceFailed(f"target {self.name}: {error.message}", error.hint)
            failed.away = True
            raise failed from None

    @property
    def archives(self) -> bool:  # type: ignore[override]
        """Asked of the driver, not of its capabilities: these may try the place by writing, which no restore does."""
        try:
            return callable(getattr(self._open(self.name), "wake", None))
        except StowageError:
            return False

    def name_of(self, name: str) -> str:
        """As Place.name_of()."""
        return f"{self._prefix}/{name}"

"""A file that is made in a bucket while its bytes still come: upload parts that grow, since nobody knows how many.

All upload parts are of one size up to the two-thousandth or so (some places want that), then they grow with the cube
of their number: ten thousand of them hold 5 TiB. The piece that is filled is kept as it came, in memory that several
targets of one dump share, and takes the target's room only when it is sent: who waits for bytes holds nothing up. An
upload part that fails is sent again from memory. How one is sent, and how they become an object, is _s3_upload.py's.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from typing import Any, Dict, List

from backupcore.hookspecs import Stored, TargetError, WrongDigest, to_the_end

from . import _s3_probe as probing
from ._s3_client import LARGEST_PART, MIB
from ._s3_upload import MOST_PARTS, Part, Upload
from ._streaming import Note, Patience

MOST_BYTES = 5 << 40  # of one object
_LAST_PART = 4 * MOST_BYTES // MOST_PARTS  # what cubes add up to is a quarter of as many of the last


def part_size_at(number: int, wanted: int) -> int:
    """Bytes of the upload part of that number (from 1), whole MiB."""
    grown = _LAST_PART * number**3 // MOST_PARTS**3
    return min(max(wanted, -(-grown // MIB) * MIB), LARGEST_PART)


class S3Stream(Upload):
    """One object on its way. A file that fits in one upload part is sent in one request."""

    def __init__(self, target: Any, name: str, facts: probing.Facts, if_absent: bool, pace: Any):
        super().__init__(target, name, name, None, facts, if_absent, None, None, None, to_the_end(pace))
        self._pieces: List[bytes] = []
        self._filled = 0
        self._number = 0
        self._where: Dict[str, Any] = {}
        self._under_way: Dict[int, Future] = {}
        self._parts: List[Part] = []
        self._broken = threading.Event()
        self._note: Any = None

    # -- the contract

    def write(self, data: Any) -> None:
        """Takes the next bytes; waits while the target has no room for another upload part."""
        piece = data if isinstance(data, bytes) else bytes(data)
        self.found.update(piece)
        self.size += len(piece)
        if self.size > MOST_BYTES:
            raise TargetError(f"{self.name} is more than S3 takes as one file", "make part_size of the policy smaller")
        while self._filled + len(piece) >= (most := part_size_at(self._number + 1, self.target.part_size)):
            cut = most - self._filled
            self._pieces.append(piece[:cut])
            piece = piece[cut:]
            self._filled = most
            self._send_filled()
        if piece:
            self._pieces.append(piece)
            self._filled += len(piece)

    def finish(self, sha256: str) -> Stored:
        """The object stands under its name."""
        try:
            if self.found.hexdigest() != sha256:
                raise WrongDigest(f"{self.name} came with other bytes than its checksum says")
            if not self._where:
                return self._in_one()
            if self._pieces:
                self._send_filled()
            while self._under_way:
                self._gather_parts(wait=True)
            self._again(lambda: self._complete(self._where, sorted(self._parts)))
            found = self._again(self._landed)
        except BaseException:
            self.abort()
            raise
        self._note.close()
        return self.target.told_of(found, self.name, self.is_proven(found, sorted(self._parts)))

    def abort(self) -> None:
        """Ends the upload; one that cannot be ended now is clean()'s."""
        self._broken.set()
        for number, future in list(self._under_way.items()):
            if future.cancel():
                self.target.room.release()
                del self._under_way[number]
        for future in self._under_way.values():
            with contextlib.suppress(BaseException):
                future.exception()  # waits: nothing is sent any more when this returns
        self._under_way.clear()
        self._pieces = []
        ended = not self._where and self._note is None
        if self._where:
            with contextlib.suppress(TargetError):
                self.target.abort(self._where["Key"], self._where["UploadId"])
                ended = True
            self._where = {}
        if self._note is not None:
            self._note.close(keep=not ended)

    # -- inside

    def _in_one(self) -> Stored:
        content = b"".join(self._pieces)
        protect = {"IfNoneMatch": "*"} if self.if_absent and self.facts.if_none_match != "refused" else {}
        self._again(lambda: self._put_one(content, protect))
        return self.target.told_of({"Size": self.size, "LastModified": None}, self.name, self.facts.put_checked)

    def _send_filled(self) -> None:
        """Gives the filled piece to a sender, once the target has room for it."""
        if not self._where:
            self._again(self._begin)
        while not self.target.room.acquire(timeout=0.2):
            self._gather_parts()
        try:
            self._number += 1
            content = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces, self._filled = [], 0
            self._under_way[self._number] = self.target.senders().submit(self._send, self._where, self._number,
                                                                         [content], None)  # fmt: skip
        except BaseException:
            self.target.room.release()
            raise
        self._gather_parts()

    def _begin(self) -> None:
        if self._note is None:  # before the upload is there: killed between the two, nobody would know of it
            self._note = Note(self.target.folder, {"bucket": self.where["Bucket"], "key": self.where["Key"]})
        self._where = {**self.where, "UploadId": self.begin()}

    def _sent(self, where: Any, number: int, content: bytes, there: Any = None) -> Part:
        """In a sender's thread: again and again, from memory."""
        return self._again(lambda: super(S3Stream, self)._sent(where, number, content, there))

    def _again(self, step: Any) -> Any:
        patience = Patience(self._pause)
        while True:
            try:
                return step()
            except TargetError as error:
                if self._broken.is_set():
                    raise
                patience.again(error)

    def _pause(self, count: int) -> None:
        if self._broken.is_set():
            raise TargetError(f"{self.what}: it was given up")
        if self.pace:
            self.pace(count)

    def _gather_parts(self, wait: bool = False) -> None:
        """Takes the finished upload parts; raises what a sender raised."""
        for number in sorted(self._under_way):
            if wait or self._under_way[number].done():
                future = self._under_way[number]
                part = future.result()
                del self._under_way[number]
                self._parts.append(part)
                wait = False

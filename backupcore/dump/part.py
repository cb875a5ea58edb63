"""One part of a direct dump while it is made: on the holding disk, at targets, or first there and then here.

Here lives what is held back, so that targets get whole frames only: a part of which they have nothing half can be ended
where the line was cut. To which targets it goes is direct.py's.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, List, Optional

from ..errors import HoldingFull
from ..image.manifest import FileRecord
from .newfile import HashedFile

if TYPE_CHECKING:
    from .direct import Direct

HELD = 6 << 20  # bytes: more than a frame of an honest agent, mostly; a longer one is sent before it is whole


class Part:
    """A part that is written as a HashedFile is: to the holding disk, to targets, or first there and then here."""

    def __init__(self, direct: Direct, name: str, file: Optional[HashedFile]):
        self.name, self.size = name, 0
        self.torn = False  # targets have some of a frame
        self._direct, self._file = direct, file
        self._held: List[bytes] = []
        self._waits = 0  # bytes held back
        self._hasher = hashlib.sha256() if file is None else None

    def write(self, data: Any) -> None:
        """Appends data."""
        if self._file is not None:
            try:
                self._file.write(data)
                self.size = self._file.size
                return
            except HoldingFull as full:
                self._direct.spill(full)
        self._held.append(bytes(data))
        self._waits += len(data)
        if not self._direct.frames or self._waits > HELD:
            self._send()
            self.torn = self._direct.frames

    def frame(self) -> None:
        """What was written since the last call is a whole frame."""
        self._send()
        self.torn = False

    def _send(self) -> None:
        held, self._held, self._waits = self._held, [], 0
        for data in held:
            self._hasher.update(data)
            self.size += len(data)
            self._direct.send(data)

    def digest(self) -> bytes:
        """SHA-256 of what was written."""
        return (self._hasher if self._file is None else self._file.hasher).digest()

    def leave_disk(self) -> None:
        """Its bytes so far are on their way from the file; those that come go straight."""
        self._hasher = self._file.hasher
        self._file.close()
        self._file = None

    def finish(self) -> FileRecord:
        """It is whole."""
        on_disk = self._file is not None
        record = self._file.finish() if on_disk else FileRecord(self.name, self.size, self._hasher.hexdigest())
        self._direct.finished(record, on_disk)
        return record

    def close(self) -> None:
        """Safe to call twice."""
        if self._file is not None:
            self._file.close()

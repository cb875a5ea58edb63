"""The base's state as an incremental reads it: a stream with one block of sight, and one folder's rows across blocks.

Here lives the reading only; what a difference means lives in dump, the bytes in image.state.
"""

from __future__ import annotations

from array import array
from typing import Iterator, List, Optional, Tuple

from ..image.state import WIDTH, Block, Row


class Old:
    """The base's state as a stream with one block of sight."""

    def __init__(self, blocks: Iterator[Block]):
        self._blocks = blocks
        self.front: Optional[Block] = next(blocks, None)

    def take(self) -> Block:
        """The front block, which is taken away."""
        block = self.front
        assert block is not None
        self.front = next(self._blocks, None)
        return block


class OldRows:
    """The base's entries of one folder, across its blocks. folders: names of sub-folders of the blocks opened."""

    def __init__(self, old: Optional[Old], path: bytes):
        self._old, self._path = old, path
        self._names: List[bytes] = []
        self._rows: "array[int]" = array("q")
        self._place = 0
        self.folders: List[bytes] = []
        self.own: Optional[Row] = None
        self.found = False
        if old is not None and old.front is not None and old.front.path == path:
            self.own = old.front.own
            self.found = True

    def _has_block(self) -> bool:
        old = self._old
        return old is not None and old.front is not None and old.front.path == self._path

    def same(self, raw: bytes) -> bool:
        """Takes the next block when nothing of the one before is left and it is equal to raw."""
        if self._place < len(self._names) or not self._has_block() or self._old.front.raw != raw:
            return False
        self._old.take()
        return True

    def peek(self) -> Optional[bytes]:
        """The next name, None at the end."""
        while self._place >= len(self._names):
            if not self._has_block():
                return None
            self._names, self._rows, folders = self._old.take().parts()
            self.folders += folders
            self._place = 0
        return self._names[self._place]

    def take(self) -> Tuple[bytes, Row]:
        """The next name and its row; after peek()."""
        place = self._place
        self._place += 1
        return self._names[place], tuple(self._rows[place * WIDTH : (place + 1) * WIDTH])  # type: ignore[return-value]

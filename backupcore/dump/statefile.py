"""The file that keeps a dump's state blocks on the server: payloads as the agent made them, opaque here.

MAGIC, then each payload with its length (four bytes, big endian) before it, a length of zero, and the SHA-256
of all before. Here live writing, checking and reading it; what is in a payload is image.state's affair.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Iterator

from ..errors import ImageDamaged
from ..wire import DATA_LIMIT

MAGIC = b"Stowage state 1\n"
_LENGTH = struct.Struct(">I")
_DIGEST = 32


def head(payload: bytes) -> bytes:
    """What stands before a payload."""
    return _LENGTH.pack(len(payload))


END = _LENGTH.pack(0)  # then the digest


def check(path: Path) -> None:
    """Raises ImageDamaged unless the file is whole, OSError when it cannot be read."""
    hasher = hashlib.sha256()
    with open(path, "rb") as stream:
        left = os.fstat(stream.fileno()).st_size - _DIGEST
        while left > 0:
            piece = stream.read(min(left, 1 << 20))
            if not piece:
                break
            hasher.update(piece)
            left -= len(piece)
        if left or stream.read(_DIGEST + 1) != hasher.digest():
            raise ImageDamaged(f"{path} is damaged")


def payloads(path: Path) -> Iterator[bytes]:
    """The payloads of a file that check() found whole. Raises ImageDamaged."""
    with open(path, "rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ImageDamaged(f"{path} is no file of state blocks")
        while True:
            packed = stream.read(_LENGTH.size)
            length = _LENGTH.unpack(packed)[0] if len(packed) == _LENGTH.size else -1
            if length == 0:
                return
            if not 0 < length <= DATA_LIMIT:
                raise ImageDamaged(f"{path} has an impossible length")
            payload = stream.read(length)
            if len(payload) != length:
                raise ImageDamaged(f"{path} is cut")
            yield payload

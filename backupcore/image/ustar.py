"""ustar headers: what writing (pax.py) and reading (unpax.py) of the archive share.

Here live letters, record names, limits and headers of values that fit; nothing is decided here.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import adler32

BLOCK = 512
TYPES = {"f": b"0", "h": b"1", "l": b"2", "c": b"3", "b": b"4", "d": b"5", "p": b"6"}
# xattrs that have a record of their own.
XATTR = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
    b"security.selinux": b"RHT.security.selinux",
}
MAX_SEGMENTS = 1 << 16  # of a sparse file: what its map costs in memory
_NO_NAMES = bytes(64)
_NO_DEVICE = b"0000000\0" * 2
# Behind the checksum of most headers: a plain file whose name fits.
TAIL = b"0" + bytes(100) + b"ustar\00000" + _NO_NAMES + _NO_DEVICE + bytes(155 + 12)
REST = 256 + sum(TAIL)  # of their checksum: eight blanks in its own place, and the tail


def plain_header(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    kind: bytes,
    link: bytes = b"",
    devices: bytes = _NO_DEVICE,
    prefix: bytes = b"",
) -> bytes:
    """A ustar header of values that fit their fields."""
    front = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    back = b"%b%bustar\00000%b%b%b" % (kind, link.ljust(100, b"\0"), _NO_NAMES, devices, prefix.ljust(167, b"\0"))
    return b"%b%06o\0 %b" % (front, 256 + byte_sum(front) + byte_sum(back), back)


def byte_sum(data: bytes) -> int:
    """The sum of at most 512 bytes. adler32 begun at 0 is that modulo 65521, and quick; 256 bytes are always less."""
    return (adler32(data[:256], 0) & 0xFFFF) + (adler32(data[256:], 0) & 0xFFFF)


@lru_cache(4096)
def extended_header(length: int) -> bytes:
    """The header before length bytes of records: its name never changes, nor does its time."""
    return plain_header(b"././@PaxHeader", 0o644, 0, 0, length, 0, b"x")


# A lone time of today has a record of 30 bytes, "30 mtime=1700000000.123456789\n": its header is always this.
X30 = extended_header(30)

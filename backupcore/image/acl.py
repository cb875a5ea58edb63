"""POSIX ACLs: from the bytes of the xattr to the text of archives, and back; numeric ids only.

The xattrs are system.posix_acl_access and system.posix_acl_default; the text is what SCHILY.acl.* hold:
`user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::---`.
"""

from __future__ import annotations

import re
import struct
from typing import List

_HEAD = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_NO_ID = 0xFFFFFFFF
_TAGS = {0x01: b"user", 0x02: b"user", 0x04: b"group", 0x08: b"group", 0x10: b"mask", 0x20: b"other"}
_NAMED = {0x02, 0x08}
_WORDS = {(b"user", False): 1, (b"user", True): 2, (b"group", False): 4, (b"group", True): 8,
          (b"mask", False): 0x10, (b"other", False): 0x20}  # fmt: skip
_TEXT = re.compile(rb"(user|group|mask|other):([0-9]{0,10}):([r-][w-][x-])\Z")


def to_text(raw: bytes) -> bytes:
    """The text of an ACL xattr. Raises ValueError when raw is none."""
    if len(raw) < 4 or (len(raw) - 4) % 8 or _HEAD.unpack_from(raw)[0] != _VERSION:
        raise ValueError("no ACL of version 2")
    lines: List[bytes] = []
    for tag, perm, number in _ENTRY.iter_unpack(raw[4:]):
        if tag not in _TAGS or perm > 7:
            raise ValueError("an ACL entry of tag %d" % tag)
        rights = bytes(letter if perm & bit else 0x2D for letter, bit in ((0x72, 4), (0x77, 2), (0x78, 1)))
        lines.append(b"%s:%s:%s" % (_TAGS[tag], b"%d" % number if tag in _NAMED else b"", rights))
    return b",".join(lines)


def from_text(text: bytes) -> bytes:
    """The xattr of an ACL text; commas or newlines between entries. Raises ValueError."""
    raw = [_HEAD.pack(_VERSION)]
    text = text.rstrip(b"\n").replace(b"\n", b",")
    for line in text.split(b",") if text else ():
        match = _TEXT.match(line)
        if not match:
            raise ValueError("no ACL entry: %r" % line[:80])
        word, number, rights = match.groups()
        tag = _WORDS.get((word, bool(number)))
        if tag is None or int(number or 0) > _NO_ID:
            raise ValueError("no ACL entry: %r" % line[:80])
        perm = sum(bit for letter, bit in zip(rights, (4, 2, 1)) if letter != 0x2D)
        raw.append(_ENTRY.pack(tag, perm, int(number) if number else _NO_ID))
    return b"".join(raw)

"""Bytes in one field of a line: how paths, links and xattr names stand in TSV files.

Bytes below 0x20, 0x7f and the backslash become `\\\\` or `\\xNN`; a field that is just `-` becomes `\\x2d`,
since `-` alone means missing. Everything else, UTF-8 or not, stays as it is, so that grep finds it.
"""

from __future__ import annotations

import re

from ..errors import ImageDamaged

_UNSAFE = re.compile(rb"[\x00-\x1f\x7f\\]")
_ESCAPED = re.compile(rb"\\(\\|x[0-9a-f]{2})")
_TABLE = {bytes((code,)): b"\\x%02x" % code for code in range(256)}
_TABLE[b"\\"] = b"\\\\"
_BACK = {written: raw for raw, written in _TABLE.items()}
search_unsafe = _UNSAFE.search


def escape(raw: bytes) -> bytes:
    """The field for raw; `-` for nothing."""
    if not raw:
        return b"-"
    if search_unsafe(raw):
        return _UNSAFE.sub(lambda match: _TABLE[match.group()], raw)
    return b"\\x2d" if raw == b"-" else raw


def unescape(field: bytes) -> bytes:
    """What escape() was given. Raises ImageDamaged for what escape() never writes."""
    if b"\\" not in field:
        if not field:
            raise ImageDamaged("an empty field stands in a line of the index")
        return b"" if field == b"-" else field
    raw = _ESCAPED.sub(lambda match: _BACK.get(match.group(), b""), field)
    if escape(raw) != field:
        raise ImageDamaged("a field of the index is wrongly escaped")
    return raw

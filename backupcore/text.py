"""Text for people: escaping what comes from clients, sizes, durations.

Here live pure functions from values to text and back; nothing here prints.
"""

from __future__ import annotations

import re
from typing import Union

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_UNITS = {
    "": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4, "pb": 1000**5,
    "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4, "pib": 1024**5,
}  # fmt: skip


def escape(text: Union[str, bytes]) -> str:
    """Text from a client, safe for terminals, mail and Ansible.

    Control characters (C0, C1), direction marks and bytes that are no UTF-8 become \\xNN or \\uNNNN.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: "re.Match") -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:
        return "\\x%02x" % (code - 0xDC00)
    return "\\x%02x" % code if code < 0x100 else "\\u%04x" % code


def size(count: float) -> str:
    """Bytes for people, decimal: 214 GB, 1.3 MB, 17 B."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if abs(value) < 999.5 or unit == "PB":
            return "%d %s" % (value, unit) if unit == "B" or abs(value) >= 99.95 else "%.3g %s" % (value, unit)
        value /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 52 s, 7 min, 3 h 10."""
    if seconds < 9.95:
        return "%.1f s" % seconds
    if seconds < 99.5:
        return "%d s" % round(seconds)
    minutes = round(seconds / 60)
    if minutes < 100:
        return "%d min" % minutes
    hours, rest = divmod(minutes, 60)
    return "%d h %02d" % (hours, rest) if hours < 48 else "%.3g days" % (hours / 24)


def parse_size(value: Union[str, int]) -> int:
    """Bytes of `500 GiB`, `-20 GB`, `4096`. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.match(r"\s*(-?\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*\Z", str(value))
    unit = _UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise ValueError("%r is no size: write 500 GiB or 200 MB" % (value,))
    return round(float(match.group(1)) * unit)


def parse_duration(value: Union[str, int, float]) -> float:
    """Seconds of `26 h`, `90 min`, `2 days`, `30` (seconds). Raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = re.match(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*\Z", str(value))
    units = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
    word = match.group(2).lower() if match else ""
    for long, short in (("second", "s"), ("sec", "s"), ("minute", "min"), ("hour", "h"), ("day", "d"), ("week", "w")):
        if word in (long, long + "s"):
            word = short
    if match is None or word not in units:
        raise ValueError("%r is no duration: write 26 h, 90 min or 2 days" % (value,))
    return float(match.group(1)) * units[word]

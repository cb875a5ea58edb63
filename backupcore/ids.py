"""Names: of clients, sources, dumps, runs, servers. What is not a name never becomes a path.

Here live making and checking of names; not time arithmetic (clock) and not the file names
inside a dump (image.layout).
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple, Optional

from .errors import RequestError

# What may be a folder on any target, an Ansible host name, an S3 key and a word of the command line.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
SEGMENT_NAME = re.compile(r"s([1-9][0-9]?)of([1-9][0-9]?)-([0-9a-f]{4})\Z")
INTERIM = "interim"  # in the place of a segment's name: dumps of only what was changed of late
DUMP_NAME = re.compile(r"([0-9]{8}T[0-9]{6}Z)-L([0-9])-([0-9a-f]{8})\Z")


class DumpName(NamedTuple):
    """The parts of a dump's name: stamp is UTC to the second, level 0-9, token 8 hex digits."""

    stamp: str
    level: int
    token: str


class SegmentName(NamedTuple):
    """The parts of a segment's name: its number 1…, how many the source is cut into, 4 hex digits of this cut."""

    number: int
    count: int
    cut: str

    @property
    def rest(self) -> bool:
        """Whether it has all that no other one has: the last."""
        return self.number == self.count


def parse_segment(text: str) -> Optional[SegmentName]:
    """The parts of a segment's name, None when text is none."""
    match = SEGMENT_NAME.match(text)
    found = SegmentName(int(match.group(1)), int(match.group(2)), match.group(3)) if match else None
    return found if found is not None and 1 < found.count and found.number <= found.count else None


def is_name(text: str) -> bool:
    """Whether text may name a client, a source or a target."""
    return bool(NAME.match(text)) and ".." not in text


def check_name(text: str, what: str) -> str:
    """Returns text; raises RequestError when it cannot be the name of a `what`."""
    if not is_name(text):
        raise RequestError(f"{text!r} cannot name a {what}", "letters, digits, '.', '_' and '-' make a name")
    return text


def new_dump_name(stamp: str, level: int) -> str:
    """`<UTC time>-L<level>-<8 random hex>`, the name and folder of a dump; stamp from clock.stamp()."""
    return f"{stamp}-L{level}-{os.urandom(4).hex()}"


def parse_dump_name(text: str) -> Optional[DumpName]:
    """The parts of a dump's name, None when text is none."""
    match = DUMP_NAME.match(text)
    return DumpName(match.group(1), int(match.group(2)), match.group(3)) if match else None


def new_run_id(stamp: str) -> str:
    """`<UTC time>-<4 random hex>`."""
    return f"{stamp}-{os.urandom(2).hex()}"


def new_server_id() -> str:
    """16 random hex digits."""
    return os.urandom(8).hex()

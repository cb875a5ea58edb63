"""Whether the log is as it was written: line by line, and against what signed records of runs say of its end.

Here lives the judgement. A line that was changed does not fit the digest in the one behind it; lines that were taken
away, put in or exchanged break the numbers as well. The end of the log is witnessed by nothing in it: who cuts the last
lines off leaves a chain that is right. Records of runs hold the end as it was then, are signed, and lie on targets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from . import log
from .log import Entry, Head


@dataclass(frozen=True)
class Signed:
    """What the record of a run says of the end of the log. ended: when the run did, ISO. place: where it lies."""

    run: str
    ended: str
    head: Head
    place: str = "here"


@dataclass(frozen=True)
class Broken:
    """The first thing that is wrong. line: of the file, from 1; 0: the log as a whole."""

    line: int
    message: str


@dataclass
class Checked:
    """What was found. entries: that are good, up to what is broken. torn: lines that a kill or power cut left.
    missing: what a record knows of a log before this one. fitting: records that the log fits."""

    entries: int = 0
    first: str = ""
    last: str = ""
    verbs: Set[str] = field(default_factory=set)
    broken: Optional[Broken] = None
    torn: List[int] = field(default_factory=list)
    missing: str = ""
    fitting: int = 0


def check(state: Path, signed: List[Signed]) -> Checked:
    """Reads the log from its beginning to its end. Raises AuditFailed when it cannot be read."""
    wanted = {one.head.seq for one in signed}
    found = Checked()
    with log.reading(state) as stream:
        digests = _walk(stream, found, wanted) if stream is not None else {}
    if found.broken is None:
        _compare(found, digests, signed, stream is not None)
    return found


@dataclass(frozen=True)
class _Piece:
    """What stands in the file: an entry, or something else. number: of its first line."""

    number: int
    entry: Optional[Entry]
    data: bytes


def _pieces(stream: BinaryIO) -> Iterator[_Piece]:
    number = 1
    for line, at in log.lines(stream):
        yield _Piece(number, log.parse(line, at, at + len(line)), line)
        number += line.endswith(b"\n")


def _walk(stream: BinaryIO, found: Checked, wanted: Set[int]) -> Dict[int, Tuple[int, str]]:
    """Looks at each line; line and digest of the wanted entries."""
    digests: Dict[int, Tuple[int, str]] = {}
    digest, torn, odd = hashlib.sha256(), 0, 0  # of what stands before; its bytes that are no entry, their line
    before: Optional[_Piece] = None
    pieces = _pieces(stream)
    for piece in pieces:
        if piece.entry is None:
            odd = odd or piece.number
            torn += len(piece.data)
            digest.update(piece.data)
            continue
        entry = piece.entry
        wrong = _wrong(before, piece, torn, odd, digest.hexdigest(), pieces)
        if wrong is not None:
            found.broken = wrong
            return digests
        if odd:
            found.torn.append(odd)
        found.entries += 1
        found.first = found.first if before else entry.time
        found.verbs.add(entry.verb)
        found.last = entry.time
        digest, torn, odd, before = hashlib.sha256(piece.data), 0, 0, piece
        if entry.seq in wanted:
            digests[entry.seq] = piece.number, digest.hexdigest()
    if odd:  # nothing was written behind it
        found.torn.append(odd)
    return digests


def _wrong(
    before: Optional[_Piece], piece: _Piece, torn: int, odd: int, digest: str, rest: Iterator[_Piece]
) -> Optional[Broken]:
    """What is wrong between the last entry and this one."""
    entry = piece.entry
    assert entry is not None
    due = (before.entry.seq if before and before.entry else 0) + 1
    line = piece.number
    if entry.torn != torn:
        if torn:
            return Broken(odd, "it is no entry: it was changed, or put in")
        return Broken(line, f"{entry.torn} bytes before it were taken away")
    if entry.seq > due:
        gone = f"entry {due} is" if entry.seq == due + 1 else f"entries {due} to {entry.seq - 1} are"
        return Broken(line, f"{gone} missing before it")
    if entry.seq < due:
        return Broken(line, f"it has the number {entry.seq}, where {due} is due: it was put in, or stood elsewhere")
    if entry.before == digest:
        return None
    # which of the two was changed? the one behind this one knows
    after = next(rest, None)
    if before is None:
        return Broken(line, "it does not begin the log: it was changed, or what stood before it was taken away")
    own = hashlib.sha256(piece.data).hexdigest()
    if after is not None and after.entry is not None and after.entry.before != own:
        return Broken(line, "it was changed: neither the line before nor the one behind it fits")
    return Broken(before.number, f"it was changed after line {line} was written, or line {line} was exchanged")


def _compare(found: Checked, digests: Mapping[int, Tuple[int, str]], signed: List[Signed], there: bool) -> None:
    """Against what runs have signed."""
    for one in sorted(signed, key=lambda one: (one.head.seq, one.ended)):
        if one.head.seq == 0:
            found.fitting += 1
            continue
        by = f"the run {one.run} ({one.place})"
        line, digest = digests.get(one.head.seq, (0, ""))
        if digest == one.head.sha256:
            found.fitting += 1
        elif found.entries and one.ended < found.first:
            found.missing = f"{by} signed an entry {one.head.seq} of a log before this one, which began {found.first}"
        elif not found.entries:
            word = "is empty" if there else "is not there"
            found.broken = Broken(0, f"the log {word}, and {by} signed its entry {one.head.seq}")
            return
        elif not digest:
            gone = one.head.seq - found.entries
            found.broken = Broken(found.entries + 1, f"the end was cut off: {by} signed entry {one.head.seq}, and the "
                                  f"last {gone} of them are missing")  # fmt: skip
            return
        else:
            found.broken = Broken(line, f"it is not the entry that {by} signed: the log was written anew from "
                                  "there or before")  # fmt: skip
            return



"""A sample: pieces of copies, those first whose last proof is oldest, so that all of everything comes round.

Here live the pieces, the choice (a pure function), and reading some pieces of one copy. A dump's files stand one behind
the other (parts, index, frame table) and are cut into pieces of SLICE bytes; a piece is proven by the digests of the
frames that begin in it, of a sealed dump that nobody here can open by the digests of the whole files that it touches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ..catalog.records import DumpRow, ProofRow
from ..errors import ImageDamaged
from ..image import frames
from ..image.manifest import FileRecord, Manifest
from ..image.seal import PART, FileKey, Opener
from . import head, tables
from .full import file_keys
from .verdict import Report, Verdict

SLICE = 128 << 20
READ = 16 << 20  # in one request


@dataclass(frozen=True)
class Piece:
    """A piece of a copy. last_ns: when it was last read and right, at the latest when the copy was made."""

    dump: DumpRow
    place: str
    start: int
    length: int
    last_ns: int


def pieces(copies: Iterable[Tuple[DumpRow, str, int]], proofs: Iterable[ProofRow]) -> List[Piece]:
    """All pieces of these copies (dump, place, when it was made and verified), oldest proof first."""
    known: Dict[Tuple[str, str, int], int] = {}
    for one in proofs:
        if one.ok and one.kind in ("full", "sample"):
            key = (one.dump, one.place, one.start if one.part >= 0 else -1)
            known[key] = max(known.get(key, 0), one.when_ns)
    found = []
    for dump, place, made_ns in copies:
        whole = max(made_ns, known.get((dump.id, place, -1), 0))
        for start in range(0, max(dump.stored_size, 1), SLICE):
            last = max(whole, known.get((dump.id, place, start), 0))
            found.append(Piece(dump, place, start, min(SLICE, dump.stored_size - start), last))
    return sorted(found, key=lambda one: (one.last_ns, one.dump.begun_ns, one.dump.id, one.place, one.start))


def choose(found: Sequence[Piece], budget: int, limits: Mapping[str, int]) -> List[Piece]:
    """The first pieces up to so many bytes, one at least. limits: place -> most bytes of it, none when it is 0."""
    chosen: List[Piece] = []
    taken = 0
    left = dict(limits)
    for one in found:
        if chosen and taken + one.length > budget:
            break
        if one.place in left:
            if left[one.place] < one.length:
                continue
            left[one.place] -= one.length
        chosen.append(one)
        taken += one.length
    return chosen


def check(
    copy: Any, verdict: Verdict, public_keys: Mapping[str, bytes], noted: Mapping[str, str], ring: Any, folder: Path,
    report: Report, starts: Sequence[int],
) -> None:  # fmt: skip
    """Reads the pieces of a copy that begin at starts; verdict.proven gets (start, length) of each as it is read."""
    manifest = head.check(copy, verdict, public_keys, noted)
    if manifest is None:
        return
    keys = file_keys(copy, manifest, verdict, ring)
    places = _places(manifest)
    if manifest.seal is not None and keys is None:
        _whole_files(copy, manifest, verdict, report, places, starts)
        return
    table = tables.fetch(copy, manifest, manifest.frames, verdict, folder, report, keys)
    if table is None:
        return
    try:
        _frames(copy, manifest, verdict, report, frames.read(table.chunks()), keys, set(starts))
        begin = places[-2][1]
        if begin // SLICE * SLICE in starts:
            index = tables.fetch(copy, manifest, manifest.index, verdict, folder, report, keys)
            if index is not None:
                index.close()
    except ImageDamaged as error:
        verdict.is_wrong(error.message)
    finally:
        table.close()
    if verdict.ok:
        done = {start for start, _length in verdict.proven}
        verdict.proven += [(start, _length_of(manifest, start)) for start in starts if start not in done]


def _length_of(manifest: Manifest, start: int) -> int:
    return max(0, min(SLICE, manifest.stored_size - start))


def _places(manifest: Manifest) -> List[Tuple[FileRecord, int]]:
    """Each file, and where it begins when all stand one behind the other."""
    found, at = [], 0
    for record in manifest.all_files():
        found.append((record, at))
        at += record.size
    return found


def _frames(
    copy: Any, manifest: Manifest, verdict: Verdict, report: Report, rows: Iterable[frames.Frame],
    keys: Optional[Mapping[str, FileKey]], starts: Set[int],
) -> None:  # fmt: skip
    begins = [begin for _record, begin in _places(manifest)]
    group: List[frames.Frame] = []
    total, piece = 0, -1
    for frame in rows:
        if frame.part >= len(manifest.parts) or frame.stored > frames.MAX_LENGTH + READ:
            raise ImageDamaged(f"frame {frame.number} cannot be where the frame table has it")
        start = (begins[frame.part] + frame.place) // SLICE * SLICE
        if group and (frame.part != group[-1].part or start != piece or total + frame.stored > READ):
            _read(copy, manifest, verdict, report, group, keys)
            group, total = [], 0
        if start != piece and piece in starts and verdict.ok:
            verdict.proven.append((piece, _length_of(manifest, piece)))
        piece = start
        if start in starts:
            group.append(frame)
            total += frame.stored
    if group:
        _read(copy, manifest, verdict, report, group, keys)


def _read(
    copy: Any, manifest: Manifest, verdict: Verdict, report: Report, group: List[frames.Frame],
    keys: Optional[Mapping[str, FileKey]],
) -> None:  # fmt: skip
    record = manifest.parts[group[0].part]
    first = group[0].place
    try:
        data = memoryview(b"".join(copy.pieces(record.name, first, group[-1].place + group[-1].stored - first)))
        verdict.bytes += len(data)
        report(len(data))
        opener = Opener(keys[record.name], manifest.prefix, PART, group[0].part) if keys is not None else None
        for frame in group:
            stored = data[frame.place - first : frame.place - first + frame.stored]
            if opener is not None:
                opener.frame(frame.number, frame.place, stored, bool(frame.flags & frames.LAST), frame.digest)
            elif hashlib.sha256(stored).digest() != frame.digest:
                raise ImageDamaged(f"frame {frame.number} is not what was signed")
    except ImageDamaged as error:
        verdict.damaged(record.name, f"{record.name}: {error.message}")


def _whole_files(
    copy: Any, manifest: Manifest, verdict: Verdict, report: Report, places: Sequence[Tuple[FileRecord, int]],
    starts: Sequence[int],
) -> None:  # fmt: skip
    read: List[Tuple[int, int]] = []
    for record, begin in places:
        end = begin + record.size
        if not any(start < end and begin < start + SLICE for start in starts):
            continue
        found = hashlib.sha256()
        try:
            for data in copy.pieces(record.name, 0, record.size):
                found.update(data)
                verdict.bytes += len(data)
                report(len(data))
        except ImageDamaged as error:
            verdict.damaged(record.name, error.message)
            continue
        if found.hexdigest() != record.sha256:
            verdict.damaged(record.name, f"{record.name} is not what was signed")
            continue
        verdict.is_good(record.name, record.size, record.sha256)
        read.append((begin, end))
    for start in range(0, manifest.stored_size, SLICE):
        end = start + _length_of(manifest, start)
        if sum(max(0, min(end, high) - max(start, low)) for low, high in read) == end - start:
            verdict.proven.append((start, end - start))

"""What a target holds, read as a stream: its dumps by their manifests, the public keys there, the records of runs.

Here live the listing cut into folders of dumps, the small files fetched many at once, and what makes of each a
Found. All names, sizes and bytes come from a place that may be hostile: what is no dump's file is counted and never
touched, nothing is read beyond a bound, and memory does not grow with the place. Whom to believe is judge.py.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from .. import ids
from ..errors import ImageDamaged, TargetRefused
from ..hookspecs import Stored, Target, TargetError
from ..image import layout
from ..image.manifest import SIZE_LIMIT, Manifest, RunRecord, open_manifest, open_run_record
from ..image.signing import LENGTH, fingerprint, read_public

WORKERS = 16  # requests at once
AHEAD = 256  # files asked for and not yet looked at
BYTES_AHEAD = 32 << 20  # of them, so that many large ones do not fill the memory
FILES_LIMIT = layout.MAX_PARTS + 1000  # files of one dump: its parts, its tables, its renewed keys
KEYS_LIMIT = 64  # public keys looked at
KEY_BYTES = 4096
REFUSALS = 10  # reads refused in a row: it is the place, not the file
NUMBER_LIMIT = 1 << 62  # what the catalog can hold

GOOD, FOREIGN, DAMAGED, UNREAD = "good", "foreign", "damaged", "unread"
_KEY = re.compile(r"([0-9a-f]{64})[.]pub\Z")
_RUN = re.compile(r"([0-9]{8}T[0-9]{6}Z-[0-9a-f]{4})[.](json|sig)\Z")


@dataclass
class Seen:
    """Counts of a scan. others: files that belong to no dump; unfinished: folders of dumps without a manifest."""

    files: int = 0
    others: int = 0
    unfinished: int = 0
    examples: List[str] = field(default_factory=list)

    def other(self, name: str) -> None:
        """A file that belongs to no dump."""
        self.others += 1
        if len(self.examples) < 5:
            self.examples.append(name[:200])


@dataclass(frozen=True)
class Folder:
    """The files of one folder that is named like a dump. crowded: it has more than any dump can have."""

    prefix: str
    sizes: Mapping[str, int]
    crowded: bool = False


@dataclass(frozen=True)
class Found:
    """A folder with a manifest. state: GOOD: signed by a key at hand; FOREIGN: by one that is not; DAMAGED; UNREAD: the
    place did not give it. why: of the last three. lacks: what of a good one's files is not there whole, '' for nothing.
    signer: whom it names. bytes: of all its files."""

    prefix: str
    state: str
    why: str = ""
    manifest: Optional[Manifest] = None
    data: bytes = b""
    sha256: str = ""
    signer: str = ""
    lacks: str = ""
    bytes: int = 0


def scan(
    target: Target,
    keys: Mapping[str, bytes],
    seen: Seen,
    clients: Sequence[str] = (),
    told: Callable[[int], None] = lambda _count: None,
) -> Iterator[Found]:
    """Every dump at target, in the order of names; keys: fingerprint -> raw public key, to check signatures by.

    clients: only theirs, nothing of others is read. told(n): n folders were seen. Raises TargetRefused.
    """
    refused = count = 0
    for folder, answer in fetched(target, _jobs(target, clients, seen)):
        found = _found(folder, answer, keys)
        refused = refused + 1 if found.state == UNREAD else 0
        if refused >= REFUSALS:
            raise TargetRefused(f"the target does not give its files: {found.why}", "try again")
        count += 1
        told(count)
        yield found


def _jobs(target: Target, clients: Sequence[str], seen: Seen) -> Iterator[Tuple[Folder, List[Tuple[str, int]]]]:
    for folder in folders(listed(target, [f"{client}/" for client in clients] or [""]), seen):
        if layout.MANIFEST not in folder.sizes:
            seen.unfinished += 1
            continue
        names = [(layout.MANIFEST, SIZE_LIMIT), (layout.SIGNATURE, LENGTH)]
        small = all(0 < folder.sizes.get(name, 0) <= limit for name, limit in names)
        asked = [(f"{folder.prefix}/{name}", folder.sizes[name]) for name, _limit in names] if small else []
        yield folder, asked


def listed(target: Target, prefixes: Iterable[str]) -> Iterator[Stored]:
    """The files below prefixes. Raises TargetRefused."""
    try:
        for prefix in prefixes:
            yield from target.list(prefix)
    except TargetError as error:
        raise TargetRefused(error.message, error.hint) from None


def folders(listing: Iterable[Stored], seen: Seen) -> Iterator[Folder]:
    """The folders of dumps in a listing in order of names; one folder's names are in memory, not more."""
    prefix, sizes, crowded = "", {}, False  # type: Tuple[str, Dict[str, int], bool]
    for stored in listing:
        if stored.name.startswith(layout.MARK + "/"):
            continue
        seen.files += 1
        above, _slash, name = stored.name.rpartition("/")
        if above != prefix:
            if sizes:
                yield Folder(prefix, sizes, crowded)
            prefix, sizes, crowded = above, {}, False
        if not _is_dump(above):
            seen.other(stored.name)
        elif len(sizes) < FILES_LIMIT:
            sizes[name] = stored.size
        else:
            crowded = True
    if sizes:
        yield Folder(prefix, sizes, crowded)


def _is_dump(prefix: str) -> bool:
    words = prefix.split("/")
    return len(words) == 3 and ids.is_name(words[0]) and ids.is_name(words[1]) and bool(ids.parse_dump_name(words[2]))


def _found(folder: Folder, answer: Any, keys: Mapping[str, bytes]) -> Found:
    prefix = folder.prefix
    if folder.crowded:
        return Found(prefix, DAMAGED, "its folder has more files than a dump can have")
    if isinstance(answer, TargetError):
        return Found(prefix, UNREAD, answer.message)
    if not answer:
        missing = layout.SIGNATURE not in folder.sizes
        return Found(prefix, DAMAGED, "it is not signed" if missing else "its manifest or signature has a wrong size")
    data, signature = answer
    try:
        manifest = _opened(data, signature, keys)
        if manifest.prefix != prefix:
            raise ImageDamaged(f"its manifest is that of {manifest.prefix}")
    except ImageDamaged as error:
        foreign = _claimed(data, prefix)
        if foreign is not None and foreign not in keys:
            why = f"it is signed by {foreign[:16]}, whose public key is not at hand"
            return Found(prefix, FOREIGN, why, signer=foreign)
        return Found(prefix, DAMAGED, error.message)
    size = min(sum(folder.sizes.values()), NUMBER_LIMIT)
    lacks = _lacks(manifest, folder.sizes)
    return Found(prefix, GOOD, "", manifest, data, _digest(data), manifest.signer, lacks, size)


def _opened(data: bytes, signature: bytes, keys: Mapping[str, bytes]) -> Manifest:
    manifest = open_manifest(data, signature, keys)
    numbers = (manifest.counter, manifest.archive_size, manifest.entries, manifest.stored_size, manifest.warnings,
               manifest.suspects, manifest.begun_ns, manifest.ended_ns)  # fmt: skip
    if any(abs(number) >= NUMBER_LIMIT for number in numbers):
        raise ImageDamaged("its manifest has numbers that cannot be")
    try:
        (manifest.path + manifest.type).encode("utf-8")
    except UnicodeEncodeError:
        raise ImageDamaged("its manifest has a path that the catalog cannot hold") from None
    return manifest


def _claimed(data: bytes, prefix: str) -> Optional[str]:
    """Whom a manifest that nobody at hand has signed names as its signer, None when it can be no manifest."""
    try:
        manifest = Manifest.from_bytes(data)
    except ImageDamaged:
        return None
    return manifest.signer if manifest.prefix == prefix else None


def _lacks(manifest: Manifest, sizes: Mapping[str, int]) -> str:
    """Which file of a dump is missing or has another size than its manifest says; '' when all is there."""
    for record in manifest.all_files():
        if sizes.get(record.name) != record.size:
            there = sizes.get(record.name)
            return f"{record.name} " + ("is missing" if there is None else f"has {there} bytes, not {record.size}")
    if layout.SUMS not in sizes:
        return f"{layout.SUMS} is missing"
    if manifest.seal is not None and not any(layout.parse_keys_name(name) for name in sizes):
        return f"{layout.keys_name()} is missing"
    return ""


def fetched(target: Target, jobs: Iterable[Tuple[Any, List[Tuple[str, int]]]]) -> Iterator[Tuple[Any, Any]]:
    """(what, [bytes, ...] or the TargetError) of each job (what, [(name, size), ...]), in their order, many at once."""
    waiting: Deque[Tuple[Any, List["Future[bytes]"], int]] = deque()
    asked = size = 0
    with ThreadPoolExecutor(WORKERS, "rebuild") as pool:
        try:
            for what, names in jobs:
                length = sum(one for _name, one in names)
                while waiting and (asked >= AHEAD or size + length > BYTES_AHEAD):
                    yield _next(waiting)
                    asked, size = sum(len(one[1]) for one in waiting), sum(one[2] for one in waiting)
                waiting.append((what, [pool.submit(read, target, *one) for one in names], length))
                asked, size = asked + len(names), size + length
            while waiting:
                yield _next(waiting)
        finally:
            for _what, futures, _length in waiting:
                for future in futures:
                    future.cancel()


def _next(waiting: Deque[Any]) -> Tuple[Any, Any]:
    what, futures, _length = waiting.popleft()
    try:
        return what, [future.result() for future in futures]
    except TargetError as error:
        return what, error


def read(target: Target, name: str, size: int) -> bytes:
    """A small file of the size that the listing told. Raises TargetError, also when it has another by now."""
    pieces, length = [], 0
    for piece in target.read(name, 0, size):
        length += len(piece)
        if length > size:
            break
        pieces.append(piece)
    if length != size:
        raise TargetError(f"{name} has another size than its listing said")
    return b"".join(pieces)


def signers(target: Target) -> Dict[str, bytes]:
    """Fingerprint -> raw key of the public keys that lie at target. Nobody vouches for them: each is what its name
    says, and that is all. Raises TargetRefused."""
    names = []
    for stored in listed(target, [layout.SIGNERS]):
        match = _KEY.match(stored.name[len(layout.SIGNERS) :])
        if match and 0 < stored.size <= KEY_BYTES and len(names) < KEYS_LIMIT:
            names.append((match.group(1), [(stored.name, stored.size)]))
    found = {}
    for name, answer in fetched(target, names):
        if isinstance(answer, TargetError):
            raise TargetRefused(answer.message, answer.hint)
        try:
            raw = read_public(answer[0])
        except ValueError:
            continue
        if fingerprint(raw) == name:
            found[name] = raw
    return found


def run_records(target: Target, server: str, keys: Mapping[str, bytes]) -> Iterator[Tuple[str, Optional[RunRecord]]]:
    """(run, its record) of server, oldest first; None where it is not signed by one of keys. Raises TargetRefused."""
    below = f"{layout.RUNS}{server}/"

    def jobs() -> Iterator[Tuple[str, List[Tuple[str, int]]]]:
        before: Optional[Stored] = None
        for stored in listed(target, [below]):
            match = _RUN.match(stored.name[len(below) :])
            if not match or not 0 < stored.size <= (LENGTH if match.group(2) == "sig" else SIZE_LIMIT):
                continue
            if match.group(2) == "sig" and before is not None and before.name[:-5] == stored.name[:-4]:
                yield match.group(1), [(before.name, before.size), (stored.name, stored.size)]
            before = stored if match.group(2) == "json" else None

    for run, answer in fetched(target, jobs()):
        if isinstance(answer, TargetError):
            raise TargetRefused(answer.message, answer.hint)
        try:
            record = open_run_record(answer[0], answer[1], keys)
            right = (record.server, record.run) == (server, run)
            right = right and all(one.counter < NUMBER_LIMIT for one in record.manifests)
            yield run, record if right else None
        except ImageDamaged:
            yield run, None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

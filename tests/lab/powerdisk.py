"""A disk that remembers what was done to it, and what of that a power cut leaves: the model, no FUSE.

Like CrashMonkey's and ALICE's: the operations of one run are recorded; a cut at any of them gives a tree. What fsync()
promised is there; what was not promised is lost, kept, or kept in part, by one of MODELS:

    lost      nothing but what was synced
    kept      all of it, as after kill -9: the baseline
    some      each write, length and name by lot, in any order; of a name only what came before it
    journal   names as a journal of them keeps them (ext4, xfs): in order up to some moment, and each fsync commits all
              that came before; contents by lot

Names are synced by fsync() of their folder, contents by fsync() of their file. A rename is one step. Modes, owners and
times are there at once: nothing here depends on them.
"""

from __future__ import annotations

import random
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

MODELS = ("lost", "kept", "some", "journal")
SECTOR = 512
ROOT = 1


class Op(NamedTuple):
    """kind: write, size, link, unlink, rename, sync, mark; grow in a torn write. ino: whose contents, or the folder."""

    kind: str
    ino: int
    rest: Tuple[Any, ...] = ()

    def names(self) -> List[Tuple[int, str]]:
        """(folder, name) that it changes."""
        if self.kind == "rename":
            name, to, new = self.rest
            return [(self.ino, name), (to, new)]
        return [(self.ino, self.rest[0])] if self.kind in ("link", "unlink") else []


class Node:
    """A file, folder or link. entries: of a folder; data: of a file; to: of a link."""

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, to: bytes = b""):
        self.mode, self.uid, self.gid, self.to = mode, uid, gid, to
        self.data = bytearray()
        self.entries: Optional[Dict[str, int]] = {} if mode & 0o170000 == 0o040000 else None
        self.times = [0, 0, 0]
        self.links = 0


Image = Dict[int, Node]  # by number; ROOT is there


def apply(image: Image, op: Op) -> None:
    """Does it."""
    node = image[op.ino]
    if op.kind == "write":
        offset, data = op.rest
        if len(node.data) < offset:
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + len(data)] = data
    elif op.kind == "size":
        del node.data[op.rest[0] :]
        node.data.extend(bytes(op.rest[0] - len(node.data)))
    elif op.kind == "grow":
        node.data.extend(bytes(max(0, op.rest[0] - len(node.data))))
    elif op.kind == "link":
        node.entries[op.rest[0]] = op.rest[1]
    elif op.kind == "unlink":
        node.entries.pop(op.rest[0], None)
    elif op.kind == "rename":
        name, to, new = op.rest
        moved = node.entries.pop(name, None)
        if moved is not None:
            image[to].entries[new] = moved


class Disk:
    """image: as programs see it now. log: all that was done since begin(), from the image `before`."""

    def __init__(self, image: Optional[Image] = None):
        self.image: Image = image or {ROOT: Node(0o040755)}
        self.next = max(self.image) + 1
        self.begin()

    def begin(self) -> None:
        """All that is there counts as synced from now on."""
        self.before = copy(self.image)
        self.made: Dict[int, Node] = {}  # nodes made since, as they were made
        self.log: List[Op] = []

    def add(self, node: Node) -> int:
        """A number for a node that is new."""
        number = self.next
        self.next += 1
        self.image[number] = node
        self.made[number] = node
        return number

    def do(self, kind: str, ino: int, *rest: Any) -> None:
        """Does it, and notes it."""
        op = Op(kind, ino, rest)
        self.log.append(op)
        apply(self.image, op)

    def cut(self, at: int, model: str, seed: int = 0) -> Image:
        """What is there after a power cut before operation number `at`."""
        image = copy(self.before)
        for number, node in self.made.items():
            fresh = Node(node.mode, node.uid, node.gid, node.to)
            fresh.times = list(node.times)
            image[number] = fresh
        waiting: List[Op] = []
        for op in self.log[:at]:
            if op.kind == "mark":
                continue
            if op.kind != "sync":
                waiting.append(op)
                continue
            folder = image[op.ino].entries is not None
            due = {at for at, one in enumerate(waiting) if _synced_by(one, op.ino, folder, model)}
            waiting = _keep(image, waiting, due)
        lot = random.Random(f"{seed} {at} {model}")
        chosen: Set[int] = set()
        if model == "kept":
            chosen = set(range(len(waiting)))
        elif model == "some":
            chosen = {at for at, _op in enumerate(waiting) if lot.random() < 0.5}
        elif model == "journal":
            end = lot.randrange(len(waiting) + 1)
            chosen = {at for at, op in enumerate(waiting) if (at < end if op.names() else lot.random() < 0.5)}
        if model in ("some", "journal"):
            waiting = [_torn(op, lot) if at in chosen else op for at, op in enumerate(waiting)]
        _keep(image, waiting, chosen)
        return reached(image)


def _synced_by(op: Op, ino: int, folder: bool, model: str) -> bool:
    if model == "journal" and op.names():
        return True
    if folder:
        return any(one[0] == ino for one in op.names())
    return op.kind in ("write", "size") and op.ino == ino


def _keep(image: Image, waiting: List[Op], chosen: Set[int]) -> List[Op]:
    """Applies what was chosen and what came before it to the same names; what is left."""
    needed: Set[Tuple[int, str]] = set()
    for at in range(len(waiting) - 1, -1, -1):
        names = waiting[at].names()
        if at in chosen or needed.intersection(names):
            chosen.add(at)
            needed.update(names)
    for at in sorted(chosen):
        apply(image, waiting[at])
    return [op for at, op in enumerate(waiting) if at not in chosen]


def _torn(op: Op, lot: random.Random) -> Op:
    """A write as a cut may leave it: whole, its beginning, or only the length it gave the file."""
    if op.kind != "write" or lot.random() < 0.5:
        return op
    offset, data = op.rest
    if lot.random() < 0.5:
        return Op("grow", op.ino, (offset + len(data),))
    return Op("write", op.ino, (offset, data[: lot.randrange(len(data) // SECTOR + 1) * SECTOR]))


def copy(image: Image) -> Image:
    """Another one, of nothing in common."""
    found = {}
    for number, node in image.items():
        one = found[number] = Node(node.mode, node.uid, node.gid, node.to)
        one.data, one.times, one.links = bytearray(node.data), list(node.times), node.links
        one.entries = None if node.entries is None else dict(node.entries)
    return found


def reached(image: Image) -> Image:
    """What has a name, with right numbers of links."""
    found, ways = {ROOT: image[ROOT]}, [ROOT]
    image[ROOT].links = 2
    while ways:
        for number in found[ways.pop()].entries.values():
            one = image[number]
            if number not in found:
                found[number] = one
                one.links = 0
                if one.entries is not None:
                    one.links = 1
                    ways.append(number)
            one.links += 1
    return found


def same(one: Image, other: Image) -> bool:
    """Whether both show the same."""
    ways, seen = [(ROOT, ROOT)], set()
    while ways:
        mine, yours = ways.pop()
        a, b = one[mine], other[yours]
        if (a.entries is None) != (b.entries is None) or a.data != b.data or a.to != b.to:
            return False
        if a.entries is not None and (mine, yours) not in seen:
            seen.add((mine, yours))
            if set(a.entries) != set(b.entries):
                return False
            ways += [(a.entries[name], b.entries[name]) for name in a.entries]
    return True

"""Images of trees that exist in memory only, written by image/, and a peer that unpacks what a restore sends.

A tree is a dict: path of the index -> Node. Names of one Node object are hard links. The peer checks what the
agent checks: each announced digest, and that the archive is whole.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from backupcore import wire
from backupcore.catalog import places
from backupcore.catalog.records import CopyRow, DumpRow
from backupcore.catalog.store import Catalog
from backupcore.dump.sealing import Sealing
from backupcore.image import codec, folder, frames, index, layout, order, pax, seal
from backupcore.image.manifest import FileRecord, Link, Manifest, Signer
from backupcore.restore import deliver, request
from backupcore.restore.images import Images
from backupcore.restore.report import Options
from backupcore.settings import Client, HoldingDisk, Settings, Source, TargetSettings

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # nothing here is worth a sync
SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND


@dataclass(eq=False)
class Node:
    """An entry. kind: f, d, l, p, or n: there, but not dumped (link: why)."""

    kind: str
    data: bytes = b""
    link: bytes = b""
    mode: int = 0o644
    mtime_ns: int = BEGIN - 5
    xattrs: dict = field(default_factory=dict)
    sparse: list | None = None

    @property
    def shown(self):
        """What a restore must bring back."""
        return self.kind, self.data, self.link, self.mode, self.mtime_ns, tuple(sorted(self.xattrs.items()))


def folder_node(mtime_ns=BEGIN - 7):
    return Node("d", mode=0o755, mtime_ns=mtime_ns)


def walk(tree):
    """The paths of a tree in walk order."""
    return sorted(tree, key=lambda path: order.key(path, tree[path].kind == "d"))


class Maker:
    """A server whose images are made from trees."""

    def __init__(self, base: Path, compress="zstd", frame=4096, part=1 << 30, sealed_for=()):
        self.base = base
        self.sealed_for = sealed_for  # private keys
        self.compress, self.frame, self.part = compress, frame, part
        (base / "state").mkdir(parents=True)
        self.settings = Settings(
            file=base / "stowage.yml", state=base / "state", keys=base / "keys",
            holding=(HoldingDisk(base / "holding", 1 << 30),), cycle_days=7, targets={}, policies={},
            clients={"web1": Client("web1", {"data": Source("web1", "data", "tree", None, {"path": "/srv/data"})})},
        )  # fmt: skip
        self.signer = Signer.load_or_make(self.settings.keys)
        self.catalog = Catalog(base / "state" / "catalog.sqlite")
        self.trees = {}
        self.tables = {}  # dump -> its frames
        self.targets = {}
        self.counter = 0

    def close(self):
        self.catalog.close()

    def declare(self, source, path, client="web1"):
        """A source more in the configuration."""
        known = self.settings.clients.get(client) or Client(client, {})
        sources = {**known.sources, source: Source(client, source, "tree", None, {"path": path})}
        clients = {**self.settings.clients, client: replace(known, sources=sources)}
        self.settings = replace(self.settings, clients=clients)

    # dumps

    def dump(self, tree, level=0, client="web1", source="data", root="/srv/data", compress=None, at=None):
        """A dump of tree; its row."""
        self.counter += 1
        compress = compress or self.compress
        begun = at or BEGIN + self.counter * 100 * SECOND
        name = "%s-L%d-%08x" % (_stamp(begun), level, self.counter)
        base = self.catalog.latest(client, source, below_level=level) if level else None
        assert base or not level
        before = self.trees[base.id] if base else {}
        folder_ = self.base / "holding" / client / source / name
        folder_.mkdir(parents=True)
        recipients = [one.recipient for one in self.sealed_for]
        prefix = layout.dump_prefix(client, source, name)
        self.sealing = Sealing("server", prefix, recipients) if recipients else None
        lines, parts, table, size = self._write(folder_, tree, before, bool(base), codec.get(compress))
        records = {}
        packer = codec.get(compress)
        pieces = [packer.compress(b"".join(lines[at : at + 7])) for at in range(0, len(lines), 7)]
        plain_index = b"".join(pieces)
        for file, data, kind in (
            (layout.index_name(compress), plain_index, seal.INDEX),
            (layout.frames_name(compress), packer.compress(b"".join(frames.write(table))), seal.FRAMES),
        ):  # fmt: skip
            name_, sealer = file, None
            if self.sealing:
                name_ = file + layout.SEALED
                sealer = self.sealing.sealer(name_, kind)
                data = sealer.seal(data)
            (folder_ / name_).write_bytes(data)
            records[file] = FileRecord(name_, len(data), hashlib.sha256(data).hexdigest())
            if sealer:
                self.sealing.table(sealer, records[file])
        draft = Manifest(
            server="0" * 16, client=client, source=source, type="tree", path=root, dump=name, level=level,
            counter=self.counter, begun_ns=begun, ended_ns=begun + SECOND, codec=compress, archive_size=size,
            entries=len(lines), parts=tuple(parts), index=records[layout.index_name(compress)],
            frames=records[layout.frames_name(compress)], base=base and Link(base.id, base.manifest_sha256),
            seal=self.sealing.record() if self.sealing else None,
        )  # fmt: skip
        finished = folder.finish(folder_, draft, self.signer, keys=self.sealing.keys() if self.sealing else None)
        row = DumpRow(
            id=name, client=client, source=source, segment="", type="tree", path=root, level=level,
            counter=self.counter, begun_ns=begun, ended_ns=begun + SECOND, base=base and base.id, previous=None,
            run="run", codec=compress, archive_size=size, stored_size=draft.stored_size, entries=len(lines),
            files=0, holding=str(folder_), manifest_sha256=finished.manifest_sha256,
        )  # fmt: skip
        target = places.index_folder(self.settings.state, client, source) / f"{name}.tsv{layout.SUFFIXES[compress]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(plain_index)
        self.catalog.add_dump(row)
        self.trees[name] = dict(tree)
        self.tables[name] = table
        return row

    def _write(self, place, tree, before, incremental, packer):
        """Lines, parts, frames, size of the archive."""
        changed = set(tree)
        if incremental:
            changed = {path for path in tree if not _same(tree, before, path)}
            gone = {path for path in before if path not in tree or _is_dir(before, path) != _is_dir(tree, path)}
            for path in list(changed) + list(gone):
                if path != b".":
                    changed.add(path.rpartition(b"/")[0] or b".")
            changed &= set(tree)
        else:
            gone = set()
        rows = [(order.key(path, _is_dir(tree, path)), path, tree[path]) for path in changed]
        rows += [(order.key(path, _is_dir(before, path)), path, None) for path in gone]
        lines, members, names, at = [], [], {}, 0
        for number, (_key, path, node) in enumerate(sorted(rows, key=lambda row: row[0])):
            if node is None:
                lines.append(index.format_entry(path, "-", link=b"d" if _is_dir(before, path) else b"f"))
                continue
            if node.kind == "n":
                lines.append(index.format_entry(path, "n", link=node.link, flags="d" if node.mode == 0o777 else ""))
                continue
            first = names.setdefault(id(node), path) if node.kind != "d" else path
            member, row = _member(path, node, first)
            lines.append(index.format_entry(*row, at, len(member), "h" if node.sparse is not None else ""))
            members.append(member)
            at += len(member)
            if number % 5 == 4 and node.kind == "d" and not incremental:
                again = _member(path, node, path)[0]  # a folder that is written once more has no line
                members.append(again)
                at += len(again)
        return (lines, *self._frames(place, members, packer))

    def _frames(self, place, members, packer):
        pieces, current = [], b""
        for member in members + [pax.END]:
            if current and len(current) + len(member) > self.frame:
                pieces.append(current)
                current = b""
            current += member
            while len(current) > 2 * self.frame:  # a big file goes on in frames of its own
                pieces.append(current[: self.frame])
                current = current[self.frame :]
        pieces.append(current)
        parts, table, offset, part, data, sealer = [], [], 0, 0, b"", None
        for number, piece in enumerate(pieces):
            stored = packer.compress(piece)
            if data and len(data) + len(stored) > self.part:
                parts.append(self._part(place, part, packer, data))
                part, data, sealer = part + 1, b"", None
            flags = frames.LAST if number == len(pieces) - 1 else 0
            digest = hashlib.sha256(stored).digest()
            if self.sealing:
                name = layout.part_name(part, packer.name) + layout.SEALED
                sealer = sealer or self.sealing.sealer(name, seal.PART, part)
                stored = sealer.seal(stored)
                digest = sealer.mac(number, stored, bool(flags))
            table.append(frames.Frame(part, number, len(data), len(stored), offset, len(piece), digest, flags))
            data += stored
            offset += len(piece)
        parts.append(self._part(place, part, packer, data))
        return parts, table, offset

    def _part(self, place, number, packer, data):
        name = layout.part_name(number, packer.name) + (layout.SEALED if self.sealing else "")
        (place / name).write_bytes(data)
        return FileRecord(name, len(data), hashlib.sha256(data).hexdigest())

    # restores

    def images(self, only=None, ring=None):
        return Images(self.settings, self.catalog, self.targets.__getitem__, only, ring)

    def wanted(self, *words, at=None, only=None):
        return request.resolve(self.settings, self.catalog, words, at, only)

    def restore(self, *words, at=None, only=None, zstd=True, images=None, **options):
        """(report, peer) of a restore to a peer."""
        peer = Peer(zstd)
        images = images or self.images(only)
        report = deliver.restore(images, self.wanted(*words, at=at, only=only), Options(**options), lambda: peer)
        return report, peer

    def copy(self, row, name, kind="directory"):
        """A copy of a dump on a target made of a dict."""
        target = self.targets.setdefault(name, DictTarget())
        place = Path(row.holding)
        for file in place.iterdir():
            target.files[f"{row.client}/{row.source}/{row.id}/{file.name}"] = file.read_bytes()
        targets = {**self.settings.targets, name: TargetSettings(name, kind, {}, remote=kind != "directory")}
        self.settings = replace(self.settings, targets=targets)
        self.catalog.put_copy(CopyRow(row.id, name, "verified"))
        return target

    def harm(self, row, number, file=None):
        """Turns a byte of a frame of the image around; the frame."""
        frame = self.tables[row.id][number]
        ending = layout.SEALED if self.sealed_for else ""
        path = Path(row.holding) / (layout.part_name(frame.part, row.codec) + ending)
        data = bytearray(path.read_bytes())
        data[frame.place + frame.stored // 2] ^= 0xFF
        path.write_bytes(data)
        return frame


class DictTarget:
    """A target in memory that counts what is read, and can be away."""

    def __init__(self):
        self.files = {}
        self.reads = []
        self.away = False

    def read(self, name, offset=0, length=None):
        from backupcore.hookspecs import TargetError

        if self.away:
            raise TargetError("nobody answers", "look at the cable", retry=True)
        if name not in self.files:
            raise TargetError(f"there is no {name}")
        data = self.files[name]
        end = len(data) if length is None else offset + length
        if end > len(data):
            raise TargetError(f"{name} ends {end - len(data)} bytes too early")
        self.reads.append((name.rpartition("/")[2], offset, end - offset))
        yield data[offset:end]


class Peer:
    """An agent that unpacks into memory: tree is {path: (shown, identity)}."""

    def __init__(self, zstd=True):
        self.zstd = "zstandard" if zstd else None
        self.channel = self
        self.requests = []
        self.tree = {}
        self.names = {}
        self.failed = {}
        self.kinds = []  # of the messages, in their order
        self._arrived = threading.Event()
        self._archive = []
        self._digests = []
        self._asked = 0

    def __enter__(self):
        self._arrived.clear()
        self._archive, self._digests = [], []
        return self

    def __exit__(self, *_exc):
        self._arrived.set()

    def hello(self):
        return {"zstd": self.zstd, "gzip": True}

    def request(self, value):
        self.requests.append(value)

    def failure(self, error):
        return error

    def send(self, kind, *payloads):
        payload = b"".join(bytes(one) for one in payloads)
        self.kinds.append(kind)
        if kind == wire.EXPECT:
            assert len(payload) % 32 == 0
            self._digests += [payload[at : at + 32] for at in range(0, len(payload), 32)]
        elif kind == wire.FRAME:
            head, stored = wire.unpack_frame(payload)
            data = codec.get(self.requests[-1]["codec"]).decompress(stored, head.length)
            assert len(data) == head.length
            self._archive.append(data)
        elif kind == wire.ARCHIVE:
            self._archive.append(payload)
        else:
            assert kind == wire.END
            self._arrived.set()

    def flush(self):
        pass

    def expect(self, *_kinds):
        if wire.START in _kinds:
            return wire.START, {}
        assert self._arrived.wait(30)
        if self._archive is not None:
            self._unpack()
            self._archive = None
        return wire.DONE, {
            "files": sum(1 for shown, _ in self.tree.values() if shown[0] != "d"), "folders": 0, "bytes": 0,
            "failed": len(self.failed), "skipped": 0, "not_kept": [], "destination": "/out",
        }  # fmt: skip

    def _unpack(self):
        pieces = iter(self._archive)
        prefix = self.requests[-1]["prefix"].encode("utf-8", "surrogateescape")
        for member in pax.Reader(lambda _count: next(pieces, b""), many=True):
            path = b"/" + prefix + (b"" if member.path == b"." else b"/" + member.path)
            digest = self._digests.pop(0) if member.kind == "f" and member.size else None
            data = b"".join(bytes(piece) for piece in member.content())
            if digest is not None and hashlib.sha256(data).digest() != digest:
                self.failed[path] = "its content is not what the index says"
                continue
            if member.sparse is not None:
                whole, at = bytearray(member.size), 0
                for start, length in member.sparse:
                    whole[start : start + length] = data[at : at + length]
                    at += length
                data = bytes(whole)
            if member.kind == "h":
                first = b"/" + prefix + b"/" + member.link
                if first not in self.tree:
                    self.failed[path] = "links to nothing"
                    continue
                self.tree[path] = self.tree[first]
                continue
            if member.names is not None:
                self.names[path] = member.names
            shown = (member.kind, data, member.link, member.mode, member.mtime_ns, tuple(sorted(member.xattrs.items())))
            self.tree[path] = (shown, path)
        assert not self._digests


def expected(tree, root=b"/srv/data", keep=lambda path: True):
    """What a peer must have of a tree: {path: (shown, the names it shares)}."""
    found = {}
    for path, node in tree.items():
        if node.kind != "n" and keep(path):
            names = [other for other in tree if tree[other] is node and keep(other)] if node.kind != "d" else [path]
            found[_absolute(root, path)] = (node.shown, frozenset(_absolute(root, name) for name in names))
    return found


def received(peer):
    """The same of a peer."""
    groups = {}
    for path, (_shown, identity) in peer.tree.items():
        groups.setdefault(identity, set()).add(path)
    return {path: (shown, frozenset(groups[identity])) for path, (shown, identity) in peer.tree.items()}


def _absolute(root, path):
    return root if path == b"." else root.rstrip(b"/") + b"/" + path


def _is_dir(tree, path):
    node = tree.get(path)
    return node is not None and (node.kind == "d" or (node.kind == "n" and node.mode == 0o777))


def _same(tree, before, path):
    if path not in before or tree[path].shown != before[path].shown:
        return False
    if tree[path].kind == "d":
        return True
    # a name more or less changes the ctime of all names
    names = {other for other in tree if tree[other] is tree[path]}
    return names == {other for other in before if before[other] is before[path]}


def _member(path, node, first):
    """(bytes of the member, columns of its line up to sha256)."""
    name = order.member_name(path, node.kind == "d")
    common = (node.mode, 0, 0)
    if first != path:
        header = pax.member(name, "h", *common, 0, node.mtime_ns, order.member_name(first, False))
        return header, (path, "h", *common, len(node.data), node.mtime_ns, 0, 0, first, None)
    if node.kind == "f":
        stored = node.data
        if node.sparse is not None:
            stored = b"".join(node.data[start : start + length] for start, length in node.sparse)
        header = pax.member(
            name, "f", *common, len(node.data), node.mtime_ns, xattrs=node.xattrs, sparse=node.sparse
        )  # fmt: skip
        row = (path, "f", *common, len(node.data), node.mtime_ns, 0, 0, b"", hashlib.sha256(stored).digest())
        return header + stored + pax.padding(len(stored)), row
    header = pax.member(name, node.kind, *common, 0, node.mtime_ns, node.link, xattrs=node.xattrs)
    return header, (path, node.kind, *common, 0, node.mtime_ns, 0, 0, node.link, None)


def _stamp(ns):
    from backupcore import clock

    return clock.stamp(ns)

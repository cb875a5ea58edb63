"""Dumps that are only indexes, as an agent writes them, and what each of them says, told by the merge of a restore."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from backupcore.image import index, order
from backupcore.restore import view
from backupcore.search import store

SECOND = 1_000_000_000


def line(path, kind, content=b"", mtime_ns=SECOND, link=b"", flags=""):
    """A line as it stands in an index."""
    digest = hashlib.sha256(content).digest() if kind == "f" else None
    return index.format_entry(
        path, kind, 0o755 if kind == "d" else 0o644, 3, 4, len(content) if kind in "fh" else 0, mtime_ns, 0, 0, link,
        digest, 0, 512 if kind not in "-n" else 0, flags,
    )  # fmt: skip


@dataclass
class World:
    """Dumps of some sources. A tree is {path: (kind, content, mtime_ns, link)}; kind n: link says why."""

    state: Path
    rows: list = field(default_factory=list)
    lines: dict = field(default_factory=dict)

    def dump(self, lines, base=None, client="c1", source="s", root="/srv"):
        """A dump with these lines; its row."""
        number = len(self.rows)
        row = SimpleNamespace(
            id=f"20261122T{number:06d}Z-L{0 if base is None else 1}-{number:08x}", client=client, source=source,
            segment="", path=root, level=0 if base is None else 1, counter=number, base=base and base.id,
            begun_ns=number * 1000 * SECOND, entries=len(lines),
        )  # fmt: skip
        self.rows.append(row)
        self.lines[row.id] = list(lines)
        return row

    def full(self, tree, **more):
        """A full of a tree."""
        return self.dump([_line(path, tree[path]) for path in walk(tree)], **more)

    def incremental(self, tree, before, base, **more):
        """What changed between two trees, based on the dump of the second."""
        rows = {}
        for path, node in tree.items():
            if before.get(path) != node:
                rows[order.key(path, _dir(node))] = _line(path, node)
        for path, node in before.items():
            if path not in tree or _dir(tree[path]) != _dir(node):
                rows[order.key(path, _dir(node))] = line(path, "-", link=b"d" if _dir(node) else b"f")
        for path in {path for path in {*tree, *before} if tree.get(path) != before.get(path)}:
            above = path.rpartition(b"/")[0] or b"."
            if above in tree and above != path and _dir(tree[above]):
                rows[order.key(above, True)] = _line(above, tree[above])
        return self.dump([rows[key] for key in sorted(rows)], base=base, **more)

    def chunks(self, row, size=7):
        """The index of a dump in chunks."""
        lines = self.lines[row.id]
        return [b"".join(lines[at : at + size]) for at in range(0, len(lines), size)]

    def update(self, rows=None):
        """The histories, up to date."""
        return store.update(self.state, self.rows if rows is None else rows, self.chunks)

    def view(self, row):
        """{(path, is_dir): Entry} of a dump, as a restore sees it; what is not dumped too."""
        chain = [row]
        while chain[0].base:
            chain.insert(0, next(one for one in self.rows if one.id == chain[0].base))
        streams = [map(index.parse, [text[:-1] for text in self.lines[one.id]]) for one in chain]
        return {(one.entry.path, one.entry.is_dir): one for one in view.merge(streams)}


def walk(tree):
    """Paths in walk order."""
    return sorted(tree, key=lambda path: order.key(path, _dir(tree[path])))


def _dir(node):
    return node[0] == "d" or (node[0] == "n" and node[1] == b"d")


def _line(path, node):
    kind, content, mtime_ns, link = node
    if kind == "n":
        return line(path, "n", link=link, flags="d" if content == b"d" else "")
    return line(path, kind, content, mtime_ns, link)


def versions_of(world, client="c1", source="s", rows=None):
    """{path: [(identity, first, last, until, dumps)], the newest first} by looking at every dump; and what is gone."""
    rows = [row for row in rows or world.rows if (row.client, row.source) == (client, source)]
    views = [world.view(row) for row in rows]
    found = {}
    for key in {key for one in views for key in one}:
        spans, present = {}, False
        for place, one in enumerate(views):
            entry = one[key].entry if key in one else None
            present = entry is not None and entry.kind != "n"
            if present:
                span = spans.setdefault(identity(entry), [place, place, 0])
                span[1] = place
                span[2] += 1
        order_ = sorted(spans.items(), key=lambda item: -item[1][1])
        told = [
            (what, span[0], span[1], span[1] + 1 if number == 0 and not present else -1, span[2])
            for number, (what, span) in enumerate(order_)
        ]
        if told:
            found[key] = told
    return found


def identity(entry):
    """What makes two rows one content."""
    if entry.kind in "fh" and entry.sha256 is None:
        return entry.kind, entry.size, entry.mtime_ns
    return (entry.kind, entry.size, entry.sha256.hex()) if entry.kind == "f" else (entry.kind, entry.link)


def told(version):
    """The same of a version that a search found."""
    if version.kind in "fh" and not version.sha256:
        what = (version.kind, version.size, version.mtime_ns)
    else:
        what = (version.kind, version.size, version.sha256) if version.kind == "f" else (version.kind, version.link)
    return what, version.first, version.last, version.until, version.dumps

"""Archives that no agent of ours makes, signed by a server that did not know: each is told for what it is."""

from __future__ import annotations

import hashlib

import pytest

from backupcore.errors import ImageDamaged
from backupcore.image import index, order, pax
from backupcore.image.dumpdir import build_of
from backupcore.verify import content


def build(*members):
    """(read, rows) of an archive with these (path, kind, more) in this order; more: of the member and its row."""
    archive, lines, at = [], [], 0
    for path, kind, more in members:
        data = more.get("data", b"")
        link = more.get("link", b"")
        header = pax.member(
            order.member_name(path, kind == "d"), kind, 0o644, 0, 0, len(data), 5 * 10**9,
            order.member_name(link, False) if kind == "h" else link, dumpdir=more.get("dumpdir"),
        )  # fmt: skip
        member = header + data + pax.padding(len(data))
        digest = hashlib.sha256(more.get("indexed", data)).digest() if kind == "f" else None
        if "again" not in more:
            lines.append(index.format_entry(
                more.get("path", path), more.get("kind", kind), 0o644, 0, 0, more.get("size", len(data)), 5 * 10**9,
                5 * 10**9, 1, more.get("shown", link), digest, at + more.get("shift", 0), len(member),
            ))  # fmt: skip
        archive.append(member)
        at += len(member)
    pieces = iter([*archive, pax.END])
    return lambda _count: next(pieces, b""), lambda: index.read(iter(lines))


ROOT = (b".", "d", {})


def check(*members, full=True):
    return content.check(*build(*members), full)


def test_what_is_right_is_counted():
    assert check(ROOT, (b"a", "f", {"data": b"x" * 700}), (b"d", "d", {}), (b"d/h", "h", {"link": b"a"})) == 4


@pytest.mark.parametrize(
    ("members", "full", "why"),
    [
        ([(b"a", "l", {"link": b"/etc"}), (b"a", "d", {})], True, "something else at once"),
        ([(b"a", "l", {"link": b"/etc"}), (b"a/b", "d", {})], False, "something else at once"),
        ([(b"a", "f", {}), (b"b", "f", {}), (b"a/b/c", "f", {})], False, "something else at once"),
        ([(b"a/b", "f", {})], True, "below a folder that is not in the dump"),
        ([(b"a", "l", {"link": b"/etc"}), (b"x", "h", {"link": b"a/shadow"})], False, "leads through a"),
        ([(b"x", "h", {"link": b"y"}), (b"y", "f", {})], True, "does not come before"),
        ([(b"a", "f", {"data": b"one", "indexed": b"two"})], True, "content of a"),
        ([(b"a", "f", {"data": b"one", "size": 2})], True, "another in the archive"),
        ([(b"a", "l", {"link": b"b", "shown": b"c"})], True, "another in the archive"),
        ([(b"a", "p", {"kind": "f"})], True, "another in the archive"),
        ([(b"a", "f", {"path": b"b"})], True, "does not have there"),
        ([(b"a", "f", {"shift": 512})], True, "does not have there"),
        ([(b"a", "f", {"again": True})], True, "does not have there"),
        ([(b"d", "d", {}), (b"e", "d", {}), (b"d", "d", {"again": True})], False, "does not have there"),
        ([(b"d", "d", {"dumpdir": build_of([(b"x", "Y")])})], True, "a full holds"),
    ],
)  # fmt: skip
def test_what_no_archive_holds_is_refused(members, full, why):
    with pytest.raises(ImageDamaged, match=why):
        check(ROOT, *members, full=full)


def test_a_folder_may_be_written_again_while_it_is_open():
    listed = build_of([(b"f", "Y")])
    again = (b"d", "d", {"again": True, "dumpdir": listed})
    assert check(ROOT, (b"d", "d", {"dumpdir": listed}), (b"d/f", "f", {}), again, full=False) == 3


def test_a_rename_record_is_refused(monkeypatch):
    class Renaming:
        length = 12

        @staticmethod
        def pieces():
            yield b"Ra\0Tb\0Yc\0\0\0\0"

    with pytest.raises(ImageDamaged, match="list of a folder's names"):
        check(ROOT, (b"d", "d", {"dumpdir": Renaming}), full=False)


def test_a_member_more_and_a_member_less():
    read, rows = build(ROOT, (b"a", "f", {}))
    with pytest.raises(ImageDamaged, match="lacks b"):
        content.check(read, lambda: iter([*rows(), index.Entry(b"b", "f", offset=10**6, length=512)]), True)


def test_the_names_of_a_folder_of_a_million_take_eight_bytes_each():
    folders = content._Folders(True)
    folders.enter(index.Entry(b".", "d"))
    for number in range(100_000):
        folders.enter(index.Entry(b"f%07d" % number, "f"))
    assert folders._stack[0].others.itemsize * len(folders._stack[0].others) == 800_000
    folders.enter(index.Entry(b"g", "d"))
    with pytest.raises(ImageDamaged, match="something else at once"):
        folders.enter(index.Entry(b"f0012345", "d"))

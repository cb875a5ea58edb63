"""docs/format.md says what the code does: names, columns and limits are compared."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from backupcore.image import folder, frames, index, layout, lines, manifest, order, pax, unpax

TEXT = (Path(__file__).resolve().parents[4] / "docs" / "format.md").read_text("utf-8")


def chapter(title):
    """The text below a heading, to the next of any depth."""
    return re.search(r"^#+ %s\n(.*?)(?=^#|\Z)" % re.escape(title), TEXT, re.M | re.S).group(1)


def first_column(text):
    """Every word of the first columns of the tables in text, without heading."""
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    return [word.strip(" `") for row in rows for word in row.split(",") if word.strip(" `-")]


def test_columns_of_the_index():
    expected = [name.replace("_ns", "") for name in index.Entry._fields]
    found = first_column(chapter("index.tsv"))

    assert found[found.index("path") :] == expected
    assert all("`%s`" % reason.decode() in chapter("index.tsv") for reason in index.REASONS)


def test_columns_of_the_frame_table():
    found = first_column(chapter("frames.tsv"))

    assert found[found.index("part") :] == list(frames.Frame._fields)


def test_fields_of_the_manifest():
    names = {one.name.replace("_ns", "") for one in dataclasses.fields(manifest.Manifest)} - {"index", "frames"} | {
        "files"
    }

    found = first_column(chapter("SHA256SUMS, manifest.json, manifest.sig"))
    assert set(found) - {"field"} == names and len(found) - 1 == len(names)


def test_kinds_and_their_types():
    rows = re.findall(r"^\| (`.`(?:, `.`)*) [^|]*\| (`.`(?:, `.`)*) \|", chapter("Members"), re.M)
    found = {}
    for kinds, types in rows:
        found.update(zip(re.findall("`(.)`", kinds), (letter.encode() for letter in re.findall("`(.)`", types))))

    assert found == unpax.TYPES


def test_records():
    text = chapter("Members")
    header = pax.member(
        b"./" + b"n" * 300, "l", 0o777, 2**31, 2**31, 0, 1, b"l" * 300,
        xattrs={b"user.a": b"1", b"security.selinux": b"x\0", b"system.posix_acl_access": b"\2\0\0\0"},
    )  # fmt: skip
    written = re.findall(rb"(?:^|\n)\d+ ([A-Za-z.]+)", header[512:-512])

    assert len(written) >= 8
    for name in written:
        assert (b"SCHILY.xattr.NAME" if name.startswith(b"SCHILY.xattr") else name).decode() in text
    assert [name for name in written if b"." not in name] == [b"path", b"linkpath", b"uid", b"gid", b"mtime"]


def test_limits():
    for number in (
        "10,000 parts" if layout.MAX_PARTS == 10_000 else "", "65,536" if pax.MAX_SEGMENTS == 65_536 else "",
        "at most %d MiB" % (lines.MAX_LINE >> 20), "(a reader takes up to %d MiB)" % (frames.MAX_LENGTH >> 20),
        "more than %d MiB of records" % (unpax.RECORDS_LIMIT >> 20), "at most %d MiB" % (manifest.SIZE_LIMIT >> 20),
    ):  # fmt: skip
        assert number and number in TEXT.replace("\n", " ")


def test_the_example_of_the_order():
    paths = [(b"a", True), (b"a/x", False), (b"a-b", False)]

    assert [path for path, _dir in sorted(paths, key=lambda one: order.key(*one))] == [b"a-b", b"a", b"a/x"]
    assert "come as `a-b`, `a`, `a/x`" in TEXT


def test_the_bytes_of_a_manifest_are_as_said():
    data = manifest._dump({"b": [1], "a": None})

    assert data == b'{\n "a": null,\n "b": [\n  1\n ]\n}\n' and json.loads(data)
    assert folder.sums_text([manifest.FileRecord("n", 1, "d")]) == b"d  n\n"

"""Index files as chunks: only what is asked for is parsed, and it is all of it."""

from __future__ import annotations

import pytest

from backupcore.errors import ImageDamaged
from backupcore.image.index import Entry, format_entry, parse
from backupcore.restore import indexes

PATHS = [
    (b".", "d"), (b"-", "f"), (b"a", "f"), (b"a.b", "f"), (b"\n", "d"), (b"\n/x", "f"), (b"-", "d"), (b"-/a", "f"),
    (b"a", "d"), (b"a/-", "f"), (b"a/b", "f"), (b"a/b", "d"), (b"a/b/c", "f"), (b"a-b", "d"), (b"a-b/a", "f"),
]  # fmt: skip
LINES = [
    format_entry(path, kind, sha256=bytes(32) if kind == "f" else None, length=512)
    for path, kind in sorted(PATHS, key=lambda row: Entry(*row).key())
]


def chunked(lines, size):
    text = b"".join(lines)
    return indexes.whole_lines(text[at : at + size] for at in range(0, len(text), size))


@pytest.mark.parametrize("size", [1, 50, 170, 10_000])
@pytest.mark.parametrize(
    "bases", [[b"a"], [b"a/b"], [b"-"], [b"\n"], [b"a", b"\n/x"], [b"none"], [b"a/b/c"], [b"a/-", b"-/a"]]
)
@pytest.mark.parametrize("few", [True, False])
def test_below_gives_the_paths_all_below_them_and_their_parents(bases, size, few, monkeypatch):
    if not few:
        monkeypatch.setattr(indexes, "_FEW", 0)
    parents = {b"/".join(base.split(b"/")[:count]) for base in bases for count in range(1, base.count(b"/") + 1)}
    wanted = [
        parse(line[:-1]) for line in LINES
        if any(parse(line[:-1]).path in (base, b".") or parse(line[:-1]).path.startswith(base + b"/") for base in bases)
        or parse(line[:-1]).path in parents
    ]  # fmt: skip
    assert list(indexes.entries(chunked(LINES, size), bases)) == wanted
    assert list(indexes.entries(chunked(LINES, size))) == [parse(line[:-1]) for line in LINES]


def test_an_index_out_of_order_or_cut_is_refused():
    with pytest.raises(ImageDamaged, match="out of order"):
        list(indexes.entries(chunked([LINES[2], LINES[1]], 100)))
    with pytest.raises(ImageDamaged, match="ends inside"):
        list(chunked([LINES[0], LINES[1][:-1]], 100))


def test_columns_are_those_of_the_members():
    digest = bytes(range(32))
    rows = [
        format_entry(b".", "d", offset=0, length=512),
        format_entry(b"empty", "f", sha256=digest, offset=512, length=512),
        format_entry(b"gone", "-", link=b"f"),
        format_entry(b"f", "f", size=9, sha256=digest, offset=1024, length=1024),
        format_entry(b"out", "n", link=b"excluded"),
        format_entry(b"no digest", "f", size=9, offset=2048, length=1024),
        format_entry(b"h", "h", size=9, link=b"f", offset=3072, length=512),
    ]
    found = indexes.columns(b"".join(rows))
    assert found.paths == [b".", b"empty", b"f", b"no digest", b"h"]
    assert found.offsets == [0, 512, 1024, 2048, 3072] and found.ends == [512, 1024, 2048, 3072, 3584]
    assert found.digests == [b"", b"", digest, indexes.UNKNOWN, b""] and found.missing == ["excluded"]
    assert [found.entry(number).path for number in range(5)] == found.paths


@pytest.mark.parametrize("harm", [b"\tf\t644\n", b"\t".join([b"x"] * 13) + b"\n", b"\t".join([b"x"] * 15) + b"\n"])
def test_columns_refuse_lines_that_are_none(harm):
    with pytest.raises(ImageDamaged):
        indexes.columns(LINES[0] + harm)
    good = format_entry(b"f", "f", size=9, sha256=bytes(32), offset=0, length=1024)
    for old, new in ((b"\t1024\t", b"\tmany\t"), (b"0" * 64, b"0" * 62), (b"0" * 64, b"g" * 64)):
        with pytest.raises(ImageDamaged):
            indexes.columns(good.replace(old, new))

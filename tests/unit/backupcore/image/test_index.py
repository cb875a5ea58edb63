"""The index: any entry comes back, in walk order, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.errors import ImageDamaged
from backupcore.image import index
from backupcore.image.index import Entry

names = st.binary(min_size=1).filter(lambda name: not set(name) & {0, 0x2F} and name not in (b".", b".."))
paths = st.one_of(st.just(b"."), st.lists(names, min_size=1, max_size=4).map(b"/".join))
times = st.integers(-(10**26), 10**26)
counts = st.integers(0, 2**64 - 1)
lengths = st.integers(0, 2**63 - 1)


@st.composite
def entries(draw):
    kind = draw(st.sampled_from("fdlhcbp-n"))
    link = draw(
        {
            "l": st.binary(min_size=1).filter(lambda target: b"\0" not in target),
            "h": paths,
            "c": st.just(b"8,1048575"),
            "b": st.just(b"259,70000"),
            "-": st.sampled_from([b"f", b"d"]),
            "n": st.sampled_from(sorted(index.REASONS)),
        }.get(kind, st.just(b""))
    )
    known = kind not in "-n"
    return Entry(
        draw(paths), kind, draw(st.integers(0, 0o7777)), draw(counts), draw(counts), draw(lengths), draw(times),
        draw(times), draw(counts), link, draw(st.none() | st.binary(min_size=32, max_size=32)) if kind == "f" else None,
        draw(lengths) if known else 0, draw(lengths) if known else 0,
        draw(st.sampled_from(["", "s", "m", "h", "sh", "smhd", "d"])),
    )  # fmt: skip


@given(entries())
def test_any_entry_comes_back(entry):
    line = index.format_entry(*entry)

    assert line.count(b"\n") == 1 and line.endswith(b"\n") and line.count(b"\t") == 13
    assert index.parse(line[:-1]) == entry


@given(st.lists(entries(), max_size=8, unique_by=lambda entry: entry.key()), st.integers(1, 200))
def test_an_index_comes_back_in_walk_order_only(found, step):
    found.sort(key=Entry.key)
    data = b"".join(index.format_entry(*entry) for entry in found)

    assert list(index.read(data[place : place + step] for place in range(0, len(data), step))) == found
    if len(found) > 1:
        data = b"".join(index.format_entry(*entry) for entry in reversed(found))
        with pytest.raises(ImageDamaged, match="out of order"):
            list(index.read([data]))


def test_the_line_as_the_format_says():
    entry = Entry(b"a/\xff\n", "f", 0o4755, 1000, 2500001, 3, -500_000_000, 1_700_000_000_000_000_009, 77, b"",
                  bytes(range(32)), 1024, 1536, "s")  # fmt: skip
    expected = b"a/\xff\\x0a\tf\t4755\t1000\t2500001\t3\t-0.500000000\t1700000000.000000009\t77\t-\t"

    assert index.format_entry(*entry) == expected + bytes(range(32)).hex().encode() + b"\t1024\t1536\ts\n"
    assert index.format_entry(b"-", "-", link=b"d") == b"\\x2d\t-" + b"\t-" * 7 + b"\td\t-\t-\t-\t-\n"
    assert index.format_entry(b"s", "n", link=b"socket") == b"s\tn" + b"\t-" * 7 + b"\tsocket\t-\t-\t-\t-\n"


def test_places_in_the_order():
    """A gone row and an n row stand where the thing itself stood; a name that changed its type has two places."""
    assert Entry(b"a", "-", link=b"d").key() == Entry(b"a", "d").key() != Entry(b"a", "f").key()
    assert Entry(b"a", "-", link=b"f").key() == Entry(b"a", "l", link=b"x").key()
    assert Entry(b"a", "n", link=b"excluded", flags="d").key() == Entry(b"a", "d").key()
    assert Entry(b"a", "n", link=b"excluded").key() == Entry(b"a", "f").key()


GOOD = index.format_entry(b"a/b", "f", 0o644, 1, 2, 3, 4, 5, 6, b"", bytes(32), 512, 1024)[:-1].split(b"\t")
COLUMNS = "path kind mode uid gid size mtime ctime inode link sha256 offset length flags".split()


@pytest.mark.parametrize(
    "column, value",
    [("path", value) for value in ("", "-", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.")]
    + [("path", value) for value in ("a\\x00", "a\x01", "\\x41", "a\\")]
    + [("kind", value) for value in ("", "x", "ff", "F", "-", "n", "l", "h", "c", "d")]
    + [("mode", value) for value in ("", "-", "9", "10000", "0o7", "-1", "07", " 7", "7_7")]
    + [("uid", value) for value in ("", "-", "-1", "+1", "1.0", "٣", "1" * 30)]
    + [(name, value) for name in ("size", "offset", "length") for value in ("-", "x", str(1 << 63), "9" * 20)]
    + [("mtime", value) for value in ("", "-", "1", "1.5", "1.0000000000", "--1.000000000", "1e9", "x.000000000")]
    + [("link", value) for value in ("x", "")]
    + [("sha256", value) for value in ("", "00", "0" * 63, "g" * 64, "0" * 66)]
    + [("flags", value) for value in ("", "z", "xs", "ms", "ss", "s s")],
)  # fmt: skip
def test_a_line_that_cannot_be_is_refused(column, value):
    fields = list(GOOD)
    assert index.parse(b"\t".join(fields)).path == b"a/b"
    fields[COLUMNS.index(column)] = value.encode()
    with pytest.raises(ImageDamaged):
        index.parse(b"\t".join(fields))


@pytest.mark.parametrize("name", ["size", "offset", "length"])
def test_the_largest_number_of_bytes_that_a_system_can_tell_is_taken(name):
    fields = list(GOOD)
    fields[COLUMNS.index(name)] = b"%d" % index.LARGEST
    assert getattr(index.parse(b"\t".join(fields)), name) == index.LARGEST


def test_lines_with_too_few_or_many_columns_are_refused():
    for fields in (GOOD[:-1], [*GOOD, b"-"], []):
        with pytest.raises(ImageDamaged):
            index.parse(b"\t".join(fields))


@pytest.mark.parametrize(
    "kind, link",
    [("-", b"x"), ("-", b""), ("n", b"because"), ("h", b""), ("h", b"../x"), ("h", b"/etc/passwd"), ("l", b""),
     ("c", b"1"), ("b", b"1,2,3"), ("d", b"x"), ("p", b"x")],
)  # fmt: skip
def test_a_link_that_does_not_fit_its_kind_is_refused(kind, link):
    with pytest.raises(ImageDamaged):
        index.parse(index.format_entry(b"a", kind, link=link)[:-1])


@pytest.mark.parametrize("place", [b"-\t8", b"8\t-"])
def test_what_is_gone_has_no_place_in_the_archive(place):
    line = b"gone\t" + b"-\t" * 8 + b"f\t-\t" + place + b"\t-"
    index.parse(line.replace(b"8", b"-"))
    with pytest.raises(ImageDamaged):
        index.parse(line)

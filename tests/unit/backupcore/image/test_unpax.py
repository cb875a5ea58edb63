"""The reader on hostile archives: refused in one line, whatever the bytes, within its bounds."""

from __future__ import annotations

import io
import random

import pytest

from backupcore.errors import ImageDamaged
from backupcore.image import dumpdir, pax


def header(
    name=b"./a", kind=b"0", size=b"00000000000", link=b"", mode=b"0000644", magic=b"ustar\00000", mtime=b"00000000000"
):
    """A header as an attacker writes it, with a right checksum."""
    block = bytearray(512)
    for place, value in (
        (0, name), (100, mode), (108, b"0000000"), (116, b"0000000"), (124, size), (136, mtime), (148, b" " * 8),
        (156, kind), (157, link), (257, magic), (329, b"0000000"), (337, b"0000000"),
    ):  # fmt: skip
        block[place : place + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(*records, length=None):
    """An x header with these bytes as its records."""
    data = b"".join(records)
    return header(b"x", b"x", b"%011o" % (len(data) if length is None else length)) + data + pax.padding(len(data))


def sparse(text, size=b"1000", stored=512, **more):
    """A sparse member with this text as its map."""
    records = [pax.record(b"GNU.sparse.major", b"1"), pax.record(b"GNU.sparse.minor", b"0"),
               pax.record(b"GNU.sparse.name", b"./s"), pax.record(b"GNU.sparse.realsize", size)]  # fmt: skip
    return extended(*records) + header(size=b"%011o" % stored, **more) + text + pax.padding(len(text)) + bytes(4096)


def refuse(data, match=None, many=False, **options):
    """Reading data to its end is refused with ImageDamaged, also behind good members: then its owner and its xattrs
    are known, and the reader tries its short way."""
    for before in (b"", GOOD + LABELLED):
        stream = io.BytesIO(before + data)
        with pytest.raises(ImageDamaged, match=match):
            for member in pax.Reader(stream.read, many, **options):
                for _piece in member.content():
                    pass


def labelled(name, kind, size, mtime_ns=1_700_000_000_123_456_789):
    """A member with xattrs."""
    xattrs = {b"security.selinux": b"label\0", b"user.a": b"b"}
    return pax.member(name, kind, 0o644, 0, 0, size, mtime_ns, xattrs=xattrs)


LABELLED = labelled(b"./l", "f", 0) + labelled(b"./f/", "d", 0)
GOOD = pax.regular(b"./a", 0o644, 0, 0, 3, 5) + b"abc" + bytes(509)
PLAIN = pax.regular(b"./a", 0o644, 0, 0, 3, 1_700_000_000_000_000_000) + b"abc" + bytes(509)
TODAY = pax.regular(b"./a", 0o644, 0, 0, 3, 1_700_000_000_123_456_789) + b"abc" + bytes(509)


def test_the_attackers_header_is_a_header():
    assert next(pax.Reader(io.BytesIO(header()).read)).name == b"./a"


@pytest.mark.parametrize(
    "name",
    [b"/etc/passwd", b"a", b"", b".", b"..", b"./..", b"./../a", b"./a/../b", b"./a/..", b"./a//b", b"./a/./b", b"./.",
     b"./a/", b"././a", b"./", b"../a", b".//a"],
)  # fmt: skip
def test_a_file_outside_or_written_oddly_is_refused(name):
    refuse(header(name) + pax.END, "a name")
    refuse(extended(pax.record(b"path", name)) + header() + pax.END, "a name")


@pytest.mark.parametrize("name", [b"./a", b"./a//", b"./../", b"/", b"./a/../", b".//"])
def test_a_folder_outside_or_written_oddly_is_refused(name):
    refuse(header(name, b"5") + pax.END, "a name")


def test_nul_in_a_name_is_refused():
    refuse(extended(pax.record(b"path", b"./a\0b")) + header() + pax.END, "a name")
    refuse(header(b"./a\0b") + pax.END, "a name")
    refuse(extended(pax.record(b"linkpath", b"a\0b")) + header(kind=b"2") + pax.END, "symbolic link")


@pytest.mark.parametrize("link", [b"", b"/etc/passwd", b"a", b"./../a", b"./", b"./a/"])
def test_a_hard_link_outside_is_refused(link):
    refuse(header(kind=b"1", link=link) + pax.END, "hard link")


def test_links_at_what_is_no_link_and_to_nothing_are_refused():
    refuse(header(kind=b"2") + pax.END, "symbolic link")
    refuse(header(kind=b"0", link=b"x") + pax.END, "a link")
    refuse(header(b"./d/", kind=b"5", link=b"x") + pax.END, "a link")


@pytest.mark.parametrize("kind", [b"7", b"\0", b"L", b"K", b"g", b"D", b"S", b"M", b"V", b"A", b"x", b"X", b"\xff"])
def test_other_types_are_refused(kind):
    refuse(extended(pax.record(b"mtime", b"1")) + header(kind=kind) + pax.END)
    if kind != b"x":
        refuse(header(kind=kind) + pax.END)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6"])
def test_content_behind_what_is_no_file_is_refused(kind):
    name = b"./a/" if kind == b"5" else b"./a"
    refuse(header(name, kind, b"00000001000", link=b"./b" if kind in b"12" else b"") + bytes(2048), "no file")


@pytest.mark.parametrize(
    "number",
    [
        b"0000000000x",
        b"00000000008",
        b"-0000000001",
        b"          0",
        b"\x80" + bytes(10),
        b"0_000000000",
        b"00000000000 ",
    ],
)
def test_numbers_that_are_none_are_refused(number):
    refuse(header(size=number) + pax.END, "a number")
    refuse(header(mtime=number) + pax.END, "a number")


def test_modes_beyond_12_bits_magic_and_checksum_are_checked():
    refuse(header(mode=b"0010000") + pax.END, "a mode")
    refuse(header(magic=b"ustar  \0") + pax.END, "magic")
    for good in (GOOD, PLAIN, TODAY, labelled(b"./l", "f", 3) + PLAIN[-512:], labelled(b"./f/", "d", 0) + bytes(512)):
        for start in range(0, len(good) - 512, 512):
            if b"label" in good[start : start + 512]:
                continue  # the bytes of an xattr are what they are
            for place in (*range(start, start + 200, 3), start + 257, start + 345, start + 511):
                broken = bytearray(good)
                broken[place] ^= 0x10
                refuse(bytes(broken) + pax.END)


@pytest.mark.parametrize(
    "record",
    [b"", b"x", b"5", b"10 a=bcd\n", b"9 a=bcd\n", b"8 a=bcdx", b"7 a=bc\n8 a=bcd\n"[:-1], b"-8 a=bcd\n", b"+8 a=bcd\n",
     b"08 a=bcd\n", b"99999999999 a=b\n", b"6 =ab\n", b"6 abc\n", b"0 a=b\n", b"6 a=b\n6 a=b\n", b"\xb28 a=bc\n",
     b"13 comment=xy\n", b"16 unknown.key=1"[:16]],
)  # fmt: skip
def test_records_that_cannot_be_read_are_refused(record):
    refuse(extended(record) + header() + pax.END)


@pytest.mark.parametrize("key", ["size", "uid", "gid", "mtime", "GNU.sparse.realsize"])
@pytest.mark.parametrize("value", [b"", b"-1x", b"1e5", b" 1", b"1 ", b"01", b"0x10", b"9" * 30, b"1.5.5", b"NaN"])
def test_values_that_are_no_numbers_are_refused(key, value):
    refuse(extended(pax.record(key.encode(), value)) + header() + pax.END, "a number|a time")


def test_xattrs_and_acls_that_cannot_be_are_refused():
    for record in (
        pax.record(b"SCHILY.xattr.", b"x"), pax.record(b"SCHILY.xattr.user.%zz", b"x"),
        pax.record(b"SCHILY.xattr.user.a\0b", b"x"), pax.record(b"SCHILY.acl.access", b"user:bob:rwx"),
    ):  # fmt: skip
        refuse(extended(record) + header() + pax.END, "xattr|ACL")


LONE = b"30 mtime=1700000000.123456789\n"


@pytest.mark.parametrize(
    "text",
    [
        b"30 atime=1700000000.123456789\n", b"30 mtime=17000000001123456789\n", b"30 mtime=1700000000.12345678x\n",
        b"30 mtime=1700000000.123456789 ", b"30 mtime=1_00000000.123456789\n", b"31 mtime=1700000000.123456789\n",
        b"30 mtime=+700000000.123456789\n", b"30 mtime=1700000000,123456789\n", b"30 mtime=1700000000.12345 789\n",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_lone_time_is_refused(text):
    assert len(text) == len(LONE) and LONE in TODAY
    refuse(TODAY.replace(LONE, text) + pax.END)


def test_what_stands_behind_a_lone_time_is_refused():
    refuse(TODAY.replace(LONE + b"\0", LONE + b"x") + pax.END)


def test_a_record_given_twice_is_refused():
    refuse(extended(pax.record(b"mtime", b"1"), pax.record(b"mtime", b"2")) + header() + pax.END, "twice")


def test_a_list_of_names_at_a_file_is_refused():
    refuse(extended(pax.record(b"GNU.dumpdir", b"\0")) + header() + pax.END, "no folder")


def test_extended_headers_beyond_the_limit_are_refused_unread():
    head = extended(length=(512 << 20) + 1)

    def read(_count, given=[head]):  # noqa: B006
        assert given, "read on"
        return given.pop()

    with pytest.raises(ImageDamaged, match="extended header of"):
        next(pax.Reader(read))
    record = dumpdir.build([b"%06d" % number for number in range(10_000)], b"Y" * 10_000)
    refuse(pax.member(b"./", "d", 0, 0, 0, dumpdir=record) + pax.END, "extended header of", records_limit=50_000)
    refuse(extended(length=0) + header() + pax.END, "extended header of")


@pytest.mark.parametrize("end", [1, 100, 511, 513, 600, 1023])
def test_a_cut_archive_is_refused(end):
    for many in (False, True):
        refuse(GOOD[:end], "cut", many)
        refuse(pax.regular(b"./" + b"x" * 200, 0, 0, 0, 0, 1)[:end], "cut", many)


def test_an_archive_without_its_end_is_refused_unless_members_alone_were_asked_for():
    refuse(GOOD, "its end is missing")
    refuse(GOOD + bytes(512), "behind its end")
    refuse(GOOD + pax.END + GOOD, "behind its end")
    refuse(GOOD + bytes(512) + GOOD, "behind its end")
    found = list(pax.Reader(io.BytesIO(GOOD + pax.END + GOOD + bytes(512) + GOOD).read, many=True))
    assert [member.path for member in found] == [b"a"] * 3


@pytest.mark.parametrize(
    "text, stored, size",
    [
        (b"", 512, b"1000"), (b"x\n", 512, b"1000"), (b"0\n", 512, b"1000"), (b"1\n1000\n", 512, b"1000"),
        (b"1\n999\n0\n", 512, b"1000"), (b"1\n1000\n1\n", 512, b"1000"), (b"-1\n1000\n0\n", 512, b"1000"),
        (b"2\n0\n512\n1000\n0\n", 512, b"1000"), (b"2\n0\n512\n1000\n0\n", 2048, b"1000"),
        (b"2\n1\n512\n1000\n0\n", 1024, b"1000"), (b"2\n0\n0\n1000\n0\n", 512, b"1000"),
        (b"2\n0\n1024\n1000\n0\n", 1536, b"1000"), (b"3\n512\n512\n0\n512\n9000\n0\n", 1536, b"9000"),
        (b"3\n0\n1024\n512\n512\n9000\n0\n", 2048, b"9000"), (b"2\n0\n100\n9000\n0\n", 612, b"9000"),
        (b"1\n1000\n0\n7\n", 512, b"1000"), (b"1\n1000\n0\nx", 512, b"1000"), (b"99999999\n", 512, b"1000"),
        (b"1\n1000\n0\n", 0, b"1000"),
    ],
)  # fmt: skip
def test_sparse_maps_that_do_not_fit_are_refused(text, stored, size):
    refuse(sparse(text, size, stored), "sparse|number")


def test_a_sparse_map_without_end_is_refused_before_it_fills_the_memory():
    head = sparse(b"")[: 1024 + 512]
    head = sparse(b"", stored=0o77777777777)[: len(head)]
    count = [0]

    def endless(_count):
        count[0] += 1
        assert count[0] < 100, "read on"
        return head if count[0] == 1 else b"900000000\n" + b"1\n" * (1 << 19)

    with pytest.raises(ImageDamaged, match="of 900000000 segments"):
        next(pax.Reader(endless))


def test_sparse_members_of_other_kinds_are_refused():
    for records in (
        [(b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1"), (b"GNU.sparse.map", b"0,1")],
        [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")],
        [(b"GNU.sparse.realsize", b"1")],
        [(b"GNU.sparse.name", b"./x")],
    ):
        refuse(extended(*(pax.record(*record) for record in records)) + header() + pax.END, "sparse|record")
    refuse(sparse(b"1\n1000\n0\n", kind=b"2", link=b"x"), "sparse|name")


def test_random_bytes_never_do_anything_else_than_be_refused():
    dice = random.Random(5)
    good = (
        GOOD
        + pax.member(b"./" + b"n" * 300, "f", 0o644, 2**31, 0, 5, -7, xattrs={b"user.a": b"b"})
        + b"12345".ljust(512, b"\0")
    )
    good += pax.member(b"./s", "f", 0, 0, 0, 5000, sparse=[(0, 512)]) + bytes(512) + pax.END
    list(pax.Reader(io.BytesIO(good).read))
    for _ in range(1500):
        data = bytearray(good)
        for _change in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            for member in pax.Reader(io.BytesIO(bytes(data)).read):
                assert member.name.startswith(b"./") and b".." not in member.name.split(b"/")
                for _piece in member.content():
                    pass
        except ImageDamaged:
            pass


def test_the_short_way_and_the_long_way_read_the_same():
    """The same members: read together the short way, one by one the long way."""
    made = [PLAIN, TODAY, GOOD]
    for number in range(3):
        made += [labelled(b"./l%d" % number, "f", 3, 1_700_000_000_000_000_007 + number) + PLAIN[-512:]]
        made += [labelled(b"./l%d/" % number, "d", 0), pax.member(b"./p%d/" % number, "d", 0o644, 0, 0, 0, 5 * 10**9)]
        made += [pax.member(b"./", "d", 0o644, 0, 0, 0, 1_700_000_000_123_456_789 + number), TODAY]
        made += [labelled(b"./whole/", "d", 0, 1_700_000_000_000_000_000)]
        listed = dumpdir.build_of([(b"a", "Y")])
        made += [
            pax.member(b"./i/", "d", 0o644, 0, 0, 0, 1_700_000_000_000_000_001, b"", (0, 0), {b"user.a": b"b"}, listed)
        ]

    def fields(member):
        names = "name path kind mode uid gid size stored mtime_ns link dev xattrs dumpdir names sparse".split()
        return [getattr(member, name) for name in names] + [member.read()]

    together = [fields(member) for member in pax.Reader(io.BytesIO(b"".join(made) + pax.END).read)]
    alone = [fields(next(pax.Reader(io.BytesIO(one).read))) for one in made]
    assert together == alone and len(together) == len(made)


def test_content_of_a_member_already_passed_is_not_given():
    reader = pax.Reader(io.BytesIO(GOOD + GOOD + pax.END).read)
    first = next(reader)
    next(reader)
    with pytest.raises(RuntimeError):
        list(first.content())


def test_content_left_unread_is_skipped_and_places_are_right():
    reader = pax.Reader(io.BytesIO(GOOD * 5 + pax.END).read)

    assert [member.offset for member in reader] == [number * len(GOOD) for number in range(5)]
    assert reader.offset == 5 * len(GOOD) + 1024

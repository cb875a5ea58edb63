"""The archive: what is written is read, by our reader, by GNU tar and by Python's tarfile."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupcore.image import dumpdir, order, pax

NS = 10**9
names = st.binary(min_size=1, max_size=130).filter(lambda name: not set(name) & {0, 0x2F} and name not in (b".", b".."))
paths = st.lists(names, min_size=1, max_size=12).map(b"/".join)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and capabilities need root")


def archive(*members):
    """An archive of (header, content) pairs."""
    return b"".join(header + content + pax.padding(len(content)) for header, content in members) + pax.END


def read(data, step=1 << 20, **options):
    """(member, content) of each member, read in chunks of step bytes."""
    stream = io.BytesIO(data)
    return [(one, b"".join(one.content())) for one in pax.Reader(lambda _count: stream.read(step), **options)]


@st.composite
def members(draw):
    """(kind, path, fields) of any member."""
    kind = draw(st.sampled_from("fdlhcbp"))
    fields = {
        "mode": draw(st.integers(0, 0o7777)), "uid": draw(st.integers(0, 2**32 - 1)),
        "gid": draw(st.integers(0, 2**32 - 1)), "mtime_ns": draw(st.integers(-(10**20), 10**20)),
        "xattrs": draw(st.dictionaries(
            st.one_of(names.map(lambda name: b"user." + name), st.just(b"security.capability")),
            st.binary(max_size=900), max_size=3,
        )),
    }  # fmt: skip
    if kind == "l":
        fields["link"] = draw(st.binary(min_size=1, max_size=300).filter(lambda link: b"\0" not in link))
    elif kind == "h":
        fields["link"] = draw(paths)
    elif kind in "cb":
        fields["dev"] = draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))
    elif kind == "d" and draw(st.booleans()):
        fields["dumpdir"] = draw(st.dictionaries(names, st.sampled_from("YDN"), max_size=5))
    return kind, draw(paths), fields, draw(st.binary(max_size=1500)) if kind == "f" else b""


@given(st.lists(members(), max_size=6), st.integers(1, 3000))
def test_any_members_come_back(listed, step):
    made = []
    for kind, path, fields, content in listed:
        values = dict(fields)
        if "dumpdir" in values:
            values["dumpdir"] = dumpdir.build_of(values["dumpdir"].items())
        if kind == "h":
            values["link"] = order.member_name(values["link"], False)
        made.append((pax.member(order.member_name(path, kind == "d"), kind, size=len(content), **values), content))
    data = archive(*made)
    offset = 0
    found = read(data, step)

    assert len(found) == len(listed)
    for (one, content), (kind, path, fields, expected), (header, _content) in zip(found, listed, made):
        assert (one.kind, one.path, content, one.offset) == (kind, path, expected, offset)
        assert (one.size, one.stored) == (len(expected), len(expected))
        for name, value in fields.items():
            if name == "dumpdir":
                assert dict(dumpdir.parse(one.dumpdir)) == value
            else:
                assert getattr(one, name) == value, name
        offset += len(header) + len(content) + -len(content) % 512


@settings(max_examples=200)
@given(
    paths, st.integers(0, 0o7777), st.integers(0, 2**32), st.integers(0, 2**32),
    st.integers(0, 2**40), st.one_of(st.integers(0, 10**10).map(lambda s: s * NS), st.integers(-(10**19), 10**19)),
    st.sampled_from([None, {}, {b"security.selinux": b"label\0"}, {b"user.a": b"1", b"security.selinux": b"label\0"}]),
)  # fmt: skip
def test_the_quick_header_is_the_slow_one(path, mode, uid, gid, size, mtime_ns, xattrs):
    name = b"./" + path
    slow = b"".join(pax.pieces(name, "f", mode, uid, gid, size, mtime_ns, xattrs=xattrs))

    assert pax.regular(name, mode, uid, gid, size, mtime_ns, xattrs) == slow
    assert pax.member(name, "f", mode, uid, gid, size, mtime_ns, xattrs=xattrs) == slow
    assert len(slow) % 512 == 0
    one = next(pax.Reader(io.BytesIO(slow).read))
    assert (one.name, one.mode, one.uid, one.gid, one.size, one.mtime_ns) == (name, mode, uid, gid, size, mtime_ns)


@pytest.mark.parametrize("mtime_ns", [1_700_000_000 * NS, 1_700_000_000 * NS + 9, NS * NS, NS * NS - 1, 0, -1])
@pytest.mark.parametrize("xattrs", [None, {b"security.selinux": b"a\0"}, {b"user.a": b"1", b"user.b": b"x" * 600}])
def test_the_quick_header_of_what_most_files_are_is_the_slow_one(mtime_ns, xattrs):
    for _again in range(2):  # the second time out of the caches
        slow = b"".join(pax.pieces(b"./a", "f", 0o640, 7, 8, 9, mtime_ns, xattrs=xattrs))
        assert pax.regular(b"./a", 0o640, 7, 8, 9, mtime_ns, xattrs) == slow


def test_a_plain_file_costs_one_block_and_with_nanoseconds_three():
    assert len(pax.regular(b"./a", 0o644, 0, 0, 5, 1_700_000_000 * NS)) == 512
    assert len(pax.regular(b"./a", 0o644, 0, 0, 5, 0)) == 512
    assert len(pax.regular(b"./a", 0o644, 0, 0, 5, 1_700_000_000 * NS + 1)) == 1536


def test_the_same_values_give_the_same_bytes():
    """Also after thousands of other owners went through the writer's cache, and for xattrs in another order."""
    values = {"mode": 0o644, "uid": 1, "gid": 2, "size": 3, "mtime_ns": NS + 5}
    before = pax.regular(b"./a", **values)
    for uid in range(5000):
        pax.regular(b"./b", 0o600, uid, 0, 0, 0)
    assert pax.regular(b"./a", **values) == before

    one, two = {b"user.a": b"1", b"user.b": b"2"}, {b"user.b": b"2", b"user.a": b"1"}
    assert pax.member(b"./a", "f", xattrs=one, **values) == pax.member(b"./a", "f", xattrs=two, **values)


@pytest.mark.parametrize("shape", ["one", "two", "folder", "two folders"])
def test_names_of_every_length_around_the_fields_come_back(shape):
    for length in [*range(95, 110), *range(150, 165), *range(195, 205), *range(250, 262)]:
        path = (
            b"n" * length if shape in ("one", "folder") else b"p" * (length // 2) + b"/" + b"n" * (length - length // 2)
        )
        name = order.member_name(path, "folder" in shape)
        one, _content = read(pax.member(name, "d" if "folder" in shape else "f", 0o755, 0, 0) + pax.END)[0]
        assert one.name == name


@pytest.mark.parametrize("length", [*range(1, 30), *range(85, 110), *range(980, 1010), 9_985, 9_990, 9_995])
def test_a_record_counts_its_own_length(length):
    text = pax.record(b"path", b"x" * length)

    assert int(text.split(b" ")[0]) == len(text)


def test_pieces_of_a_folder_with_many_names_are_the_whole():
    record = dumpdir.build([b"%06d" % number for number in range(200_000)], b"Y" * 200_000)
    pieces = list(pax.pieces(b"./", "d", 0o755, 0, 0, 0, 5, dumpdir=record, names=record))

    assert max(map(len, pieces)) < 1 << 20
    one, _content = read(b"".join(pieces) + pax.END)[0]
    assert dumpdir.parse(one.dumpdir)[-1] == (b"199999", "Y") and one.names == one.dumpdir


segments = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 3_000)), max_size=6)


@settings(max_examples=200)
@given(segments, st.integers(0, 20_000), st.integers(1, 5000))
def test_sparse_files_come_back(wanted, size, step):
    aligned = pax.align_segments(wanted, size)
    content = b"".join(bytes([65 + number % 26]) * length for number, (_offset, length) in enumerate(aligned))
    data = archive((pax.member(b"./s", "f", 0o644, 0, 0, size, 7, sparse=aligned), content))
    one, found = read(data, step)[0]

    assert (one.size, one.sparse, one.stored, found) == (size, aligned, len(content), content)
    covered = {block for offset, length in aligned for block in range(offset, offset + length)}
    assert covered >= {place for offset, length in wanted for place in range(offset, min(offset + length, size))}
    assert all(offset % 512 == 0 and (length % 512 == 0 or offset + length == size) for offset, length in aligned)


def test_a_sparse_map_always_ends_with_the_size():
    assert pax.sparse_map([], 5).rstrip(b"\0") == b"1\n5\n0\n"
    assert pax.sparse_map([(0, 512), (1024, 512)], 9 << 30).rstrip(b"\0") == b"3\n0\n512\n1024\n512\n9663676416\n0\n"


def unpacked(tmp_path, data):
    """The folder, with a slash, into which GNU tar put an archive."""
    folder = tmp_path / "to"
    folder.mkdir()
    subprocess.run(
        ["tar", "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-C", folder, "-f", "-"],
        input=data, check=True, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    return os.fsencode(folder) + b"/"


@pytest.mark.parametrize("end", ["data", "hole"])
def test_tar_makes_a_sparse_file_of_its_whole_length(tmp_path, end):
    size = 9 << 30
    aligned = pax.align_segments([(0, 5), (size - 3 if end == "data" else 1 << 20, 3)], size)
    content = b"".join(b"x" * length for _offset, length in aligned)
    name = b"./" + b"long\n\xfe" * 30
    to = unpacked(tmp_path, archive((pax.member(name, "f", 0o600, 0, 0, size, NS, sparse=aligned), content)))
    status = os.stat(to + name)

    assert status.st_size == size and status.st_blocks < 100


@pytest.mark.parametrize(
    "mtime_ns",
    [0, 1, -1, -NS, -1_500_000_000, -(2**31 - 2) * NS + 1, 2**31 * NS, 2**33 * NS - 1, 2**33 * NS, 2**33 * NS + 7],
)
def test_tar_keeps_times_of_any_century_to_the_nanosecond(tmp_path, mtime_ns):
    to = unpacked(tmp_path, archive((pax.regular(b"./a", 0o644, 0, 0, 0, mtime_ns), b"")))

    assert os.stat(to + b"a").st_mtime_ns == mtime_ns


@root_only
def test_tar_keeps_names_owners_xattrs_acls_capabilities_links_and_devices(tmp_path, monkeypatch):
    deep = b"./" + b"/".join([b"d" * 200] * 7) + b"/file\n\xff"
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    nobody = 0xFFFFFFFF
    control = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in ((1, 6, nobody), (2, 4, 2500001), (4, 4, nobody), (16, 6, nobody), (32, 0, nobody))
    )
    xattrs = {b"user.a=b%\n": bytes(range(256)), b"user.e": b"", b"security.capability": capability,
              b"system.posix_acl_access": control}  # fmt: skip
    to = unpacked(
        tmp_path,
        archive(
            (pax.member(deep, "f", 0o4660, 2**31 + 5, 2500002, 3, 5, xattrs=xattrs), b"abc"),
            (pax.member(b"./hard", "h", 0o4755, 0, 0, link=deep), b""),
            (pax.member(b"./soft", "l", 0o777, 2500001, 0, 0, 9, link=b"\xfe\n" * 900), b""),
            (pax.member(b"./null", "c", 0o666, 0, 0, 0, 9, dev=(1, 3)), b""),
            (pax.member(b"./disk", "b", 0o600, 0, 0, 0, 9, dev=(259, 70000)), b""),
            (pax.member(b"./pipe", "p", 0o620, 0, 0, 0, 9), b""),
        ),
    )
    monkeypatch.chdir(to)  # the path alone is longer than the system takes with what is before it
    status = os.stat(deep)

    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4660, 2**31 + 5, 2500002)
    assert {os.fsencode(name): os.getxattr(deep, name) for name in os.listxattr(deep)} == xattrs
    assert os.stat(b"hard").st_ino == status.st_ino
    assert os.readlink(b"soft") == b"\xfe\n" * 900 and os.lstat(b"soft").st_uid == 2500001
    assert [os.stat(name).st_rdev for name in (b"null", b"disk")] == [os.makedev(1, 3), os.makedev(259, 70000)]


def test_pythons_tarfile_reads_it_too():
    data = archive(
        (pax.member(b"./" + b"x" * 300, "f", 0o644, 2500001, 0, 3, -1_500_000_000), b"abc"),
        (pax.member(b"./" + b"y" * 90 + b"/" + b"z" * 90, "f", 0o644, 1, 0, 3, 5 * NS), b"def"),
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        first, second = found.getmembers()
        assert (first.name, first.uid, first.mtime) == ("./" + "x" * 300, 2500001, -1.5)
        assert second.name == "./" + "y" * 90 + "/" + "z" * 90 and found.extractfile(second).read() == b"def"


def test_pythons_tarfile_reads_files_with_holes():
    """It takes the segments as they follow each other: right only because all but the last are whole blocks."""
    size = 100_000
    aligned = pax.align_segments([(0, 5), (50_000, 700), (99_990, 10)], size)
    content = b"".join(bytes([65 + number]) * length for number, (_offset, length) in enumerate(aligned))
    expected, place = bytearray(size), 0
    for offset, length in aligned:
        expected[offset : offset + length] = content[place : place + length]
        place += length
    data = archive((pax.member(b"./s", "f", 0o644, 0, 0, size, 7, sparse=aligned), content))
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        assert found.extractfile(found.getmembers()[0]).read() == bytes(expected)


def test_an_selinux_label_goes_under_tars_name_and_comes_back():
    label = b"system_u:object_r:etc_t:s0\0"
    header = pax.member(b"./a", "f", 0o644, 0, 0, xattrs={b"security.selinux": label})

    assert b"RHT.security.selinux=system_u:object_r:etc_t:s0\n" in header
    assert read(header + pax.END)[0][0].xattrs == {b"security.selinux": label}


def test_an_acl_of_a_kind_we_do_not_know_is_kept_as_bytes():
    header = pax.member(b"./a", "f", 0o644, 0, 0, xattrs={b"system.posix_acl_access": b"new kind"})

    assert read(header + pax.END)[0][0].xattrs == {b"system.posix_acl_access": b"new kind"}

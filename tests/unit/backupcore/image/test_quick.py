"""The quick way past the reader's loop: it takes what the reader would take, and nothing else."""

from __future__ import annotations

import pytest

from backupcore.errors import ImageDamaged
from backupcore.image import pax
from backupcore.image.quick import plain_files
from backupcore.image.unpax import Reader

MTIME = 1_700_000_000 * 10**9
LONG = b"d" * 60 + b"/" + b"e" * 60


def file_member(path: bytes, content: bytes = b"x", **given) -> bytes:
    values = {"mode": 0o644, "uid": 1, "gid": 2, "mtime_ns": MTIME, "xattrs": None, **given}
    head = pax.member(
        b"./" + path, "f", values["mode"], values["uid"], values["gid"], len(content), values["mtime_ns"],
        xattrs=values["xattrs"] or {},
    )  # fmt: skip
    return head + content + bytes(-len(content) % 512)


def begun(*members: bytes) -> Reader:
    """A reader behind the first member, all in one chunk."""
    pieces = [b"".join(members)]
    reader = Reader(lambda _count: pieces.pop() if pieces else b"", many=True)
    next(reader)
    return reader


def taken(reader: Reader, folder: bytes = b"", most: int = 100, largest: int = 1 << 20, enough: int = 1 << 20):
    return plain_files(reader, folder, most, largest, enough)


@pytest.mark.parametrize("folder", [b"", b"a", b"a/b", LONG])
@pytest.mark.parametrize("mtime_ns", [MTIME, MTIME + 123_456_789])
def test_takes_what_the_reader_takes(folder, mtime_ns):
    above = folder + b"/" if folder else b""
    members = [file_member(above + b"f%d" % number, b"y" * number * 300, mtime_ns=mtime_ns) for number in range(5)]
    stream = b"".join(members)
    found, total, extra, bounded = taken(begun(*members), folder)
    assert not bounded
    slow = [(one.path, one.mode, one.uid, one.gid, one.mtime_ns, one.read()) for one in begun_all(stream)][1:]
    quick = [
        (above + name, *owner, mtime, stream[start : start + size])
        for name, start, size, owner, mtime, xattrs in found
        if xattrs is None
    ]
    assert quick == slow and len(quick) == 4
    assert (total, extra) == (sum(len(one[-1]) for one in slow), 0)


def begun_all(stream: bytes) -> Reader:
    pieces = [stream]
    return Reader(lambda _count: pieces.pop() if pieces else b"", many=True)


def test_xattrs_that_were_read_before():
    xattrs = {b"security.selinux": b"system_u:object_r:usr_t:s0\0"}
    members = [file_member(b"f%d" % number, xattrs=xattrs, mtime_ns=MTIME + 5) for number in range(3)]
    found, _total, extra, _bounded = taken(begun(*members))
    assert [one[0] for one in found] == [b"f1", b"f2"] and all(one[5] == xattrs for one in found)
    assert extra > 0
    others = file_member(b"f9", xattrs={b"user.other": b"1"}, mtime_ns=MTIME + 5)
    assert taken(begun(members[0], others))[0] == []


@pytest.mark.parametrize(
    "path", [b"a/f", b"b", b"a/b/c/f", b"a/b/../f", b"a/b/.", b"a/b/..", b"a/b/", b"a/bc", LONG + b"/f"]
)
def test_another_folder_or_a_bad_name_is_left(path):
    reader = begun(file_member(b"a/b/f0"), file_member(path), file_member(b"a/b/f1"))
    assert taken(reader, b"a/b")[0] == []
    if path in (b"a/b/../f", b"a/b/.", b"a/b/..", b"a/b/"):
        with pytest.raises(ImageDamaged):
            next(reader)
    else:
        assert next(reader).path == path


@pytest.mark.parametrize("place", [0, 100, 124, 136, 148, 156, 257, 300, 345, 505])
def test_a_changed_header_is_left_to_the_reader(place):
    damaged = bytearray(file_member(b"f1"))
    damaged[place] ^= 1
    reader = begun(file_member(b"f0"), bytes(damaged))
    assert taken(reader)[0] == []
    with pytest.raises(ImageDamaged):
        next(reader)


def test_other_kinds_and_what_is_cut_are_left():
    link = pax.member(b"./l", "l", 0o777, 1, 2, 0, MTIME, b"f0")
    reader = begun(file_member(b"f0"), link)
    assert taken(reader)[0] == [] and next(reader).kind == "l"
    cut = begun(file_member(b"f0"), file_member(b"f1", b"z" * 2000)[:-600])
    assert taken(cut)[0] == []
    with pytest.raises(ImageDamaged):
        next(cut).read()


def test_bounds():
    members = [file_member(b"f%d" % number, b"y" * 1000) for number in range(9)]
    found, _total, _extra, bounded = taken(begun(*members), most=3)
    assert len(found) == 3 and bounded
    found, _total, _extra, bounded = taken(begun(*members), enough=2500)
    assert len(found) == 3 and bounded
    found, _total, _extra, bounded = taken(begun(*members), largest=999)
    assert found == [] and not bounded
    reader = begun(*members)
    taken(reader, most=3)
    assert next(reader).path == b"f4"

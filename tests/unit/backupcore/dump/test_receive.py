"""A stream becomes files only when every length, number and count in it is right."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import weakref
import zlib

import pytest

from backupcore import wire
from backupcore.dump import receive as receiving
from backupcore.dump import statefile
from backupcore.dump.holding import Room, Space, landing
from backupcore.dump.receive import receive
from backupcore.errors import HoldingFull, ImageDamaged, SourceFailed, WireError
from backupcore.image import codec as codecs
from backupcore.image import frames
from backupcore.settings import HoldingDisk

DUMP = "20261122T120000Z-L0-00000001"
GZIP, NONE = codecs.get("gzip"), codecs.get("none")
CUT, LAST = wire.CONTINUES, wire.LAST


class Stream:
    """Messages an agent would send."""

    def __init__(self, codec=GZIP):
        self.out = io.BytesIO()
        self.channel = wire.Channel(io.BytesIO(), self.out)
        self.codec = codec

    def frame(self, number, offset, data, flags=0, part=0, length=None, stored=None):
        head = wire.FrameHead(part, number, offset, len(data) if length is None else length, flags)
        stored = self.codec.compress(data) if stored is None else stored
        self.channel.send(wire.FRAME, wire.pack_frame_head(head), stored)
        return self

    def index(self, lines):
        self.channel.send(wire.INDEX, self.codec.compress(lines))
        return self

    def raw(self, kind, payload=b""):
        self.channel.send(kind, payload)
        return self

    def json(self, kind, **value):
        return self.raw(kind, json.dumps(value).encode())

    def done(self, size, entries, **more):
        known = {"archive_size": size, "entries": entries, "files": 1, "bytes": 1, "suspects": 0}
        return self.json(wire.DONE, **{**known, **more})


@pytest.fixture
def place(tmp_path):
    made = landing(tmp_path, "web1", "etc", DUMP)
    made.make()
    return made


def take(place, stream, codec="gzip", part_size=1 << 30, use=1 << 30):
    data = stream.out.getvalue() if isinstance(stream, Stream) else stream
    channel = wire.Channel(io.BytesIO(data), io.BytesIO(), "web1")
    space = Space([HoldingDisk(place.disk, use)])
    return receive(channel, place, space.reserve(None), codec, part_size)


def good():
    return Stream().index(b"a\n").frame(0, 0, b"x" * 100).index(b"b\nc\n").frame(1, 100, b"y" * 50, CUT | LAST)


def test_a_good_stream_becomes_files_whose_digests_are_known(place):
    got = take(place, good().json(wire.PROGRESS, entries=2, bytes=9).raw(wire.STATE, b"blocks").done(150, 3))
    for record in (*got.parts, got.index, got.frames):
        data = (place.folder / record.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (record.size, record.sha256)
    assert sorted(os.listdir(place.folder)) == ["frames.tsv.gz", "image-0000.tar.gz", "index.tsv.gz"]
    image = (place.folder / "image-0000.tar.gz").read_bytes()
    assert b"".join(GZIP.unpack([image])) == b"x" * 100 + b"y" * 50
    assert b"".join(GZIP.unpack([(place.folder / "index.tsv.gz").read_bytes()])) == b"a\nb\nc\n"
    table = list(frames.read(GZIP.unpack([(place.folder / "frames.tsv.gz").read_bytes()])))
    assert [(one.offset, one.length, one.flags) for one in table] == [(0, 100, 0), (100, 50, CUT | LAST)]
    for one in table:
        assert hashlib.sha256(image[one.place : one.place + one.stored]).digest() == one.digest
    assert (got.archive_size, got.entries, got.has_state) == (150, 3, True)
    assert got.stored_size == sum(path.stat().st_size for path in place.folder.iterdir())
    statefile.check(place.state)
    assert list(statefile.payloads(place.state)) == [b"blocks"]


def test_what_took_a_dump_is_free_again_at_its_end(place, monkeypatch):
    made = []

    class Watched(receiving.Receiver):
        def __init__(self, *words):
            super().__init__(*words)
            made.append(weakref.ref(self))

    monkeypatch.setattr(receiving, "Receiver", Watched)
    gc.disable()  # a circle waits for it, and with it all that its dumps compress with
    try:
        take(place, good().raw(wire.STATE, b"blocks").done(150, 3))
        assert [one() for one in made] == [None]
    finally:
        gc.enable()


def f(number, offset, length=100, flags=0, part=0, **more):
    return Stream().frame(number, offset, b"x" * length, flags, part, **more)


def after(stream):
    """stream after a first good frame of 100 bytes."""
    first = Stream().frame(0, 0, b"x" * 100)
    first.out.write(stream.out.getvalue())
    return first


BAD = {
    "nothing": b"",
    "text": b"Last login: Sun Nov 22 from 10.0.0.1\n",
    "zeros": b"\0" * 100,
    "a length too large": wire.FRAME + b"\xff\xff\xff\xff",
    "a length of JSON too large": wire.NOTE + b"\x00\x50\x00\x00",
    "a cut head": good().out.getvalue() + b"f\0",
    "a cut payload": good().out.getvalue()[:-1],
    "no end": good(),
    "an early end": Stream().frame(0, 0, b"x").done(1, 0),
    "an end of nothing": Stream().done(0, 0),
    "a wrong number": f(1, 0),
    "a number again": after(f(0, 100)),
    "a gap": after(f(1, 101)),
    "an overlap": after(f(1, 99)),
    "a length of 0": f(0, 0, length=0, stored=b"x"),
    "no stored bytes": f(0, 0, stored=b""),
    "a frame too long": f(0, 0, stored=b"x", length=frames.MAX_LENGTH + 1),
    "a frame without head": Stream().raw(wire.FRAME, b"abc"),
    "a first that continues": f(0, 0, flags=CUT),
    "unknown flags": f(0, 0, flags=4),
    "a later part at once": f(0, 0, part=1),
    "a part too early": after(f(1, 100, part=1)),
    "a part back": after(f(1, 100, part=65535)),
    "something after the last": Stream().frame(0, 0, b"x", LAST).frame(1, 1, b"x", LAST),
    "another archive size": good().done(151, 3),
    "another count of entries": good().done(150, 4),
    "a negative size": good().done(-150, 3),
    "a count that is none": good().done(150, 3, files="many"),
    "a count beyond reason": good().done(150, 3, suspects=1 << 80),
    "a count that is true": good().done(150, 3, bytes=True),
    "half an index line": Stream().index(b"a\nb"),
    "an index that does not unpack": Stream().raw(wire.INDEX, b"garbage"),
    "an empty index message": Stream().raw(wire.INDEX),
    "an index that is cut": Stream().raw(wire.INDEX, GZIP.compress(b"a\n" * 999)[:-9]),
    "an empty state": Stream().raw(wire.STATE),
    "another hello": good().json(wire.HELLO, protocol=1),
    "an archive": Stream().raw(wire.ARCHIVE, b"x"),
    "JSON that is none": Stream().raw(wire.NOTE, b"{"),
    "JSON that is a list": Stream().raw(wire.DONE, b"[]"),
    "JSON without end": Stream().raw(wire.NOTE, b"[" * 100_000),
    "progress that is none": Stream().json(wire.PROGRESS, entries="x"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused(place, name):
    with pytest.raises(WireError) as refused:
        take(place, BAD[name])
    assert "web1" in refused.value.message or name == "a frame without head"
    assert "\n" not in refused.value.message and len(refused.value.message) < 300


def test_codec_none_has_frames_as_long_as_they_say(place):
    with pytest.raises(WireError, match="longer or shorter"):
        take(place, Stream(NONE).frame(0, 0, b"x" * 10, LAST, length=11).done(11, 0), "none")


def test_parts_are_cut_where_the_next_frame_would_be_too_much(place):
    stream = Stream(NONE)
    sizes = [60, 40, 1, 100, 150, 10]
    for number, (size, part) in enumerate(zip(sizes, [0, 0, 1, 2, 3, 4])):
        stream.frame(number, sum(sizes[:number]), b"x" * size, LAST if number == 5 else 0, part)
    got = take(place, stream.done(sum(sizes), 0), "none", part_size=100)
    assert [(record.name[6:10], record.size) for record in got.parts] == [
        ("0000", 100), ("0001", 1), ("0002", 100), ("0003", 150), ("0004", 10),
    ]  # fmt: skip
    with pytest.raises(WireError, match="part 0 where part 1"):
        stream = Stream(NONE).frame(0, 0, b"x" * 60).frame(1, 60, b"x" * 60, LAST, 0)
        take(landed_again(place), stream, "none", part_size=100)


def landed_again(place):
    place.remove()
    place.make()
    return place


def test_the_agents_own_error_is_told_as_its_own(place):
    with pytest.raises(SourceFailed) as failed:
        take(place, good().json(wire.ERROR, code="source-failed", message="it broke", hint="mend it"))
    assert (failed.value.message, failed.value.hint) == ("it broke", "mend it")


def test_a_bomb_in_the_index_is_refused_in_little_memory(place, monkeypatch):
    from backupcore.dump import tables

    monkeypatch.setattr(tables, "INDEX_LIMIT", 8 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b"a\n" * (1 << 19)) for _ in range(64)) + packer.flush()
    with pytest.raises(WireError, match="unpack to more than"):
        take(place, Stream().raw(wire.INDEX, bomb))


def test_an_index_line_that_no_reader_would_take_is_refused(place, monkeypatch):
    from backupcore.image import lines

    monkeypatch.setattr(lines, "MAX_LINE", 3 << 20)
    long = b"x" * (3 << 20)
    stream = Stream().index(b"a\n" + long + b"\nb\n").frame(0, 0, b"x" * 100, LAST).done(100, 3)
    assert take(place, stream).entries == 3
    for number, bad in enumerate((b"a\nx" + long + b"\nb\n", b"x" + long + b"\n", long[:-1] + b"\n" + long + b"x\n")):
        other = landing(place.disk, "web1", "etc", DUMP[:-1] + str(number + 2))
        other.make()
        with pytest.raises(WireError, match="an index line of more than 3145728 bytes"):
            take(other, Stream().index(bad).frame(0, 0, b"x" * 100, LAST).done(100, bad.count(b"\n")))


@pytest.mark.parametrize(
    "kind, limit", [(wire.PROGRESS, "IDLE_LIMIT"), (wire.NOTE, "IDLE_LIMIT"), (wire.NOTE, "LIMIT")]
)
def test_messages_without_end_are_cut(place, monkeypatch, kind, limit):
    from backupcore.dump import notes, receive

    monkeypatch.setattr(notes if limit == "LIMIT" else receive, limit, 1000)
    stream = Stream()
    for _ in range(1001):
        stream.json(kind, entries=1, bytes=1)
    with pytest.raises(WireError, match="without end"):
        take(place, stream)


def test_what_does_not_fit_is_refused_before_it_is_written(place):
    stream = Stream(NONE)
    for number in range(5):
        stream.frame(number, number << 20, bytes(1 << 20), LAST if number == 4 else 0)
    with pytest.raises(HoldingFull):
        take(place, stream, "none", use=3 << 20)
    assert sum(path.stat().st_size for path in place.folder.iterdir()) <= 3 << 20
    with pytest.raises(HoldingFull):  # state counts as well
        take(landed_again(place), Stream().raw(wire.STATE, bytes(4 << 20)), use=3 << 20)


def test_a_disk_that_is_really_full_is_the_same_error(tmp_path):
    import subprocess

    if os.geteuid() != 0:
        pytest.skip("mounts a small disk")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        place = landing(small, "web1", "etc", DUMP)
        place.make()
        stream = Stream(NONE)
        for number in range(4):
            stream.frame(number, number << 20, bytes(1 << 20), LAST if number == 3 else 0)
        channel = wire.Channel(io.BytesIO(stream.out.getvalue()), io.BytesIO(), "web1")
        room = Room(Space([]), HoldingDisk(small, 1 << 40), 1 << 40)  # reserved, but another filled the disk
        with pytest.raises(HoldingFull, match="small is full"):
            receive(channel, place, room, "none", 1 << 30)
        place.remove()
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_table_of_many_frames_is_written_on_the_way(place, monkeypatch):
    from backupcore.dump import tables

    monkeypatch.setattr(tables, "TABLE_LINES", 10)
    stream = Stream()
    for number in range(35):
        stream.frame(number, number * 7, b"1234567", LAST if number == 34 else 0)
    take(place, stream.done(245, 0))
    assert len(list(frames.read(GZIP.unpack([(place.folder / "frames.tsv.gz").read_bytes()])))) == 35


def test_an_index_of_no_lines_still_unpacks(place):
    take(place, Stream().frame(0, 0, b"x", LAST).done(1, 0))
    data = (place.folder / "index.tsv.gz").read_bytes()
    assert data and b"".join(GZIP.unpack([data])) == b""


@pytest.mark.parametrize(
    "harm", [lambda d: d[:-1], lambda d: d + b"x", lambda d: d[:18] + b"y" + d[19:], lambda d: b""]
)
def test_a_state_file_that_is_not_whole_is_refused(place, harm):
    take(place, Stream().frame(0, 0, b"x", LAST).raw(wire.STATE, b"blocks" * 100).done(1, 0))
    place.state.write_bytes(harm(place.state.read_bytes()))
    with pytest.raises(ImageDamaged):
        statefile.check(place.state)


@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,", b'"",'])
def test_json_of_too_many_parts_is_refused_before_it_takes_memory(part):
    payload = b'{"a":[' + part * (wire.JSON_PARTS - 2) + b"0]}"
    channel = wire.Channel(io.BytesIO(), io.BytesIO(), "web1")
    if part in (b"0,", b'"",'):
        assert len(channel.json(payload)["a"]) == wire.JSON_PARTS - 1
        payload = payload.replace(b"0]}", part * 3 + b"0]}")
    with pytest.raises(WireError, match="web1 sent JSON of more than 100000 parts"):
        channel.json(payload)


def test_a_request_may_name_as_many_folders_as_there_are():
    data, text = io.BytesIO(), io.BytesIO()
    wire.Channel(io.BytesIO(), data).send(wire.REQUEST, json.dumps({"folders": ["a"] * 300_000}).encode())
    kind, value = wire.Channel(io.BytesIO(data.getvalue()), text).expect(wire.REQUEST)
    assert kind == wire.REQUEST and len(value["folders"]) == 300_000

"""Codecs: every library of this machine, round trips, bounds."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import threading
import tracemalloc

import pytest

from backupcore.errors import ImageDamaged, RequestError, StowageError
from backupcore.image import _zstd, codec

LIBRARIES = list(_zstd.found())
CODECS = [codec.Zstd(1, library) for library in LIBRARIES] + [codec.get("gzip"), codec.get("none")]
PACKING = CODECS[:-1]
DATA = random.Random(1).randbytes(150_000) + b"the same again " * 50_000


def name_of(one):
    return one._library.how.split()[0] if one.name == "zstd" else one.name


@pytest.fixture(params=CODECS, ids=name_of)
def any_codec(request):
    return request.param


@pytest.fixture(params=PACKING, ids=name_of)
def packing(request):
    return request.param


def test_this_machine_tests_the_package_and_the_systems_library():
    assert {library.how.split()[0] for library in LIBRARIES} >= {"zstandard", "libzstd.so.1"}
    assert codec.available()["zstd"] == LIBRARIES[0].how and codec.available()["gzip"] == "zlib"


@pytest.mark.parametrize("data", [b"", b"x", DATA, bytearray(DATA), memoryview(DATA), memoryview(bytearray(DATA))])
def test_a_frame_comes_back(any_codec, data):
    packed = any_codec.compress(data)

    assert any_codec.decompress(packed, len(data)) == bytes(data)
    assert any_codec.decompress(memoryview(bytearray(packed)), len(data) + 5) == bytes(data)
    assert any_codec.compress(data) == packed


@pytest.mark.parametrize("step", [1, 777, 1 << 20])
def test_frames_one_after_the_other_are_a_stream(any_codec, step):
    pieces = [DATA[:100_000], b"", DATA[100_000:], b"end"]
    stored = b"".join(any_codec.compress(piece) for piece in pieces)
    if step == 1:
        stored = stored[:0] + b"".join(any_codec.compress(piece) for piece in (b"short", b"er"))
        pieces = [b"short", b"er"]
    found = list(any_codec.unpack(stored[place : place + step] for place in range(0, len(stored), step)))

    assert b"".join(found) == b"".join(pieces)
    assert max(map(len, found)) <= codec.PIECE
    assert list(any_codec.unpack([])) == []


def test_a_frame_longer_than_the_bound_is_refused(any_codec):
    with pytest.raises(ImageDamaged, match="longer than"):
        any_codec.decompress(any_codec.compress(DATA), len(DATA) - 1)


def test_a_cut_frame_is_refused(packing):
    packed = packing.compress(DATA)
    for end in (0, 3, 10, len(packed) // 2, len(packed) - 1):
        with pytest.raises(ImageDamaged):
            packing.decompress(packed[:end], len(DATA))
        if end:
            with pytest.raises(ImageDamaged):
                list(packing.unpack([packed[:end]]))


def test_what_follows_a_frame_is_refused(packing):
    packed = packing.compress(b"one")
    for more in (b"x", packed):
        with pytest.raises(ImageDamaged):
            packing.decompress(packed + more, 100)


def test_changed_bytes_are_refused(packing):
    packed = packing.compress(DATA)
    dice = random.Random(2)
    for _ in range(40):
        changed = bytearray(packed)
        changed[dice.randrange(20, len(packed))] ^= 1 << dice.randrange(8)
        with pytest.raises(ImageDamaged):
            packing.decompress(bytes(changed), len(DATA))
        with pytest.raises(ImageDamaged):
            list(packing.unpack([bytes(changed)]))


@pytest.mark.parametrize("kind", ["zstd with its size", "zstd without", "gzip"])
def test_a_bomb_costs_no_more_memory_than_its_bound(kind):
    """256 MiB of zeros: 8 KiB of zstd, 1 MiB of gzip."""
    program = "import sys; [sys.stdout.buffer.write(bytes(1 << 20)) for _ in range(256)]"
    packer = ["gzip", "-1"] if kind == "gzip" else ["zstd", "-1"]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as zeros:
        bomb = subprocess.run([*packer, "-c"], stdin=zeros.stdout, capture_output=True, check=True).stdout
    if kind == "zstd with its size":
        bomb = LIBRARIES[0].packer(1)(bytes(64 << 20))
    for one in CODECS:
        if one.name != kind.split()[0]:
            continue
        tracemalloc.start()
        with pytest.raises(ImageDamaged, match="longer than|full frame|too small|larger"):
            one.decompress(bomb, 1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20
        assert max(map(len, (piece for piece, _ in zip(one.unpack([bomb]), range(50))))) <= codec.PIECE


def test_a_frame_that_claims_to_be_endless_is_refused():
    claim = b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\x01\x00\x00"
    for library in LIBRARIES:
        with pytest.raises(ImageDamaged, match="longer than"):
            codec.Zstd(1, library).decompress(claim, 1 << 20)


def test_garbage_is_refused(packing):
    for data in (b"", b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"garbage that is long enough to be a header", bytes(100)):
        with pytest.raises(ImageDamaged):
            packing.decompress(data, 1000)
        if data:
            with pytest.raises(ImageDamaged):
                list(packing.unpack([data]))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.how.split()[0])
def test_the_programs_read_it_and_write_for_it(library):
    one = codec.Zstd(3, library)
    packed = one.compress(DATA) + one.compress(b"next")
    unpacked = subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=True).stdout
    foreign = subprocess.run(["zstd", "-cq"], input=DATA, capture_output=True, check=True).stdout

    assert unpacked == DATA + b"next"
    assert one.decompress(foreign, len(DATA)) == DATA


def test_frames_carry_size_and_checksum():
    for library in LIBRARIES:
        descriptor = codec.Zstd(1, library).compress(DATA)[4]
        assert descriptor & 0x04, "checksum"
        assert descriptor >> 6 or descriptor & 0x20, "content size"


def test_gzip_members_have_no_time_and_are_read_by_gzip():
    packed = codec.get("gzip").compress(DATA)

    assert gzip.decompress(packed) == DATA and packed[4:8] == bytes(4)


@pytest.mark.parametrize("one", CODECS, ids=name_of)
def test_many_threads_at_once(one):
    data = [bytes([number]) * 200_000 + DATA[:50_000] for number in range(8)]
    wrong = []

    def work(piece):
        for _ in range(10):
            if one.decompress(one.compress(piece), len(piece)) != piece:
                wrong.append(piece[:1])

    threads = [threading.Thread(target=work, args=(piece,)) for piece in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_words_of_policies():
    for word, name, level, suffix in (
        ("zstd", "zstd", 1, ".zst"), ("zstd:19", "zstd", 19, ".zst"), ("gzip", "gzip", 1, ".gz"),
        ("gzip:9", "gzip", 9, ".gz"), ("none", "none", None, ""),
    ):  # fmt: skip
        found = codec.get(word)
        assert (found.name, found.level, found.suffix) == (name, level, suffix)
    for word in ("", "lz4", "zstd:", "zstd:0", "zstd:20", "zstd:x", "gzip:10", "none:1", "ZSTD", "zstd:-1"):
        with pytest.raises(RequestError):
            codec.get(word)


def test_a_machine_without_zstd_says_so(monkeypatch):
    monkeypatch.setattr(_zstd, "_FOUND", [None])

    assert "zstd" not in codec.available()
    with pytest.raises(StowageError, match="no zstd library"):
        codec.get("zstd")
    assert codec.get("gzip").name == "gzip"


@pytest.mark.parametrize("data", [b"x", DATA])
def test_a_frame_is_unpacked_into_memory_that_is_there(any_codec, data):
    packed = bytearray(any_codec.compress(data))
    memory = bytearray(b"-" * (len(data) + 20))

    with memoryview(memory) as room:
        assert any_codec.decompress_into(memoryview(packed), room[10 : 10 + len(data)]) == len(data)
        assert memory == b"-" * 10 + data + b"-" * 10
        assert any_codec.decompress_into(packed, room) == len(data)  # less than there is room for


def test_nothing_is_unpacked_beyond_its_room(any_codec):
    packed = bytearray(any_codec.compress(DATA))
    memory = bytearray(b"-" * (len(DATA) + 10))

    with memoryview(memory) as room, pytest.raises(ImageDamaged):
        any_codec.decompress_into(packed, room[: len(DATA) - 1])
    assert memory[len(DATA) - 1 :] == b"-" * 11


def test_a_damaged_frame_is_not_unpacked_into_memory_either(packing):
    packed, room = bytearray(packing.compress(DATA)), memoryview(bytearray(len(DATA)))
    changed = bytearray(packed)
    changed[-1] ^= 1  # only the checksum

    for bad in (packed[:-1], packed[:3], b"", packed + b"x", packed + packed, changed, b"garbage" + packed):
        with pytest.raises(ImageDamaged):
            packing.decompress_into(bytearray(bad), room)


def test_without_the_systems_library_frames_are_unpacked_and_copied(monkeypatch):
    monkeypatch.setattr(_zstd, "_INTO", [None])
    room = memoryview(bytearray(len(DATA)))

    assert CODECS[0].decompress_into(bytearray(CODECS[0].compress(DATA)), room) == len(DATA)
    assert room == DATA

"""Frame tables that are large: searched in the server's copy, which is made anew when it is not right."""

from __future__ import annotations

import hashlib
import os
import random
import tracemalloc
from types import SimpleNamespace

import pytest

from backupcore.errors import ImageDamaged
from backupcore.image import frames
from backupcore.image.frames import CONTINUES, LAST, Copy, CopyDamaged, Frame, Table
from backupcore.restore import tables

DIGEST = hashlib.sha256(b"table").digest()
MANY = 3_000_000
LENGTH = 4 << 20


def table_of(count, dice):
    """The frames of an archive with parts of a hundred frames."""
    part = place = offset = 0
    for number in range(count):
        stored, length = dice.randrange(1000, LENGTH), dice.randrange(LENGTH // 2, LENGTH)
        digest = number.to_bytes(32, "big")
        flags = (CONTINUES if number and dice.random() < 0.5 else 0) | (LAST if number == count - 1 else 0)
        yield Frame(part, number, place, stored, offset, length, digest, flags)
        place, offset = place + stored, offset + length
        if number % 100 == 99:
            part, place = part + 1, 0


def write(path, found, digest=DIGEST):
    records = [frames.record(frame) for frame in found]
    path.write_bytes(b"".join(records) + frames.trailer(len(records), digest))


def manifest_of(found):
    """As much of a manifest as a table is checked by."""
    sizes = {}
    for frame in found:
        sizes[frame.part] = frame.place + frame.stored
    return SimpleNamespace(
        dump="D", frames=SimpleNamespace(name="frames.tsv", sha256=DIGEST.hex()),
        archive_size=found[-1].offset + found[-1].length, parts=[SimpleNamespace(size=sizes[one]) for one in sizes],
    )  # fmt: skip


def test_a_copy_says_what_the_table_says(tmp_path):
    dice = random.Random(7)
    for count in (1, 2, 5, 5000):
        found = list(table_of(count, dice))
        write(tmp_path / "t", found)
        whole, copy = Table(found), Copy(open(tmp_path / "t", "rb"), DIGEST)
        assert copy.archive_size == whole.archive_size and len(copy) == count
        for _turn in range(300):
            offset = dice.randrange(whole.archive_size)
            length = min(dice.choice([0, 1, 5000, 30 * LENGTH, 1 << 40]), whole.archive_size - offset)
            assert list(copy.cover(offset, length)) == whole.cover(offset, length)
        assert list(copy.cover(0, whole.archive_size)) == found
        for offset, length in ((whole.archive_size, 1), (0, whole.archive_size + 1), (-1, 1), (1 << 70, 1)):
            with pytest.raises(ImageDamaged):
                copy.cover(offset, length)


def test_three_million_frames_are_searched_with_few_small_reads(tmp_path, monkeypatch):
    path = tmp_path / "t"
    # one frame's bytes are as good as another's: only the first fields count
    with open(path, "wb") as file:
        for start in range(0, MANY, 10_000):
            file.write(b"".join(
                frames.record(Frame(n // 1000, n, n % 1000 * 50, 50, n * LENGTH, LENGTH, DIGEST, (n == MANY - 1) * 2))
                for n in range(start, start + 10_000)
            ))  # fmt: skip
        file.write(frames.trailer(MANY, DIGEST))
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, place: read.append(count) or pread(fd, count, place))
    tracemalloc.start()
    copy = Copy(open(path, "rb"), DIGEST)
    for number in (0, 1, 1_234_567, MANY - 1):
        del read[:]
        (frame,) = copy.cover(number * LENGTH + 5, 10_240)
        assert frame.number == number
        assert sum(read) < 64 << 10 and len(read) < 40
    del read[:]
    assert [one.number for one in copy.cover(77 * LENGTH - 1, 2)] == [76, 77]
    every = iter(copy.cover(0, MANY * LENGTH))  # a whole image, one after the other
    assert sum(1 for _number in zip(range(100_000), every)) == 100_000
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("harm", ["cut", "swapped", "flip", "moved", "longer", "empty"])
def test_a_copy_that_is_not_right_is_never_used(tmp_path, harm):
    found = list(table_of(300, random.Random(1)))
    path = tmp_path / "t"
    write(path, found)
    data = bytearray(path.read_bytes())
    width = len(frames.record(found[0]))
    at = 123 * width
    if harm == "cut":
        del data[-40:]
    elif harm == "flip":
        data[at + 30] ^= 4
    elif harm == "moved":
        data[at : at + 2 * width] = data[at + width : at + 2 * width] + data[at : at + width]
    elif harm == "longer":
        data[0:0] = data[:width]
    elif harm == "empty":
        data = bytearray()
    path.write_bytes(data)
    with pytest.raises(CopyDamaged):
        copy = Copy(open(path, "rb"), DIGEST[::-1] if harm == "swapped" else DIGEST)
        list(copy.cover(found[123].offset, 1))
    manifest = manifest_of(found)
    if harm == "swapped":
        manifest.frames.sha256 = DIGEST[::-1].hex()
    if harm not in ("flip", "moved"):
        assert tables.kept(path, manifest) is None and not path.exists()
        return
    mended = tables.Kept(tables.kept(path, manifest), path, lambda: Table(found))
    assert list(mended.cover(0, manifest.archive_size)) == found and not path.exists()


def test_a_large_table_becomes_a_copy_and_a_small_one_does_not(tmp_path, monkeypatch):
    found = list(table_of(400, random.Random(3)))
    lines = b"".join(frames.write(found))
    manifest = manifest_of(found)
    path = tmp_path / "below" / "t.frames"
    small = tables.table_of(path, manifest, lambda: [lines])
    assert isinstance(small, Table) and not path.exists()
    monkeypatch.setattr(frames, "SMALL", 100)
    large = tables.table_of(path, manifest, lambda: [lines])
    assert isinstance(large, Copy) and list(large.cover(0, manifest.archive_size)) == found
    assert list(tables.kept(path, manifest).cover(5, 1)) == found[:1]
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    # nowhere to write: then it takes memory
    (tmp_path / "file").write_text("")
    assert isinstance(tables.table_of(tmp_path / "file" / "t", manifest, lambda: [lines]), Table)
    for part in (0, -1):  # parts that are not those of the manifest
        other = manifest_of(found)
        other.parts[part].size += 1
        with pytest.raises(ImageDamaged):
            tables.table_of(None, other, lambda: [lines])
        assert tables.kept(path, other) is None or part == 0

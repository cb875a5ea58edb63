"""The frame table: lines, gaps, and which frames hold a piece of the archive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.errors import ImageDamaged
from backupcore.image import frames
from backupcore.image.frames import CONTINUES, LAST, Frame


@st.composite
def tables(draw):
    """A table as a dump makes it."""
    made, part, place, offset = [], 0, 0, 0
    count = draw(st.integers(1, 30))
    for number in range(count):
        stored, length = draw(st.integers(1, 1 << 24)), draw(st.integers(1, frames.MAX_LENGTH))
        if made and draw(st.booleans()):
            part, place = part + 1, 0
        flags = (CONTINUES if made and draw(st.booleans()) else 0) | (LAST if number == count - 1 else 0)
        made.append(
            Frame(part, number, place, stored, offset, length, draw(st.binary(min_size=32, max_size=32)), flags)
        )
        place, offset = place + stored, offset + length
    return made


@given(tables())
def test_a_table_comes_back(table):
    assert list(frames.read(frames.write(table))) == table


@given(tables(), st.data())
def test_the_frames_that_cover_a_piece_are_found(table, data):
    whole = frames.Table(table)
    offset = data.draw(st.integers(0, whole.archive_size))
    length = data.draw(st.integers(0, whole.archive_size - offset))
    touching = [one for one in table if one.offset < offset + length and one.offset + one.length > offset]

    assert whole.cover(offset, length) == (touching if length else [])


@given(tables())
def test_a_place_behind_the_archive_is_refused(table):
    whole = frames.Table(table)
    for offset, length in ((whole.archive_size, 1), (0, whole.archive_size + 1), (-1, 1), (1 << 70, 1)):
        with pytest.raises(ImageDamaged):
            whole.cover(offset, length)


@given(tables(), st.data())
def test_a_table_with_a_line_missing_doubled_or_moved_is_refused(table, data):
    lines = list(frames.write(table))
    at = data.draw(st.integers(0, len(lines) - 1))
    broken = [lines[:at] + lines[at + 1 :] if len(lines) > 1 else [lines[0] * 2], [*lines, lines[at]]]
    if len(lines) > 1:
        swapped = list(lines)
        swapped[at], swapped[at - 1] = swapped[at - 1], swapped[at]
        broken.append(swapped)
    for case in broken:
        with pytest.raises(ImageDamaged):
            list(frames.read(case))


@given(tables())
def test_a_frame_behind_the_last_is_refused(table):
    last = table[-1]
    more = Frame(last.part, last.number + 1, last.place + last.stored, 1, last.offset + last.length, 1, bytes(32), LAST)
    with pytest.raises(ImageDamaged):
        list(frames.read(frames.write([*table, more])))


DIGEST = "ab" * 32


@pytest.mark.parametrize(
    "line",
    [
        "0\t0\t0\t5\t0\t5\t%s" % DIGEST, "0\t0\t0\t5\t0\t5\t%s\tl\tx" % DIGEST, "-1\t0\t0\t5\t0\t5\t%s\tl" % DIGEST,
        "0\t0\t0\t5\t0\t5\t%s\tx" % DIGEST, "0\t0\t0\t5\t0\t5\t%s\tl" % DIGEST[1:],
        "0\t0\t0\t5\t0\t5\t%s\tl" % ("x" * 64),
        "0\t0\t0\t0\t0\t5\t%s\tl" % DIGEST, "0\t0\t0\t5\t0\t0\t%s\tl" % DIGEST, "0\t0\t0\t5\t1\t5\t%s\tl" % DIGEST,
        "1\t0\t0\t5\t0\t5\t%s\tl" % DIGEST, "0\t1\t0\t5\t0\t5\t%s\tl" % DIGEST, "0\t0\t1\t5\t0\t5\t%s\tl" % DIGEST,
        "0\t0\t0\t5\t0\t5\t%s\tcl" % DIGEST, "0\t0\t0\t5\t0\t5\t%s\t-" % DIGEST,
        "0\t0\t0\t5\t0\t%d\t%s\tl" % (frames.MAX_LENGTH + 1, DIGEST), "", "0 0 0",
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_is_refused(line):
    with pytest.raises(ImageDamaged):
        list(frames.read([line.encode() + b"\n"]))


def test_the_line_as_the_format_says():
    frame = Frame(2, 17, 4096, 900, 71303168, 4194304, bytes(range(32)), CONTINUES | LAST)

    assert (
        frames.format_frame(frame)
        == b"2\t17\t4096\t900\t71303168\t4194304\t" + bytes(range(32)).hex().encode() + b"\tcl\n"
    )

"""Fields of lines: any bytes come back, and only one way to write them is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.errors import ImageDamaged
from backupcore.image.escape import escape, unescape
from backupcore.image.lines import MAX_LINE, whole_lines


@given(st.binary(min_size=1))
def test_any_bytes_come_back(raw):
    field = escape(raw)

    assert unescape(field) == raw
    assert not set(field) & set(range(0x20)) and 0x7F not in field


def test_a_lone_dash_is_no_missing_field():
    assert (escape(b""), escape(b"-"), escape(b"--")) == (b"-", b"\\x2d", b"--")
    assert (unescape(b"-"), unescape(b"\\x2d")) == (b"", b"-")


def test_readable_bytes_stay_as_they_are():
    assert escape("größe ☃ a=b".encode() + b"\xff\x80") == "größe ☃ a=b".encode() + b"\xff\x80"
    assert escape(b"a\nb\\c\x1b") == b"a\\x0ab\\\\c\\x1b"


@pytest.mark.parametrize(
    "field", [b"", b"\\", b"\\x", b"\\x4", b"\\x41", b"\\X0a", b"\\x0A", b"\\n", b"a\\x2d", b"\\\\\\"]
)
def test_what_escape_never_writes_is_refused(field):
    with pytest.raises(ImageDamaged):
        unescape(field)


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)), st.integers(1, 9))
def test_lines_come_out_of_any_chunks(lines, step):
    data = b"".join(line + b"\n" for line in lines)

    assert list(whole_lines(data[place : place + step] for place in range(0, len(data), step))) == lines


def test_a_cut_line_is_refused():
    with pytest.raises(ImageDamaged):
        list(whole_lines([b"whole\ncut"]))


def test_an_endless_line_is_refused_before_it_fills_the_memory():
    def endless():
        for count in range(100):
            assert count < 10, "read on"
            yield b"x" * (MAX_LINE // 4)

    with pytest.raises(ImageDamaged):
        list(whole_lines(endless()))

"""Indexes that a hostile client made up: each costs its own place in the search, and what others have is found."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from search_world import SECOND, World, line
from test_search_all import ALL, MEMORY, ask

from backupcore.dump import fold
from backupcore.errors import StowageError
from backupcore.search import block, scan, store

NUMBERS = [b"0", b"1", b"-1", b"07", b"9" * 18, b"%d" % ((1 << 63) - 1), b"%d" % (1 << 63), b"%d" % (1 << 64),
           b"9" * 20, b"9" * 21, b"-", b"", b"1.5", b"1e9"]  # fmt: skip
TIMES = [b"%s%s.%s" % (sign, b"9" * digits, rest) for sign in (b"", b"-") for digits in (1, 10, 12, 18, 19)
         for rest in (b"000000000", b"999999999", b"1")]  # fmt: skip
WORDS = [b".", b"..", b"a", b"z", b"a/b", b"/a", b"a//b", b"-", b"\\x00", b"\xff", b"f", b"d", b"l", b"h", b"n", b"c",
         b"excluded", b"segment", b"s", b"smhdx", b"x", b"0" * 64, b"8,1", b"\x1b[2J", b"a\tb"]  # fmt: skip
KINDS = {b"f": b"", b"d": b"", b"l": b"a", b"h": b"a", b"-": b"f", b"n": b"excluded"}


@st.composite
def indexes(draw):
    """Lines as they come, most of them right, some made up."""
    lines = [line(b".", "d")]
    for path in draw(st.lists(st.sampled_from([b"a", b"b", b"c", b"c/d", b"c/e"]), unique=True).map(sorted)):
        kind = draw(st.sampled_from(sorted(KINDS)))
        fields = line(path, kind.decode(), b"x", SECOND, KINDS[kind])[:-1].split(b"\t")
        for column in draw(st.lists(st.integers(0, 13), max_size=2)):
            likely = TIMES if column in (6, 7) else NUMBERS if column in (2, 3, 4, 5, 8, 11, 12) else WORDS
            fields[column] = draw(st.sampled_from(likely) | st.sampled_from(WORDS + NUMBERS + TIMES))
        lines.append(b"\t".join(fields) + b"\n")
    return lines


def file_of(column, value):
    """An index with a file, of which one column says this."""
    fields = line(b"a", "f", b"x")[:-1].split(b"\t")
    fields[column] = value
    return [line(b".", "d"), b"\t".join(fields) + b"\n"]


def lie(dumps):
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="stowage-test-") as folder:
        world = World(Path(folder))
        good = world.full({b".": ("d", b"", SECOND, b""), b"mine": ("f", b"x", SECOND, b"")}, client="good")
        base = None
        for number, lines in enumerate(dumps):
            base = world.dump(lines, base=base if number % 3 else None, client="bad")
        done = world.update()
        assert good.id not in {name for name, _why in done.failed}
        opened, _absent = store.open_all(world.state, world.rows)
        for wanted in (ALL, ask(b"mine"), ask(b"*", larger=1, newer=0), ask(b"*", smaller=1 << 70, older=1 << 70)):
            hits = list(scan.search(opened, wanted, 1))
            assert any(hit.path == b"mine" for hit in hits)
        for one in opened:
            os.close(one.history.fd)
        for lines in dumps:  # and what makes state of them
            try:
                fold.fold([lambda lines=lines: iter(lines)], Path(tempfile.mkdtemp(dir=folder)), lambda blocks: None)
            except StowageError:
                pass


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(block, "SIZE_OF", 3)
    monkeypatch.setattr(store, "DEAD", 1)


@settings(max_examples=25, deadline=None, database=None)
@given(st.lists(indexes(), min_size=1, max_size=4))
@example([file_of(5, value) for value in NUMBERS])
@example([file_of(6, value) for value in TIMES])
def test_whatever_an_index_says_others_are_found(dumps):
    lie(dumps)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, database=None)
@given(st.lists(indexes(), min_size=1, max_size=4))
def test_whatever_very_many_indexes_say_others_are_found(dumps):
    lie(dumps)

"""Blocks of state: what is packed comes back, and nothing else is taken."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.errors import ImageDamaged, StowageError
from backupcore.image import codec, state

NAME = st.binary(min_size=1, max_size=30).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
NAMES = st.lists(NAME, max_size=20, unique=True)
NUMBER = st.integers(-(1 << 63), (1 << 63) - 1)


@given(NAMES, NAMES, st.data())
def test_what_is_packed_comes_back(names, folders, data):
    names.sort()
    rows = array("q", data.draw(st.lists(NUMBER, min_size=6 * len(names), max_size=6 * len(names))))
    own = tuple(data.draw(st.lists(NUMBER, min_size=6, max_size=6)))
    raw = state.pack(b"a/b", own, names, rows, folders, True)
    for word in ("none", "gzip", "zstd"):
        (block,) = state.read([codec.get(word).compress(raw)])
        assert (block.raw, block.path, block.own, block.last) == (raw, b"a/b", own, True)
        assert block.parts() == (names, rows, folders)


def test_flags_are_added_to_all_rows_but_the_absent():
    rows = array("q", (0o100644, 1, 2, 3, 4, 1) + state.ABSENT_ROW)
    raw = state.pack(b".", (0o40755, 0, 1, 2, 3, 0), [b"a", b"b"], rows, [b"d"], True)
    block = state.one(state.one(raw).flagged(state.SUSPECT | state.CARRIED))
    names, found, folders = block.parts()
    assert (names, folders) == ([b"a", b"b"], [b"d"])
    assert found[0] == 0o100644 | state.SUSPECT | state.CARRIED and tuple(found[6:]) == state.ABSENT_ROW
    assert block.own[0] == 0o40755 | state.SUSPECT | state.CARRIED
    assert block.flagged(state.SUSPECT | state.CARRIED) == block.raw
    assert state.one(block.flagged(0, (1, 2, 3, 4, 5, 6))).own == (1, 2, 3, 4, 5, 6)


def test_inode_numbers_above_2_to_63_fit():
    for number in (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        assert -(1 << 63) <= state.signed(number) < 1 << 63 and state.unsigned(state.signed(number)) == number


def test_a_writer_hands_on_all_in_order():
    payloads = []
    writer = state.Writer(payloads.append)
    blocks = [
        state.pack(b"%06d" % number, state.ABSENT_ROW, [], array("q"), [b"x" * 100], True) for number in range(9000)
    ]
    for block in blocks:
        writer.add(block)
    writer.flush()
    writer.flush()
    assert len(payloads) > 1 and max(map(len, payloads)) <= state.PAYLOAD
    assert [block.raw for block in state.read(payloads)] == blocks


def test_payloads_of_the_base_that_are_whole_are_handed_on_as_they_came():
    blocks = [
        state.pack(b"%06d" % number, state.ABSENT_ROW, [], array("q"), [b"x" * 100], True) for number in range(3000)
    ]
    packed = []
    for start in range(0, 3000, 300):  # other cuts than a writer's own
        packed.append(codec.get("gzip").compress(b"".join(blocks[start : start + 300])))
    changed = state.pack(b"000450", state.ABSENT_ROW, [], array("q"), [b"y" * 100], True)
    new, again, order = [], [], []
    writer = state.Writer(lambda raw: (new.append(raw), order.append(raw)),
                          lambda payload: (again.append(payload), order.append(payload)))  # fmt: skip
    for block in state.read(packed):
        if block.path == b"000450":
            writer.add(changed)  # in the second payload
        elif block.path != b"000300" and block.path != b"001200":  # the first of the second and of the fifth are gone
            writer.same(block)
        if block.path == b"002099":
            writer.add(state.pack(b"002099x", state.ABSENT_ROW, [], array("q"), [], True))  # behind the seventh
    writer.flush()
    assert again == [packed[number] for number in (0, 2, 3, 5, 6, 8, 9)]
    wanted = [block for place, block in enumerate(blocks) if place not in (300, 1200)]
    wanted[wanted.index(blocks[450])] = changed
    wanted.insert(wanted.index(blocks[2100]), state.pack(b"002099x", state.ABSENT_ROW, [], array("q"), [], True))
    assert [block.raw for block in state.read(order)] == wanted


def test_small_payloads_of_a_base_grow_together():
    blocks = [state.pack(b"%06d" % number, state.ABSENT_ROW, [], array("q"), [b"x"], True) for number in range(600)]
    new, again = [], []
    writer = state.Writer(new.append, again.append)
    writer.add(state.pack(b"0", state.ABSENT_ROW, [], array("q"), [b"y"], True))
    for block in state.read([b"".join(blocks[at : at + 2]) for at in range(0, 600, 2)]):
        writer.same(block)
    writer.flush()
    assert not again and all(len(one) >= state.LEAST for one in new[:-1])


GOOD = state.pack(b"a", (1, 2, 3, 4, 5, 6), [b"x"], array("q", range(6)), [b"y"], True)


@pytest.mark.parametrize("raw", [
    GOOD[:-1], GOOD[:10], GOOD + b"x", b"XXXX" + GOOD[4:], GOOD[:4] + b"\xff\xff\xff\xff" + GOOD[8:],
    GOOD[:8] + b"\xff\xff\xff\xff" + GOOD[12:], GOOD[:12] + b"\xff\xff" + GOOD[14:], GOOD[:16] + b"\xff" + GOOD[17:],
    GOOD[:16] + b"\0" + GOOD[17:], GOOD[:16] + b"\1" + GOOD[17:], GOOD.replace(b"a", b"/"),
    state.pack(b"../x", (0,) * 6, [], array("q"), [], True), state.pack(b"", (0,) * 6, [], array("q"), [], True),
])  # fmt: skip
def test_what_is_no_state_is_refused(raw):
    with pytest.raises(ImageDamaged):
        for block in state.read([raw]):
            block.parts()


def test_names_that_are_fewer_than_said_are_refused():
    with pytest.raises(ImageDamaged):
        state.one(GOOD.replace(b"x\0y", b"xyz")).parts()


def test_a_bomb_is_refused():
    with pytest.raises(StowageError):
        list(state.read([codec.get("gzip").compress(bytes(state.LIMIT + 1))]))

"""GNU.dumpdir: what is written, what is refused, and why: GNU tar deletes what it does not find."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.errors import ImageDamaged
from backupcore.image import dumpdir, pax

names = st.binary(min_size=1).filter(lambda name: not set(name) & {0, 0x2F} and name not in (b".", b".."))


@given(st.dictionaries(names, st.sampled_from("YDN")))
def test_any_names_come_back_sorted_without_their_letters(letters):
    record = dumpdir.build_of(letters.items())
    value = b"".join(record.pieces())

    assert len(value) == record.length
    assert dumpdir.parse(value) == sorted(letters.items())


def test_the_value_as_tar_writes_it():
    record = dumpdir.build_of([(b"z", "Y"), (b"a", "D"), (b"m", "N")])

    assert b"".join(record.pieces()) == b"Da\0Nm\0Yz\0\0"
    assert b"".join(dumpdir.build([], b"").pieces()) == b"\0"


def test_a_long_list_comes_in_pieces():
    record = dumpdir.build([b"%07d" % number for number in range(100_000)], b"Y" * 100_000)
    pieces = list(record.pieces())

    assert max(map(len, pieces)) < 64 << 10 and sum(map(len, pieces)) == record.length


@pytest.mark.parametrize(
    "wrong",
    [([b"b", b"a"], b"YY"), ([b"a", b"a"], b"YY"), ([b"a"], b"YY"), ([b"a"], b"R"), ([b""], b"Y")],
)
def test_a_wrong_list_is_not_written(wrong):
    with pytest.raises(ValueError):
        dumpdir.build(*wrong)


@pytest.mark.parametrize(
    "value",
    [
        b"", b"Ya", b"Ya\0", b"Yb\0Ya\0\0", b"Ya\0Ya\0\0", b"Y\0\0", b"Ya/b\0\0", b"Y..\0\0", b"Y.\0\0", b"Xa\0\0",
        b"Ra\0Tb\0\0", b"a\0\0", b"Ya\0\0\0", b"Ya\0\0Yb\0\0",
    ],
)  # fmt: skip
def test_what_is_never_written_is_refused(value):
    with pytest.raises(ImageDamaged):
        dumpdir.parse(value)


def restored(tmp_path, record):
    """The names left after tar unpacked an incremental whose root has this record over files a, m, z."""
    folder = tmp_path / "to"
    folder.mkdir()
    for name in "amz":
        (folder / name).write_text(name)
    archive = pax.member(b"./", "d", 0o755, 0, 0, dumpdir=record) + pax.END
    subprocess.run(["tar", "-xpG", "-f", "-", "-C", folder], input=archive, check=True)
    return sorted(path.name for path in folder.iterdir())


def test_tar_deletes_what_is_not_listed_and_nothing_else(tmp_path):
    assert restored(tmp_path, dumpdir.build_of([(b"a", "Y"), (b"z", "N")])) == ["a", "z"]


def test_tar_deletes_what_is_listed_out_of_order(tmp_path):
    """Why build() refuses it."""
    assert restored(tmp_path, dumpdir.Dumpdir(10, [b"z", b"m", b"a"], b"YNY")) != ["a", "m", "z"]

"""Whatever bytes come, each reader takes them or refuses them by an error of ours: samples, flips, cuts, garbage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
import readers  # noqa: E402

from backupcore.errors import StowageError  # noqa: E402

NAMES = sorted(readers.READERS)


def taken(name: str, data: bytes) -> bool:
    try:
        readers.READERS[name](data)
    except StowageError as error:
        assert "\n" not in error.message and len(error.message) < 2000
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_every_sample_is_taken(name):
    found = readers.samples(name)
    # the wire never ends of itself: its samples end in the error that the line was cut
    assert found and all(taken(name, data) is (name != "wire") for data in found)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_spoiled_sample_is_taken_or_refused(name, data):
    known = readers.samples(name)
    sample = bytearray(data.draw(st.sampled_from(known)))
    for _ in range(data.draw(st.integers(1, 4))):
        if not sample:
            break
        at = data.draw(st.integers(0, len(sample) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat", "swap"]))
        if what == "flip":
            sample[at] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "cut":
            del sample[at:]
        elif what == "insert":
            sample[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        elif what == "repeat":
            sample[at:at] = sample[at : at + data.draw(st.integers(1, 600))]
        else:
            other = data.draw(st.sampled_from(known))
            sample[at:] = other[at:]
    taken(name, bytes(sample))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_garbage_is_taken_or_refused(name, garbage):
    taken(name, garbage)

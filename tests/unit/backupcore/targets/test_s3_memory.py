"""Memory of upload parts: used again, never more of it than there is room, given back at the end."""

from __future__ import annotations

import hashlib
import io
import os

import pytest
from botocore.utils import determine_content_length

from backupcore.targets import _s3_client, _s3_memory
from backupcore.targets._s3_memory import Buffers, Held


@pytest.fixture
def made(monkeypatch):
    """The buffers that were made anew."""
    found = []
    real = _s3_memory.mmap.mmap

    def counted(fd, size):
        found.append(real(fd, size))
        return found[-1]

    monkeypatch.setattr(_s3_memory.mmap, "mmap", counted)
    return found


def is_gone(buffer):
    with pytest.raises(ValueError, match="closed"):
        buffer[0]
    return True


def test_a_buffer_is_used_again_while_somebody_needs_some(made):
    buffers = Buffers()
    with buffers.kept():
        for _piece in range(10):
            first, second = buffers.take(8192), buffers.take(8192)
            buffers.give(first)
            buffers.give(second)
    assert len(made) == 2 and all(map(is_gone, made))


def test_two_never_have_one_buffer():
    buffers = Buffers()
    with buffers.kept():
        buffers.give(buffers.take(4096))
        first, second = buffers.take(4096), buffers.take(4096)
        assert first is not second


def test_what_is_kept_never_adds_to_what_is_in_use(made):
    """A larger file beside small ones: what it cannot use makes room for what it needs."""
    buffers = Buffers()
    with buffers.kept():
        for one in [buffers.take(4096) for _ in range(3)]:
            buffers.give(one)
        large = [buffers.take(1 << 20) for _ in range(3)]
        assert [len(one) for one in large] == [1 << 20] * 3
        assert all(map(is_gone, made[:3]))
        for one in large:
            buffers.give(one)
        assert len(buffers.take(4096)) == 1 << 20  # and the other way round it need not be made anew
        assert len(made) == 6


def test_the_smallest_that_is_large_enough_is_taken():
    buffers = Buffers()
    with buffers.kept():
        small, large = buffers.take(4096), buffers.take(1 << 20)
        buffers.give(large)
        buffers.give(small)
        assert buffers.take(100) is small


def test_the_last_who_leaves_gives_all_back(made):
    buffers = Buffers()
    with buffers.kept():
        with buffers.kept():
            buffers.give(buffers.take(4096))
        assert len(made[0]) == 4096
    assert is_gone(made[0])
    late = Held(buffers.take(4096), 10)  # of a sender that was interrupted
    buffers.give(late.buffer)
    assert len(late.view) == 10  # still seen by somebody: it goes when that goes


@pytest.mark.parametrize("size", [1, 4096, 4097, 3 << 20])
def test_botocore_reads_it_as_a_file(size):
    buffers = Buffers()
    content = os.urandom(size)
    held = Held(buffers.take(4 << 20), size)
    held.view[:] = content
    assert len(held) == determine_content_length(held) == size
    found = hashlib.sha256()
    for piece in iter(lambda: held.read(1 << 20), b""):  # as its signer does
        found.update(piece)
    assert found.digest() == hashlib.sha256(content).digest() and held.tell() == size
    assert held.seek(0) == 0 and bytes(held.read()) == content and held.read(5) == b""
    assert held.seek(-1, os.SEEK_END) == size - 1 and bytes(held.read(100)) == content[-1:]
    assert held.seek(-1, os.SEEK_CUR) == size - 1 and held.seek(-9 - size) == 0
    assert held.seek(9, os.SEEK_END) == size and held.read() == b""


def test_a_body_goes_in_large_pieces_and_again_from_its_begin():
    content = os.urandom(300 << 10)
    for body in (io.BytesIO(content), held_of(content)):
        request = Request(body)
        _s3_client._in_pieces(request)
        pieces = pieces_of(request.body, 16 << 10)
        assert [len(piece) >> 10 for piece in pieces] == [128, 128, 44] and b"".join(pieces) == content
        assert request.body.tell() == len(content) and request.body.seek(0) == 0
        assert bytes(request.body.read()) == content


def test_a_paced_body_goes_in_small_pieces_that_are_paid_for_before():
    content, paid = os.urandom(40 << 10), []
    for body in (content, held_of(content)):
        paid.clear()
        request = Request(body)
        with _s3_client.paced(paid.append):
            _s3_client._in_pieces(request)
        pieces = pieces_of(request.body, 1 << 20)
        assert b"".join(pieces) == content
        assert paid == [len(piece) for piece in pieces] == [16 << 10, 16 << 10, 8 << 10]


def held_of(content):
    held = Held(Buffers().take(len(content)), len(content))
    held.view[:] = content
    return held


def pieces_of(body, size):
    """As urllib3 reads a body."""
    found = []
    while piece := body.read(size):
        found.append(bytes(piece))
    return found


class Request:
    def __init__(self, body):
        self.body = body

"""What the conformance suite of targets asks of puts at a pace and of streams; a part of targets.TargetConformance."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from backupcore.hookspecs import Paused, Stored, TargetError, WrongDigest

from .target_names import UNSAFE


class StreamConformance:
    """Paced puts, of a driver whose put knows a pace; streams, of one whose capabilities say so."""

    big = 3_000_000

    # -- pace; a driver that has none is not begun out of time, see the contract

    @pytest.fixture
    def paced(self, target):
        """The target, when its put knows a pace."""
        known = inspect.signature(target.put).parameters.values()
        if not any(one.name == "pace" or one.kind is one.VAR_KEYWORD for one in known):
            pytest.skip("its put knows no pace")
        return target

    def test_every_byte_asks_its_pace(self, paced, file):
        content, asked = os.urandom(self.big), []
        paced.put("name", file(content), pace=asked.append)
        assert sum(asked) >= self.big
        assert b"".join(paced.read("name")) == content

    @pytest.mark.parametrize("size", [1, None])
    def test_a_put_out_of_time_is_not_begun(self, paced, file, size):
        def over(_count):
            raise Paused("not now")

        with pytest.raises(Paused):
            paced.put("name", file(os.urandom(size or self.big)), checkpoint=lambda state: None, pace=over)
        assert paced.stat("name") is None and list(paced.list("name")) == []

    def test_a_put_whose_time_is_over_is_ended_or_taken_up_where_it_was(self, paced, file):
        content = os.urandom(self.big)
        path, digest = file(content), hashlib.sha256(content).hexdigest()
        states, first, second = [], [], []

        def over(count):
            first.append(count)
            if sum(first) * 2 > self.big:
                raise Paused("not now")

        try:
            paced.put("name", path, sha256=digest, checkpoint=states.append, pace=over)
        except Paused:  # else it cannot be taken up in its middle, and was ended
            assert paced.stat("name") is None
            state = json.loads(json.dumps(states[-1])) if states else None
            paced.put("name", path, sha256=digest, resume=state, checkpoint=states.append, pace=second.append)
            assert 0 < sum(second) < self.big or sum(first) >= self.big
        assert b"".join(paced.read("name")) == content

    # -- streams; of a driver whose capabilities say so

    @pytest.fixture
    def streaming(self, target):
        """The target, when files can be streamed to it."""
        if not getattr(target.capabilities, "streams", False):
            pytest.skip("this place takes no streams")
        return target

    @pytest.mark.parametrize("size", [0, 1, 100_000, None])
    def test_a_stream_becomes_the_file_that_it_was(self, streaming, size):
        content = os.urandom(self.big if size is None else size)
        stored = _streamed(streaming.stream("client/source/dump/part"), content)
        assert (stored.name, stored.size) == ("client/source/dump/part", len(content))
        assert b"".join(streaming.read("client/source/dump/part")) == content
        assert [found.name for found in streaming.list("client/")] == ["client/source/dump/part"]
        assert not stored.proven or streaming.capabilities.own_checksums

    def test_a_large_stream_in_pieces_of_many_sizes(self, streaming):
        content = os.urandom(self.big * 2 + 12_345)
        stream, done, sizes = streaming.stream("name"), 0, (1, 70_001, 4096, 300_000, 1_000_003)
        while done < len(content):
            step = sizes[done % len(sizes)]
            stream.write(memoryview(content)[done : done + step])
            done += step
        assert stream.finish(hashlib.sha256(content).hexdigest()).size == len(content)
        found = hashlib.sha256()
        for piece in streaming.read("name"):
            found.update(piece)
        assert found.digest() == hashlib.sha256(content).digest()

    def test_what_a_stream_was_given_may_be_changed_afterwards(self, streaming):
        room, whole = bytearray(64 << 10), hashlib.sha256()
        stream = streaming.stream("name")
        for number in range(self.big // len(room) + 2):
            room[:] = bytes([number % 251]) * len(room)
            whole.update(room)
            stream.write(memoryview(room))
        stream.finish(whole.hexdigest())
        assert hashlib.sha256(b"".join(streaming.read("name"))).digest() == whole.digest()

    @pytest.mark.parametrize("size", [0, 100_000, None])
    def test_a_stream_that_is_given_up_leaves_nothing(self, streaming, size):
        before = [found.name for found in streaming.list()]
        stream = streaming.stream("client/source/dump/part")
        stream.write(os.urandom(self.big * 2 if size is None else size))
        assert streaming.stat("client/source/dump/part") is None, "a file is there when it is whole, not before"
        stream.abort()
        assert streaming.stat("client/source/dump/part") is None
        assert [name.name for name in streaming.list() if not name.name.startswith(".stowage/")] == [
            name for name in before if not name.startswith(".stowage/")
        ]
        assert streaming.clean(0) == 0, "nothing is left for clean()"
        stream.abort()  # no error when there is nothing left
        content = os.urandom(1000)
        _streamed(streaming.stream("client/source/dump/part"), content)
        assert b"".join(streaming.read("client/source/dump/part")) == content

    @pytest.mark.parametrize("size", ["small", "big"])
    def test_a_stream_with_another_digest_is_refused_and_not_stored(self, streaming, size):
        content = os.urandom(100 if size == "small" else self.big)
        stream = streaming.stream("name")
        stream.write(content)
        with pytest.raises(WrongDigest):
            stream.finish("0" * 64)
        assert streaming.stat("name") is None
        assert streaming.clean(0) == 0

    def test_a_stream_if_absent_does_not_touch_what_is_there(self, streaming, file):
        streaming.put("name", file(b"first"))
        with pytest.raises(TargetError):
            _streamed(streaming.stream("name", if_absent=True), b"second")
        assert b"".join(streaming.read("name")) == b"first"
        _streamed(streaming.stream("name"), b"third")
        assert b"".join(streaming.read("name")) == b"third"

    def test_a_stream_if_absent_loses_against_who_was_quicker(self, streaming, file):
        stream = streaming.stream("name", if_absent=True)
        stream.write(os.urandom(self.big))
        streaming.put("name", file(b"quicker"))
        with pytest.raises(TargetError):
            _streamed(stream, b"")
        assert b"".join(streaming.read("name")) == b"quicker"

    def test_every_byte_of_a_stream_asks_its_pace(self, streaming):
        content, asked = os.urandom(self.big), []
        _streamed(streaming.stream("name", pace=asked.append), content)
        assert sum(asked) >= self.big
        assert b"".join(streaming.read("name")) == content

    def test_a_stream_out_of_time_is_not_begun_and_one_that_was_begun_is_ended(self, streaming):
        def over(_count):
            raise Paused("not now")

        with pytest.raises(Paused):
            streaming.stream("name", pace=over)
        calls = []

        def later(count):
            calls.append(count)
            if sum(calls) * 2 > self.big:
                raise Paused("not now")

        content = os.urandom(self.big)
        _streamed(streaming.stream("other", pace=later), content)  # nobody could go on with it
        assert b"".join(streaming.read("other")) == content

    def test_many_streams_at_once(self, streaming):
        contents = {f"t/{index}": os.urandom(self.big // 2 + index) for index in range(6)}

        def work(name):
            stream = streaming.stream(name, if_absent=True)
            if name == "t/3":
                stream.write(contents[name])
                stream.abort()
                return True
            return _streamed(stream, contents[name]).size == len(contents[name])

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(work, contents))
        assert {found.name for found in streaming.list("t/")} == set(contents) - {"t/3"}
        assert all(b"".join(streaming.read(name)) == contents[name] for name in ("t/0", "t/5"))

    def test_streams_that_all_wait_for_bytes_do_not_hold_up_a_put(self, streaming, file):
        streams = [streaming.stream(f"t/{index}") for index in range(8)]
        for stream in streams:
            stream.write(b"x" * 1000)
        streaming.put("name", file(os.urandom(self.big)))
        assert streaming.stat("name").size == self.big
        for stream in streams:
            stream.abort()

    @pytest.mark.parametrize("name", UNSAFE)
    def test_a_stream_with_an_unsafe_name_is_refused(self, streaming, name):
        with pytest.raises(TargetError):
            streaming.stream(name)

    def test_clean_leaves_streams_alone_that_are_under_way(self, streaming):
        content = os.urandom(self.big)
        stream = streaming.stream("name")
        stream.write(content[:-1])
        streaming.clean(0)
        stream.write(content[-1:])
        stream.finish(hashlib.sha256(content).hexdigest())
        assert b"".join(streaming.read("name")) == content


def _streamed(stream, content: bytes) -> Stored:
    """content through a stream, which is ended whatever comes of it."""
    try:
        for begin in range(0, len(content), 100_000):
            stream.write(content[begin : begin + 100_000])
        return stream.finish(hashlib.sha256(content).hexdigest())
    except BaseException:
        stream.abort()
        raise

"""The conformance suite of the target contract: what every target driver must hold, ours and a third party's.

Subclass TargetConformance in a test module and give it a fixture `target` that opens an empty place::

    class TestWebdav(TargetConformance):
        @pytest.fixture
        def target(self, tmp_path):
            return WebdavTarget(WebdavOptions(url=...), TargetContext("webdav", "0123456789abcdef", tmp_path))

        driver = DRIVER  # the TargetDriver that the package's hook returns

        @pytest.fixture
        def plant(self, ...):  # if the place can be reached behind the target's back
            return lambda name, content: ...  # puts content there under a name in bytes, also a hostile one

        @pytest.fixture
        def again(self, ...):
            return lambda: ...  # opens the place of `target` once more, as prune does: context with pruning=True

Here live the behaviours the engine builds on; those of paced puts and of streams are target_streams.py, those of locks
target_locks.py. Not how a driver tells its own place's errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupcore.hookspecs import Spent, Stored, TargetCapabilities, TargetDriver, TargetError, WrongDigest

from .target_locks import LockConformance
from .target_names import HOSTILE, NAMES, UNSAFE
from .target_streams import StreamConformance

RANGES = [(0, 1), (0, 10_000), (1, 9_999), (5_000, 100), (9_999, 1), (777, None), (0, 0), (10_000, 0)]


class TargetConformance(StreamConformance, LockConformance):
    """Behaviours of a target. big: bytes of the big file; more than one upload part of the place, if it has such.
    driver: the TargetDriver of the target, so that what it declares is looked at, too."""

    big = 3_000_000
    driver = None

    @pytest.fixture
    def target(self):
        """An open target at an empty place."""
        raise NotImplementedError("give the suite a fixture named target")

    @pytest.fixture
    def file(self, tmp_path):
        """file(content) -> path of a new file with it."""
        count = iter(range(1_000_000))

        def make(content: bytes) -> Path:
            path = tmp_path / f"local-{next(count)}"
            path.write_bytes(content)
            return path

        return make

    @pytest.fixture
    def plant(self):
        """plant(name in bytes, content): a file at the place that came there by another way."""
        pytest.skip("give the suite a fixture named plant")

    @pytest.fixture
    def again(self):
        """again() -> the place of target, opened once more with pruning=True in its context."""
        pytest.skip("give the suite a fixture named again")

    # -- what goes in comes out

    @pytest.mark.parametrize("size", [0, 1, 4096, 100_000])
    def test_a_file_comes_back_as_it_was(self, target, file, size):
        content = os.urandom(size)
        stored = target.put("client/source/dump/file", file(content))
        assert (stored.name, stored.size) == ("client/source/dump/file", size)
        assert b"".join(target.read("client/source/dump/file")) == content

    def test_a_big_file_comes_back_and_every_byte_is_told(self, target, file):
        content = os.urandom(self.big)
        sent = []
        target.put("big/file", file(content), progress=sent.append)
        assert sum(sent) == self.big
        assert hashlib.sha256(b"".join(target.read("big/file"))).digest() == hashlib.sha256(content).digest()

    @pytest.mark.parametrize("name", NAMES)
    def test_names_of_many_kinds(self, target, file, name):
        target.put(name, file(b"x"))
        assert target.stat(name).size == 1
        assert b"".join(target.read(name)) == b"x"
        assert [found.name for found in target.list(name)] == [name]

    def test_a_second_put_replaces_the_file(self, target, file):
        target.put("name", file(b"first and longer"))
        target.put("name", file(b"second"))
        assert b"".join(target.read("name")) == b"second"

    def test_if_absent_refuses_a_name_that_exists(self, target, file):
        target.put("name", file(b"first"), if_absent=True)
        with pytest.raises(TargetError):
            target.put("name", file(b"second"), if_absent=True)
        assert b"".join(target.read("name")) == b"first"

    @pytest.mark.parametrize("size", ["small", "big"])
    def test_a_file_with_another_digest_is_refused_and_not_stored(self, target, file, size):
        content = os.urandom(100 if size == "small" else self.big)
        right = hashlib.sha256(content).hexdigest()
        damaged = content[:50] + bytes([content[50] ^ 1]) + content[51:]
        with pytest.raises(WrongDigest):
            target.put("name", file(damaged), sha256=right, checkpoint=lambda state: None)
        assert target.stat("name") is None
        target.put("name", file(content), sha256=right)
        assert b"".join(target.read("name")) == content

    @pytest.mark.parametrize("size", ["nothing", "small", "big"])
    def test_a_kept_digest_is_that_of_the_bytes_there_now(self, target, file, size):
        if not getattr(target.capabilities, "kept_checksums", False):
            pytest.skip("this place keeps no checksums")
        for _time in range(2):  # the second one replaces the first
            content = os.urandom({"nothing": 0, "small": 5000, "big": self.big}[size])
            digest = hashlib.sha256(content).hexdigest()
            target.put("name", file(content), sha256=digest)
            kept = target.kept_sha256("name")
            assert kept == digest or kept is None and size == "big", "big files may lie there in upload parts"
        target.delete("name")
        assert target.kept_sha256("name") is None

    def test_what_is_awake_need_not_be_woken(self, target, file):
        if not getattr(target.capabilities, "archives", False):
            pytest.skip("this place has no archive")
        target.put("name", file(b"x" * 100))
        assert target.wake("name", 1) is True and b"".join(target.read("name")) == b"x" * 100
        for name in ("no/such/file", "../up"):
            with pytest.raises(TargetError):
                target.wake(name, 1)

    def test_what_nobody_hid_is_not_called_hidden(self, target, file):
        if getattr(target, "hidden", None) is None:
            pytest.skip("the driver has no hidden")
        target.put("seen/source/dump/file", file(b"x"))  # a name that no other test has: its own may lie hidden
        assert list(target.hidden("seen/")) == []
        target.unhide("seen/source/dump/file")
        assert b"".join(target.read("seen/source/dump/file")) == b"x"

    def test_others_names_no_file_of_its_own(self, target, file):
        if getattr(target.capabilities, "tells_others", False):
            target.put("client/source/dump/file", file(b"x"))
            assert list(target.others("client/source/dump")) == []
            assert list(target.others("client/source")) == ["client/source/dump/"]
            assert list(target.others("client/nothing")) == []
            with pytest.raises(TargetError):
                list(target.others("../up"))

    # -- ranges

    @pytest.mark.parametrize("offset, length", RANGES)
    def test_ranges_are_exact(self, target, file, offset, length):
        content = os.urandom(10_000)
        target.put("name", file(content))
        end = None if length is None else offset + length
        assert b"".join(target.read("name", offset, length)) == content[offset:end]

    @pytest.mark.parametrize("offset, length", [(0, 101), (100, 1), (50, 51), (200, 10)])
    def test_a_range_beyond_the_end_is_an_error(self, target, file, offset, length):
        target.put("name", file(b"x" * 100))
        with pytest.raises(TargetError):
            b"".join(target.read("name", offset, length))

    def test_a_reader_may_stop_early(self, target, file):
        target.put("name", file(os.urandom(self.big)))
        pieces = target.read("name")
        assert next(pieces)
        pieces.close()
        assert target.stat("name").size == self.big

    def test_a_place_copies_only_from_its_like(self, target):
        if getattr(target, "copy_from", None) is None:
            pytest.skip("the driver has no copy_from")
        digest = hashlib.sha256(b"x").hexdigest()
        assert target.copy_from(object(), "client/source/dump/file", size=1, sha256=digest) is None
        assert target.stat("client/source/dump/file") is None

    # -- what is not there

    def test_a_missing_file(self, target):
        assert target.stat("no/such/file") is None
        with pytest.raises(TargetError):
            b"".join(target.read("no/such/file"))
        with pytest.raises(TargetError):
            b"".join(target.read("no/such/file", 5, 10))
        target.delete("no/such/file")
        assert list(target.list("no/such")) == []
        assert list(target.list("no/such/")) == []

    def test_a_folder_is_no_file(self, target, file):
        target.put("folder/file", file(b"x"))
        assert target.stat("folder") is None
        target.delete("folder/file")
        assert target.stat("folder/file") is None

    # -- listing

    def test_a_listing_is_in_order_of_bytes_and_whole(self, target, file):
        names = ["a!b", "a-b/c", "a/b-c", "a/b/c", "a/b/d", "a0", "b/x", "b/y/z", "ba", "ä", "Z"]
        for name in names:
            target.put(name, file(name.encode()))
        listed = [found.name for found in target.list()]
        assert [name for name in listed if not name.startswith(".stowage/")] == sorted(names, key=str.encode)
        assert all(found.size == len(found.name.encode()) for found in target.list() if found.name in names)

    def test_a_prefix_is_a_prefix_of_the_name(self, target, file):
        for name in ("web1/etc/x", "web1/etc2/x", "web10/etc/x", "web"):
            target.put(name, file(b"x"))
        assert [found.name for found in target.list("web1/etc/")] == ["web1/etc/x"]
        assert [found.name for found in target.list("web1/etc")] == ["web1/etc/x", "web1/etc2/x"]
        assert [found.name for found in target.list("web1")] == ["web1/etc/x", "web1/etc2/x", "web10/etc/x"]
        assert next(target.list("we")).name == "web"
        assert [found.name for found in target.list("web1/e")] == ["web1/etc/x", "web1/etc2/x"]

    def test_times_are_those_of_now(self, target, file):
        target.put("name", file(b"x"))
        (found,) = target.list("name")
        for one in (found, target.stat("name")):
            assert one.modified_ns == 0 or abs(one.modified_ns - time.time_ns()) < 3600 * 10**9

    # -- nothing half

    def test_a_file_that_cannot_be_read_leaves_nothing(self, target, tmp_path):
        with pytest.raises(TargetError):
            target.put("name", tmp_path / "does-not-exist")
        assert target.stat("name") is None
        assert [found.name for found in target.list() if not found.name.startswith(".stowage/")] == []

    def test_a_put_that_breaks_off_leaves_no_file_and_can_be_done_again(self, target, file):
        content = os.urandom(self.big)
        path = file(content)
        states = []

        def stop(count):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            target.put("name", path, checkpoint=states.append, progress=stop)
        assert target.stat("name") is None
        assert list(target.list("name")) == []
        target.put("name", path, resume=states[-1] if states else None)
        assert b"".join(target.read("name")) == content

    @pytest.mark.parametrize("stale", [{}, {"upload": "gone", "part_size": 7}, {"unknown": [1, 2]}, {"upload": 5}])
    def test_a_stale_resume_state_is_no_harm(self, target, file, stale):
        content = os.urandom(self.big)
        target.put("name", file(content), resume=stale)
        assert b"".join(target.read("name")) == content

    def test_a_put_that_broke_off_late_is_taken_up_and_every_byte_is_told(self, target, file):
        content = os.urandom(self.big)
        path = file(content)
        states, sent = [], []

        def stop(count):
            sent.append(count)
            if sum(sent) * 2 > self.big:
                raise KeyboardInterrupt

        digest = hashlib.sha256(content).hexdigest()
        with pytest.raises(KeyboardInterrupt):
            target.put("name", path, sha256=digest, checkpoint=states.append, progress=stop)
        assert target.stat("name") is None
        state = json.loads(json.dumps(states[-1])) if states else None  # as it comes back from the catalog
        sent.clear()
        target.put("name", path, sha256=digest, resume=state, checkpoint=states.append, progress=sent.append)
        assert sum(sent) == self.big
        assert b"".join(target.read("name")) == content

    @pytest.mark.parametrize("size", ["same size", "longer", "shorter"])
    def test_a_state_of_another_content_is_no_harm(self, target, file, size):
        states = []

        def stop(_count):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            target.put("name", file(os.urandom(self.big)), checkpoint=states.append, progress=stop)
        content = os.urandom(self.big + {"same size": 0, "longer": 1000, "shorter": -1000}[size])
        target.put("name", file(content), resume=states[-1] if states else None)
        assert b"".join(target.read("name")) == content

    def test_progress_and_checkpoint_come_in_the_callers_thread(self, target, file):
        threads = set()
        target.put(
            "name",
            file(os.urandom(self.big)),
            checkpoint=lambda state: threads.add(threading.get_ident()),
            progress=lambda count: threads.add(threading.get_ident()),
        )
        assert threads == {threading.get_ident()}

    def test_clean_removes_nothing_that_is_whole(self, target, file):
        target.put("name", file(b"x"))
        assert target.clean(time.time_ns()) >= 0
        assert b"".join(target.read("name")) == b"x"

    # -- names

    @pytest.mark.parametrize("name", UNSAFE)
    def test_an_unsafe_name_is_refused(self, target, file, name):
        for action in (
            lambda: target.put(name, file(b"x")),
            lambda: b"".join(target.read(name)),
            lambda: target.stat(name),
            lambda: target.delete(name),
        ):
            with pytest.raises(TargetError):
                action()

    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_hostile_name_at_the_place_is_passed_over(self, target, file, plant, name):
        target.put("p/good", file(b"x"))
        plant(name, b"hostile")
        assert [found.name for found in target.list("p/")] == ["p/good"]
        assert [found.name for found in target.list() if not found.name.startswith(".stowage/")] == ["p/good"]

    # -- threads

    def test_many_threads_at_once(self, target, file):
        contents = {f"t/{index % 4}/{index}": os.urandom(20_000 + index) for index in range(24)}

        def work(name):
            target.put(name, file(contents[name]))
            return b"".join(target.read(name)) == contents[name]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, contents))
        assert sorted(found.name for found in target.list("t/")) == sorted(contents)

    def test_many_threads_go_on_when_some_fail(self, target, file, tmp_path):
        contents = {f"t/{index}": os.urandom(20_000 + index) for index in range(16)}

        def work(name):
            index = int(name[2:])
            if index % 4 == 1:
                with pytest.raises(TargetError):
                    target.put(name, tmp_path / "does-not-exist")
                return True
            if index % 4 == 2:
                with pytest.raises(WrongDigest):
                    target.put(name, file(contents[name]), sha256="0" * 64)
                with pytest.raises(TargetError):
                    b"".join(target.read(name))
            if index % 4 == 3:
                with pytest.raises(TargetError):
                    b"".join(target.read("no/such/file", 5, 10))
                with pytest.raises(TargetError):
                    target.stat("../up")
            target.put(name, file(contents[name]))
            pieces = target.read(name)
            next(pieces)
            pieces.close()  # a reader that ends early must not spoil the next one's connection
            return b"".join(target.read(name)) == contents[name]

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(work, contents))
        assert {found.name for found in target.list("t/")} == {name for name in contents if int(name[2:]) % 4 != 1}

    def test_only_one_of_two_puts_if_absent_wins(self, target, file):
        if not target.capabilities.overwrite_protection:
            pytest.skip("this place cannot protect a file by itself")
        barrier = threading.Barrier(4)

        def work(index):
            path = file(b"%d" % index)
            barrier.wait()
            try:
                target.put("race", path, if_absent=True)
                return index
            except TargetError:
                return None

        with ThreadPoolExecutor(4) as pool:
            won = [index for index in pool.map(work, range(4)) if index is not None]
        assert len(won) == 1
        assert b"".join(target.read("race")) == b"%d" % won[0]

    # -- two at one place

    def test_prune_beside_it_sees_and_removes_the_same_files(self, target, file, again):
        name = "beside/source/dump/file"
        target.put(name, file(b"first"), if_absent=True)
        with pytest.raises(TargetError):  # what was refused must leave nothing locked for others
            target.put(name, file(b"second"), if_absent=True)
        other = again()
        try:
            assert b"".join(other.read(name)) == b"first"
            assert [found.name for found in other.list("beside/")] == [name]
            other.delete(name)
            assert target.stat(name) is None
        finally:
            other.close()
        target.put(name, file(b"third"), if_absent=True)  # it goes on when the other is closed
        assert b"".join(target.read(name)) == b"third"

    # -- what it says of itself

    def test_probe_finds_nothing_wrong_and_leaves_nothing(self, target):
        before = [found.name for found in target.list()]
        findings = list(target.probe())
        assert findings and all(finding.ok or finding.warning for finding in findings), findings
        assert all(finding.name and finding.message and "\n" not in finding.message for finding in findings)
        assert [found.name for found in target.list()] == before

    def test_capabilities_and_proof_agree(self, target, file):
        assert isinstance(target.capabilities, TargetCapabilities)
        stored = target.put("name", file(b"x" * 5000))
        assert isinstance(stored, Stored)
        assert not stored.proven or target.capabilities.own_checksums
        assert not target.stat("name").proven, "only put() can prove"

    def test_the_driver_says_where_such_places_are(self, target):
        if self.driver is None:
            pytest.skip("give the suite a class attribute named driver")
        assert isinstance(self.driver, TargetDriver)
        assert isinstance(self.driver.remote, bool)
        # who is paid for reading stands elsewhere: a drill must prove that copy before those at hand
        assert self.driver.remote or not target.capabilities.metered

    def test_what_it_was_used_for_is_counted_and_only_grows(self, target, file):
        if not hasattr(target, "spent"):
            pytest.skip("its driver counts nothing")
        assert isinstance(target.spent(), Spent)
        target.put("name", file(b"x" * 5000))
        put = target.spent()
        assert b"".join(target.read("name")) == b"x" * 5000
        read = target.spent()
        assert put.write >= 1 and put.sent >= 5000 and read.read > put.read and read.got >= put.got + 5000
        target.delete("name")
        target.close()
        end = target.spent()  # asked for the last time when it is closed
        for one, later in ((put, read), (read, end)):
            assert all(getattr(later, name) >= getattr(one, name) for name in Spent.__dataclass_fields__)

    def test_close_may_be_called_twice(self, target):
        target.close()
        target.close()

"""What the conformance suite of targets asks of locks; a part of targets.TargetConformance."""

from __future__ import annotations

import os
import time

import pytest

from backupcore.hookspecs import Lock, TargetError

LOCKED = 4  # seconds


def _wait(found: Lock) -> None:
    """Until a lock is over, by any of two clocks."""
    time.sleep(max(0.0, found.until_ns / 10**9 - time.time()) + 1)


class LockConformance:
    """Of a place whose capabilities say that it has locks; each lasts for seconds, so that nothing is left."""

    big = 3_000_000

    @pytest.fixture
    def locking(self, target):
        """The target, when it can lock. Own clocks may differ by a second: locks are asked for a little longer."""
        if not getattr(target.capabilities, "lock", False):
            pytest.skip("this place locks nothing")
        return target

    @pytest.mark.parametrize("size", ["small", "big"])
    def test_a_locked_file_is_not_removed_before_its_time_and_then_it_is(self, locking, file, size):
        content = os.urandom(1000 if size == "small" else self.big)
        locking.put("locked", file(content))
        until = time.time_ns() + LOCKED * 10**9
        found = locking.lock("locked", until)
        assert found.until_ns >= until and found.mode in ("governance", "compliance") and not found.held
        assert locking.locked("locked") == found
        with pytest.raises(TargetError):
            locking.delete("locked")
        assert b"".join(locking.read("locked")) == content
        _wait(found)
        locking.delete("locked")
        assert locking.stat("locked") is None

    def test_a_lock_is_made_longer_and_never_shorter(self, locking, file):
        locking.put("locked", file(b"x"))
        assert locking.locked("locked") == Lock()
        now = time.time_ns()
        first = locking.lock("locked", now + 2 * 10**9)
        longer = locking.lock("locked", now + LOCKED * 10**9)
        assert longer.until_ns > first.until_ns
        assert locking.lock("locked", now) == locking.lock("locked", now + 10**9) == longer == locking.locked("locked")
        _wait(longer)
        locking.delete("locked")

    def test_a_legal_hold_holds_until_it_is_taken_away(self, locking, file):
        locking.put("held", file(b"x"))
        assert locking.legal_hold("held", True).held
        assert locking.legal_hold("held", True) == locking.locked("held") == Lock(held=True)
        with pytest.raises(TargetError):
            locking.delete("held")
        assert locking.legal_hold("held", False) == locking.locked("held") == Lock()
        locking.delete("held")
        assert locking.stat("held") is None

    def test_what_is_not_there_cannot_be_locked(self, locking):
        for action in (
            lambda: locking.lock("no/such/file", time.time_ns() + 10**9),
            lambda: locking.legal_hold("no/such/file", True),
            lambda: locking.locked("no/such/file"),
        ):
            with pytest.raises(TargetError):
                action()

"""A lock ends with its owner: killed, closed, or forked and gone; and who only looks takes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from backupcore.locks import LockFile

HOLD = """
import sys
import threading
from backupcore.locks import LockFile
lock = LockFile(sys.argv[1])
print(lock.take(), flush=True); sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "it.lock"


def free(path):
    lock = LockFile(path)
    try:
        return lock.take()
    finally:
        lock.close()


def in_a_child(act):
    """Whether act() is true in a child that is forked now."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if act() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_file_is_locked_until_it_is_closed_and_is_its_owners_only(path):
    lock = LockFile(path)
    assert lock.take() and not free(path)
    lock.close()
    assert not lock.is_open and free(path)
    lock.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_killed_process_has_no_lock(path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"True\n" and not free(path)
        other.send_signal(signal.SIGKILL)
        other.wait(60)
        assert free(path)
    finally:
        other.kill()
        other.communicate()


def test_who_looks_is_no_holder_to_another_who_looks(path):
    one, two, holder = LockFile(path), LockFile(path), LockFile(path)
    try:
        assert not one.is_taken() and not two.is_taken() and not holder.take()
        one.close()
        two.close()
        assert holder.take()
        one = LockFile(path, os.O_RDWR)
        assert one.is_taken() and not one.take()
    finally:
        for lock in (one, two, holder):
            lock.close()


def test_a_forked_child_has_none_of_the_files_and_gives_nothing_back(path):
    lock, waits = LockFile(path), LockFile(path)
    fd = lock.fd

    def look():
        assert not lock.is_open and not waits.is_open
        other = os.open(os.devnull, os.O_RDONLY)  # gets the number that the lock had
        assert other == fd
        lock.close()
        os.fstat(other)  # is not closed by it
        return not free(path)

    try:
        assert lock.take() and in_a_child(look)
        assert lock.is_open and not free(path)
    finally:
        lock.close()
        waits.close()


def test_a_forked_child_that_outlives_its_parent_keeps_nothing(path):
    wait, go = os.pipe()
    begun, told = os.pipe()
    middle = os.fork()
    if not middle:
        LockFile(path).take()  # nobody names it: it is held all the same
        if os.fork():
            os.read(begun, 1)
            os._exit(0)
        os.close(go)
        os.write(told, b"!")
        os.read(wait, 1)
        os._exit(0)
    for fd in (wait, begun, told):
        os.close(fd)
    os.waitpid(middle, 0)
    try:
        assert free(path)
    finally:
        os.close(go)


def test_what_cannot_be_opened_is_an_error_and_is_not_kept(path):
    with pytest.raises(FileNotFoundError):
        LockFile(path, os.O_RDWR)
    path.symlink_to("/etc/hostname")
    with pytest.raises(OSError):
        LockFile(path, os.O_RDWR | os.O_NOFOLLOW)


def test_who_waits_has_it_when_the_other_has_given_it_back(path):
    first, second = LockFile(path), LockFile(path)
    try:
        assert first.take()
        waiter = threading.Thread(target=second.take, kwargs={"wait": True})
        waiter.start()
        waiter.join(0.05)
        assert waiter.is_alive()
        first.close()
        waiter.join(60)
        assert not waiter.is_alive() and not free(path)
    finally:
        first.close()
        second.close()

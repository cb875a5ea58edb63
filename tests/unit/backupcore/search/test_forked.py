"""Work in forked processes: its order, its end, and what becomes of it when the parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import count

import pytest

from backupcore.search import forked


def square(number):
    return number * number, os.getpid()


def children():
    return {int(pid) for pid in open(f"/proc/self/task/{os.getpid()}/children").read().split()}


def test_answers_come_in_the_order_of_the_calls_and_from_other_processes():
    before = children()
    found = list(forked.each(square, ((number,) for number in range(100)), 3))
    assert [answer for answer, _pid in found] == [number * number for number in range(100)]
    assert os.getpid() not in {pid for _answer, pid in found}
    assert children() == before


def test_who_has_seen_enough_leaves_no_process_behind():
    before, begun = children(), []
    calls = (begun.append(number) or (number,) for number in count())  # without end
    found = forked.each(square, calls, 2)
    assert next(found)[0] == 0
    found.close()
    assert children() == before and len(begun) < 20


def fail(number):
    if number == 5:
        raise ValueError("five")
    if number == 7:
        os._exit(3)
    return number


def test_what_the_work_raises_is_raised():
    with pytest.raises(ValueError, match="five"):
        list(forked.each(fail, ((number,) for number in range(7)), 2))


def test_a_process_that_ends_by_itself_is_an_error_and_no_endless_wait():
    with pytest.raises(Exception, match="terminated abruptly"):
        list(forked.each(fail, ((number,) for number in (1, 7, 2)), 2))


PARENT = """
import os, sys, time
from backupcore.search import forked
def work(number):
    os.write(1, b"%d\\n" % os.getpid())  # print may write number and end of line apart
    time.sleep(60)
list(forked.each(work, [(1,), (2,)], 2))
"""


def test_the_processes_end_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        pids = [int(parent.stdout.readline()) for _time in range(2)]
        parent.send_signal(signal.SIGKILL)
        parent.wait(30)
        until = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < until:
            time.sleep(0.01)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    finally:
        parent.kill()
        parent.wait(30)
        parent.stdout.close()

"""Tampering with the audit log: each kind is found, and the first line that is wrong is named."""

from __future__ import annotations

import hashlib
import json

import pytest

from backupcore.audit import chain, log
from backupcore.audit.chain import Signed
from backupcore.audit.log import Head


@pytest.fixture
def state(tmp_path):
    """A log of nine lines."""
    for number in range(1, 10):
        log.append(tmp_path, log.ONCE, "hold", {"number": number}, {"uid": 0, "user": "root"})
    return tmp_path


def lines(state):
    return log.log_file(state).read_bytes().splitlines(keepends=True)


def write(state, found):
    log.log_file(state).write_bytes(b"".join(found))


def broken(state, signed=()):
    found = chain.check(state, list(signed)).broken
    return None if found is None else (found.line, found.message)


def edited(line, **more):
    plain = {**json.loads(line), **more}
    return json.dumps(plain, separators=(",", ":")).encode() + b"\n"


def relinked(found):
    """The same lines with numbers and digests made right: a forger who knows the format."""
    made, before = [], b""
    for number, line in enumerate(found, 1):
        made.append(edited(line, seq=number, before=hashlib.sha256(before).hexdigest()))
        before = made[-1]
    return made


def head_of(found):
    return Head(len(found), hashlib.sha256(found[-1]).hexdigest())


def signed(found, run="r1", ended="9999-01-01T00:00:00Z"):
    return Signed(run, ended, head_of(found), "nas")


def test_as_it_was_written_it_is_whole(state):
    assert broken(state) is None
    assert broken(state, [signed(lines(state)), signed(lines(state)[:4])]) is None


@pytest.mark.parametrize("at", range(1, 9))
def test_a_changed_line_is_named(state, at):
    found = lines(state)
    found[at - 1] = edited(found[at - 1], who={"uid": 0, "user": "somebody else"})
    write(state, found)
    line, message = broken(state)
    assert line == at and "changed" in message


@pytest.mark.parametrize("at", range(2, 9))
def test_a_line_whose_own_digest_was_changed_is_named(state, at):
    found = lines(state)
    found[at - 1] = edited(found[at - 1], before="0" * 64)
    write(state, found)
    line, message = broken(state)
    assert line == at and "changed" in message


@pytest.mark.parametrize("at", range(1, 9))
def test_a_line_taken_away_is_named(state, at):
    found = lines(state)
    del found[at - 1]
    write(state, found)
    line, message = broken(state)
    assert (line, message) == (at, f"entry {at} is missing before it")


def test_several_lines_taken_away_are_told(state):
    found = lines(state)
    del found[2:6]
    write(state, found)
    assert broken(state) == (3, "entries 3 to 6 are missing before it")


@pytest.mark.parametrize("at", range(1, 10))
def test_a_line_put_in_is_named(state, at):
    found = lines(state)
    found.insert(at, edited(found[at - 1], what={"number": 77}))
    write(state, found)
    line, message = broken(state)
    assert line == at + 1 and "put in" in message


@pytest.mark.parametrize("at", range(1, 9))
def test_two_lines_exchanged_are_named(state, at):
    found = lines(state)
    found[at - 1], found[at] = found[at], found[at - 1]
    write(state, found)
    line, message = broken(state)
    assert line == at and "missing" in message


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("rubbish", [b"rubbish\n", b"{}\n", b"\n", b"[" * 5000 + b"\n", b"x" * 100000 + b"\n"])
def test_a_line_made_unreadable_is_named(state, at, rubbish):
    found = lines(state)
    found[at - 1] = rubbish
    write(state, found)
    line, message = broken(state)
    assert line == at and "no entry" in message


def test_what_was_torn_cannot_be_taken_away_later(state):
    with open(log.log_file(state), "ab") as stream:
        stream.write(b'{"seq":10,"act":10,"ver')
    log.append(state, log.ONCE, "hold", {}, {})
    found = lines(state)
    assert broken(state) is None and len(found) == 11
    write(state, [*found[:9], found[10]])
    assert broken(state) == (10, "24 bytes before it were taken away")


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_cut_end_is_named_by_the_record_of_a_run_and_by_nothing_else(state, cut):
    found = lines(state)
    write(state, found[:-cut])
    assert broken(state) is None, "a chain does not know its end"
    line, message = broken(state, [signed(found)])
    assert line == 10 - cut and "cut off" in message and f"the last {cut} of them" in message and "r1" in message


def test_a_cut_within_the_last_line_counts_as_a_cut_end(state):
    found = lines(state)
    write(state, [*found[:-1], found[-1][:-20]])
    assert broken(state, [signed(found)])[0] == 9


def test_a_log_written_anew_from_a_line_on_is_named_by_a_record(state):
    found = lines(state)
    record = signed(found[:6])
    forged = relinked([*found[:4], edited(found[4], what={}), *found[5:]])
    write(state, forged)
    assert broken(state) is None
    line, message = broken(state, [signed(found[:3], "r0"), record])
    assert line == 6 and "written anew" in message and "r1" in message


def test_a_log_that_is_gone_or_empty_is_told(state):
    record = signed(lines(state))
    write(state, [])
    assert broken(state, [record])[1].startswith("the log is empty")
    log.log_file(state).unlink()
    assert broken(state, [record])[1].startswith("the log is not there")
    assert broken(state) is None


def test_a_log_begun_anew_does_not_hide_the_one_before(state):
    record = signed(lines(state), ended="2001-01-01T00:00:00Z")
    log.log_file(state).unlink()
    log.append(state, log.ONCE, "rebuild", {}, {})
    found = chain.check(state, [record])
    assert found.broken is None and "a log before this one" in found.missing and found.verbs == {"rebuild"}


def test_a_record_of_before_the_first_entry_fits_everything(state):
    assert broken(state, [Signed("r0", "2001-01-01T00:00:00Z", Head())]) is None


def test_a_log_of_many_lines_is_read_in_little_memory(state):
    import tracemalloc

    template = lines(state)[0]
    write(state, relinked([template] * 20000))
    tracemalloc.start()
    assert broken(state) is None
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()

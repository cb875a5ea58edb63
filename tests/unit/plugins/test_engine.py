"""The bridge to the engine: answers, errors, and jobs that outlive the connection."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
from ansible_collections.stowage.backup.plugins.module_utils import _engine


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module whose engine is a shell script; engine(text) writes it."""
    monkeypatch.setattr(_engine, "jobs_folder", lambda: str(tmp_path / "jobs"))
    path = tmp_path / "stowage"

    def engine(text):
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    return SimpleNamespace(params={"engine": str(path), "config": "/c.yml"}, engine=engine)


def ended(job, seconds=60):
    """What look_at_job says when the job ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = _engine.look_at_job(job)
        if not found["running"]:
            return found
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def test_an_answer_comes_back_whatever_the_exit_status():
    assert _engine.understand(1, '{"schema": 1, "status": "fail"}', "") == {"schema": 1, "status": "fail"}


def test_an_error_has_its_code_and_the_next_step():
    error = {"code": "request", "message": "unknown client", "hint": "known: web1"}
    with pytest.raises(_engine.EngineError) as told:
        _engine.understand(2, json.dumps({"schema": 1, "error": error}), "")
    assert (told.value.code, told.value.line) == ("request", "unknown client -> known: web1")


@pytest.mark.parametrize("out, err, said", [("", "Killed\n", "Killed"), ("", "", "said nothing"), ("[1]", "", "[1]")])
def test_what_is_no_answer_is_told_in_one_line(out, err, said):
    with pytest.raises(_engine.EngineError, match="no answer") as told:
        _engine.understand(137, out, err)
    assert said in told.value.text


def test_another_schema_is_refused():
    with pytest.raises(_engine.EngineError, match="schema 2"):
        _engine.understand(0, '{"schema": 2}', "")


def test_a_missing_engine_names_the_role():
    with pytest.raises(_engine.EngineError, match="does not exist") as told:
        _engine.command({"engine": "/nowhere/stowage", "config": "/c"}, ["run"])
    assert "backup_server" in told.value.hint


def test_a_job_leaves_its_answer(module, tmp_path):
    module.engine(
        '[ "$*" = "--config /c.yml --json run" ] || exit 9\n'
        f'until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo \'{{"schema": 1, "status": "ok"}}\''
    )
    job = _engine.start_job(module, ["run"])
    assert _engine.look_at_job(job) == {"id": job, "running": True}
    (tmp_path / "go").touch()
    found = ended(job)
    assert (found["rc"], _engine.job_answer(found)["status"]) == (0, "ok")
    assert ended(job)["answer"] == found["answer"]  # a lost reply is asked for again


def test_a_killed_job_is_no_success(module):
    module.engine("sleep 60")
    job = _engine.start_job(module, ["run"])
    pid, _began = _engine._pid(_engine.job_folder(job))
    os.killpg(pid, signal.SIGKILL)
    found = ended(job)
    assert found["error"]["code"] == "killed"
    with pytest.raises(_engine.EngineError, match="killed"):
        _engine.job_answer(found)


def test_a_cancelled_job_ends_the_engine_and_keeps_its_exit_status(module, tmp_path):
    module.engine(f"trap 'exit 143' TERM\ntouch {tmp_path}/begun; sleep 60 & wait")
    job = _engine.start_job(module, ["run"])
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    _engine.cancel_job(job)
    found = ended(job)
    assert (found["rc"], found["error"]["code"]) == (143, "no-answer")


def test_a_job_does_not_die_with_its_parent(module):
    module.engine('sleep 0.5; echo \'{"schema": 1, "status": "ok"}\'')
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.write(write, _engine.start_job(module, ["run"]).encode())
            os.killpg(0, signal.SIGHUP)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        job = stream.read()
    os.waitpid(child, 0)
    assert ended(job)["answer"]["status"] == "ok"


def test_another_process_of_the_same_number_is_not_the_job(module, tmp_path):
    module.engine("true")
    job = _engine.start_job(module, ["run"])
    folder = _engine.job_folder(job)
    ended(job)
    os.unlink(os.path.join(folder, "rc"))
    with open(os.path.join(folder, "pid"), "w") as stream:
        stream.write("%d 12345" % os.getpid())
    assert not _engine.look_at_job(job)["running"]


@pytest.mark.parametrize("name", ["../x", "1763831400-5f0c1ab2/../..", "nothing"])
def test_a_job_that_is_none_is_refused(module, name):
    with pytest.raises(_engine.EngineError, match="no job"):
        _engine.look_at_job(name)


def test_old_jobs_are_swept_and_new_ones_stay(module, tmp_path):
    module.engine("echo '{}'")
    old = tmp_path / "jobs" / "1000000000-00000000"
    old.mkdir(parents=True)
    other = tmp_path / "jobs" / "mine"
    other.mkdir()
    job = _engine.start_job(module, ["run"])
    assert not old.exists() and other.exists() and ended(job)


def test_a_restore_that_is_not_whole_fails_and_names_the_first_path():
    answer = {"status": "fail", "next": [], "failed_count": 2, "failed": [{"path": "/etc/x", "message": "is a link"}]}
    told = _engine.told_of_restore(answer)
    assert told["failed"] and told["msg"] == "2 of what was asked for was not restored, first /etc/x: is a link"


def test_the_engine_hears_which_module_calls_it(module):
    module.engine('printf \'{"schema": 1, "caller": "%s"}\' "$STOWAGE_CALLER"\n')
    module._name = "stowage.backup.hold"
    found = ended(_engine.start_job(module, ["hold"]))
    assert found["answer"]["caller"] == "ansible stowage.backup.hold"

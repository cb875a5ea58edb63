"""Who is noted: what the kernel and the login service know, and, marked as such, what the environment says."""

from __future__ import annotations

import os
import pwd

from backupcore.audit.who import NOBODY, shown, who


def kernel(tmp_path, login, session):
    (tmp_path / "loginuid").write_text(str(login))
    (tmp_path / "sessionid").write_text(str(session))
    return tmp_path


def test_a_login_is_known_through_sudo_and_its_host_by_the_session(tmp_path):
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    (sessions / "7").write_text("# comment\nUID=0\nREMOTE=1\nREMOTE_HOST=10.0.0.5\n")
    found = who({"SUDO_USER": "anna"}, kernel(tmp_path, 0, 7), sessions)
    me = pwd.getpwuid(os.getuid()).pw_name
    assert found == {"uid": os.getuid(), "user": me, "login": "root", "session": 7, "from_host": "10.0.0.5",
                     "sudo": "anna"}  # fmt: skip


def test_a_timer_has_no_login(tmp_path):
    assert set(who({}, kernel(tmp_path, NOBODY, NOBODY), tmp_path)) == {"uid", "user"}
    assert set(who({}, tmp_path / "nothing", tmp_path)) == {"uid", "user"}


def test_ssh_and_the_caller_come_from_the_environment(tmp_path):
    said = {"SSH_CONNECTION": "10.0.0.9 50000 10.0.0.1 22", "STOWAGE_CALLER": "ansible restore"}
    found = who(said, tmp_path / "nothing", tmp_path)
    assert (found["ssh"], found["caller"]) == ("10.0.0.9", "ansible restore")
    assert shown(found).endswith(" from 10.0.0.9?, ansible restore?")


def test_hostile_words_of_the_environment_are_left_out(tmp_path):
    said = {"SSH_CONNECTION": "10.0.0.9\x1b[2J 1 2 3", "SUDO_USER": "a\nb", "STOWAGE_CALLER": "x" * 1000}
    assert set(who(said, tmp_path / "nothing", tmp_path)) == {"uid", "user"}


def test_what_only_the_environment_says_has_a_question_mark():
    assert shown({"uid": 0, "user": "root", "sudo": "anna"}) == "anna? as root"
    found = {"uid": 998, "user": "stowage", "login": "anna", "from_host": "10.0.0.5", "sudo": "bert", "ssh": "6.6.6.6"}
    assert shown(found) == "anna from 10.0.0.5 as stowage"
    assert shown({"uid": 998, "user": "stowage"}) == "stowage"

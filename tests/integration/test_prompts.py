"""Questions for a passphrase that a worker asks on a real terminal: answered, and given up by ^C and by a signal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time

import pytest
from cli_lab import Server
from passphrases import PASSPHRASE

QUESTION = b"passphrase of key operations: "


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    tree, phrase = tmp_path / "tree", tmp_path / "phrase"
    tree.mkdir()
    (tree / "secret").write_text("secret\n" * 1000)
    phrase.write_bytes(PASSPHRASE + b"\n")
    phrase.chmod(0o600)
    (tmp_path / "nas").mkdir()
    server.write(targets={"nas": {"type": "directory", "path": str(tmp_path / "nas")}},
                 policies={"standard": {"encrypt": "server"}})  # fmt: skip
    server.client("web1", {"data": tree})
    server.stowage("key", "generate", "--only", "operations", "--passphrase-file", str(phrase))
    server.stowage("run")
    with contextlib.closing(server):
        yield server


def on_terminal(server, words, at_question, question=QUESTION, more=""):
    """What stands on a terminal when the command, its status and the terminal's settings were shown there.

    at_question(master, pid): called when the question stands there. The shell outlives ^C, as the one of a person does.
    """
    command = [sys.executable, "-m", "backupcore", "--config", str(server.base / "stowage.yml"), *words]
    script = f"trap : INT; {shlex.join(command)} {more}; echo status=$?; stty -a"
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ["sh", "-c", script], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(slave)
    screen, asked, until = b"", False, time.monotonic() + 60
    try:
        while time.monotonic() < until:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    screen += os.read(master, 4096)
                except OSError:
                    break
            elif not asked and screen.endswith(question):
                asked = True
                children = subprocess.run(["pgrep", "-P", str(shell.pid)], capture_output=True, text=True).stdout
                at_question(master, int(children.split()[0]))
                until = time.monotonic() + 60  # nobody presses Enter
    finally:
        shell.kill()
        shell.wait()
        os.close(master)
    screen = screen.decode()
    assert asked and "Traceback" not in screen and "this is a bug" not in screen, screen
    status = re.search(r"status=(\d+)", screen)
    assert status, f"it did not end: {screen}"
    return int(status.group(1)), re.search(r"(-?)\becho\b", screen).group(1) == "", screen


VERBS = [("verify", "--full", "--target", "nas"), ("restore", "web1:/", "--to", "OUT")]


@pytest.mark.parametrize("words", VERBS, ids=["verify", "restore"])
def test_an_answer_opens_and_is_not_shown(server, tmp_path, words):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    status, echoes, screen = on_terminal(server, words, lambda master, _pid: os.write(master, PASSPHRASE + b"\n"))
    assert (status, echoes) == (0, True), screen
    assert PASSPHRASE.decode() not in screen and "sealed, checked by SHA256SUMS only" not in screen


@pytest.mark.parametrize("words", VERBS, ids=["verify", "restore"])
@pytest.mark.parametrize("how", ["^C", "^C in the middle", "SIGTERM"])
def test_who_gives_up_is_let_go_and_the_terminal_echoes(server, tmp_path, words, how):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in words]

    def give_up(master, pid):
        if how == "SIGTERM":
            os.kill(pid, signal.SIGTERM)
        else:
            os.write(master, b"half a pass\x03" if "middle" in how else b"\x03")

    status, echoes, screen = on_terminal(server, words, give_up)
    assert (status, echoes) == (143 if how == "SIGTERM" else 130, True), screen
    assert "stopped" in screen and "half" not in screen


def test_an_end_of_file_is_no_passphrase(server):
    status, echoes, screen = on_terminal(
        server, ["verify", "--full", "--target", "nas"], lambda master, _pid: os.write(master, b"\x04")
    )
    assert (status, echoes) == (0, True) and "sealed, checked by SHA256SUMS only" in screen


def test_a_key_on_standard_input_still_asks_on_the_terminal(server, tmp_path):
    key = (server.base / "state/keys/private/operations.pem").rename(tmp_path / "away.pem")
    words = ["restore", "web1:/", "--to", str(tmp_path / "out"), "--key", "-"]
    status, echoes, screen = on_terminal(
        server, words, lambda master, _pid: os.write(master, PASSPHRASE + b"\n"),
        question=b"passphrase of the key given: ", more=f"< {key}",
    )  # fmt: skip
    assert (status, echoes) == (0, True) and PASSPHRASE.decode() not in screen, screen
    assert (tmp_path / "out" / str(tmp_path)[1:] / "tree/secret").exists()
    # where there is no terminal, one line says what to do
    words[3] = str(tmp_path / "other")
    with open(key, "rb") as stdin:
        process = server.start(*words, stdin=stdin, start_new_session=True)
        err = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1 and len(err.splitlines()) == 1, err
    assert "is protected by a passphrase -> give it by --passphrase-file FILE" in err

"""The command line: errors in one line, JSON, exit status, signals; no traceback on any screen."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

from backupcore import cli
from backupcore.cli import _output
from backupcore.errors import ClientUnreachable, RequestError

CONFIG = """\
state: {base}/state
holding: [{{path: {base}/holding, use: 1 GB}}]
clients:
  web1: {{sources: {{etc: /etc}}}}
  web2: {{state: retired, sources: {{etc: /etc}}}}
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "stowage.yml").write_text(CONFIG.format(base=tmp_path))
    return tmp_path


@pytest.fixture
def stowage(base, capsys):
    """Runs the command in this process; (exit status, standard output, standard error)."""

    def stowage(*words):
        with warnings.catch_warnings():
            return answer(*words)

    def answer(*words):
        status = cli.main(["--config", str(base / "stowage.yml"), *words])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return status, said.out, said.err

    return stowage


@pytest.fixture
def verb(monkeypatch):
    """Replaces what a verb does."""

    def replace(run, name="plan"):
        import importlib

        monkeypatch.setattr(importlib.import_module(f"backupcore.cli.{name}"), "run", run)

    return replace


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "the following arguments are required: COMMAND -> stowage --help"),
        (("rnu",), "invalid choice: 'rnu'"),
        (("run", "--levle", "1"), "unrecognized arguments: --levle 1"),
        (("run", "--level", "17"), "argument --level: invalid choice: 17"),
        (("run", "--level", "x"), "argument --level: invalid int value: 'x'"),
        (("run", "--lev", "1"), "unrecognized arguments: --lev 1"),
        (("run", "--client", "web3"), 'unknown client "web3", did you mean "web2"? -> known: web1, web2'),
        (("run", "--client", "web1", "--source", "ect"), 'unknown source of web1 "ect", did you mean "etc"?'),
        (("run", "--client", "web2"), "client web2 is retired"),
        (("stage", "--target", "nas"), 'unknown target "nas" -> none is configured'),
        (("restore",), "the following arguments are required: WHAT"),
        (("restore", "nobody:/etc"), "unknown client 'nobody'"),
        (("restore", "web1:etc"), "is no absolute path"),
        (("restore", "web1:/srv"), "no source of web1 covers /srv"),
        (("restore", "web1:/etc", "--at", "soon"), "'soon' is no time"),
        (("restore", "web1:/etc", "--at", "20261122T183501Z-L0-f4f5aa06"), "there is no dump 20261122T183501Z-L0-f4"),
        (("restore", "web1:/etc", "--from", "cloud"), 'unknown target "cloud"'),
        (("restore", "web1:/etc", "--to", "/x", "--in-place"), "not allowed with argument --to"),
        (("restore", "web1:/etc", "--stdout", "--plan"), "--stdout goes with neither"),
        (("restore", "web1:/etc", "--existing", "burn"), "argument --existing: invalid choice: 'burn'"),
        (("list", "things"), "invalid choice: 'things'"),
        (("list", "dumps", "extra"), "list dumps takes no 'extra'"),
        (("list", "dumps", "--client", "web3"), 'unknown client "web3"'),
        (("list", "dumps", "--source", "ect"), 'unknown source "ect", did you mean "etc"?'),
        (("list", "copies", "--target", "nas"), 'unknown target "nas"'),
        (("list", "runs", "--limit", "-1"), "--limit -1: must be 0 (all) or more"),
        (("list", "files"), "list files of what? -> stowage list files CLIENT:/PATH"),
        (("report", "--run", "x"), "there is no run 'x' -> stowage list runs"),
        (("plan", "--why", "x", "--source", "y"), "--why and --source together"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(stowage, words, told):
    status, out, err = stowage(*words)
    assert status == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("stowage: ")
    assert told in err


def test_where_no_dump_is_that_old_the_status_is_1(stowage):
    status, _out, err = stowage("restore", "web1:/etc")
    assert status == 1
    assert err == "stowage: web1:etc has no dump yet -> stowage run --client web1 --source etc\n"


def test_a_wrong_configuration_is_status_2_and_tells_every_mistake(base, stowage):
    (base / "stowage.yml").write_text("stat: /x\nholding: [{path: h, use: 1}]\n")
    status, _out, err = stowage("plan")
    assert status == 2
    lines = err.splitlines()
    assert lines[0].startswith(f'stowage: {base}/stowage.yml:1: unknown key "stat", did you mean "state"? -> ')
    told = f'{base}/stowage.yml:2: holding[0].path: "h" is no absolute path'
    assert lines[1] == f"stowage: {told}"
    assert json.loads(stowage("--json", "plan")[1])["others"] == [told]


def test_a_missing_configuration_names_the_file(capsys):
    assert cli.main(["--config", "/nowhere/stowage.yml", "plan"]) == 2
    assert "/nowhere/stowage.yml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--json", "run", "--client", "x"), ("run", "--client", "x", "--json")])
def test_an_error_as_json_has_code_message_and_hint(stowage, words):
    status, out, err = stowage(*words)
    assert (status, err) == (2, "")
    answer = json.loads(out)
    assert answer["schema"] == 1
    assert answer["status"] == "fail"
    assert answer["error"]["code"] == "request"
    assert answer["error"]["message"] == 'unknown client "x"'
    assert set(answer["error"]) == {"code", "message", "hint", "client", "source"}


def test_an_unknown_option_is_json_too_when_json_was_asked_for(stowage):
    _status, out, _err = stowage("--json", "run", "--nothing")
    assert json.loads(out)["error"]["code"] == "request"


def test_an_error_names_client_and_source_once(stowage, verb):
    def run(_args, _engine):
        raise ClientUnreachable("no route to host", "ssh web1", client="web1", source="etc")

    verb(run)
    assert stowage("plan") == (1, "", "stowage: web1:etc: no route to host -> ssh web1\n")


def test_what_an_error_quotes_is_escaped(stowage, verb):
    def run(_args, _engine):
        raise RequestError("bad\x1b[31m\nname", "x\x07")

    verb(run)
    assert stowage("plan")[2] == "stowage: bad\\x1b[31m\\x0aname -> x\\x07\n"


def test_a_bug_is_one_line_and_a_file(base, stowage, verb):
    def run(_args, open_engine):
        open_engine()
        return 1 / 0

    verb(run)
    status, _out, err = stowage("plan")
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "this is a bug of stowage: ZeroDivisionError in " in err
    (file,) = (base / "state" / "bugs").iterdir()
    assert str(file) in err
    assert "1 / 0" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_a_bug_as_json_is_an_error_with_a_code(stowage, verb):
    def run(_args, open_engine):
        open_engine()
        raise KeyError("x")

    verb(run)
    status, out, _err = stowage("--json", "plan")
    assert status == 1
    assert json.loads(out)["error"]["code"] == "bug"


def test_a_bug_in_a_thread_is_one_line_too(base, stowage, verb):
    def run(_args, open_engine):
        open_engine()
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        return _output.Answer()

    verb(run)
    _status, _out, err = stowage("plan")
    assert len(err.splitlines()) == 1
    assert "this is a bug of stowage: ZeroDivisionError" in err
    assert len(list((base / "state" / "bugs").iterdir())) == 1


def test_libraries_neither_warn_nor_log_on_the_screen(stowage, verb):
    def run(_args, _engine):
        logging.getLogger("library").warning("retrying")
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return _output.Answer()

    verb(run)
    assert stowage("plan") == (0, "", "")


def test_interrupt_is_one_line_and_130(stowage, verb):
    def run(_args, _engine):
        raise KeyboardInterrupt

    verb(run)
    status, _out, err = stowage("plan")
    assert status == 130
    assert err.startswith("stowage: stopped; ")


@pytest.mark.parametrize(("status", "warnings", "plain", "strict"), [
    ("OK", 0, 0, 0), ("OK", 1, 0, 1), ("WARN", 1, 0, 1), ("FAIL", 0, 1, 1),
])  # fmt: skip
def test_strict_makes_every_warning_count(stowage, verb, status, warnings, plain, strict):
    verb(lambda _args, _engine: _output.Answer(status=status, warnings=warnings))
    assert stowage("plan")[0] == plain
    assert stowage("--strict", "plan")[0] == strict


def test_an_answer_ends_in_the_next_command(stowage):
    for words in (("drivers",), ("list", "dumps"), ("list", "runs"), ("plan",), ("report",), ("status",)):
        _status, out, _err = stowage(*words)
        assert out.splitlines()[-1].startswith("-> stowage "), words
        _status, out, _err = stowage("--json", *words)
        answer = json.loads(out)
        assert answer["schema"] == 1
        assert answer["status"] in ("ok", "warn", "fail")
        assert answer["next"][0].startswith("stowage "), words


def test_a_long_answer_that_fails_midway_is_still_json_and_status_1(stowage, verb):
    def items():
        yield {"a": 1}
        raise ClientUnreachable("gone", client="web1")

    verb(lambda _args, _engine: _output.Answer(items=("things", items()), next=["stowage run"]))
    status, out, _err = stowage("--json", "plan")
    assert status == 1
    answer = json.loads(out)
    assert answer["things"] == [{"a": 1}]
    assert answer["error"]["code"] == "client-unreachable"


def test_a_long_answer_is_written_as_it_comes(stowage, verb):
    verb(lambda _args, _engine: _output.Answer(
        items=("things", ({"a": number} for number in range(3))), item_line=lambda item: f"a {item['a']}",
        next=lambda: ["stowage run"],
    ))  # fmt: skip
    assert stowage("plan")[1] == "a 0\na 1\na 2\n-> stowage run\n"
    assert json.loads(stowage("--json", "plan")[1]) == {
        "schema": 1, "things": [{"a": 0}, {"a": 1}, {"a": 2}], "status": "ok", "notes": [], "next": ["stowage run"],
    }  # fmt: skip


# as a program


def program(base, *words, **more):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return subprocess.Popen(
        [sys.executable, "-m", "backupcore", "--config", str(base / "stowage.yml"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **more,
    )  # fmt: skip


def test_nobody_reads_the_output_and_nothing_is_said(base):
    process = program(base, "drivers")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_name_that_the_terminal_cannot_show_is_no_bug(base):
    text = (base / "stowage.yml").read_text().replace("1 GB}]", "1 GB}]\nignöre: x")
    (base / "stowage.yml").write_text(text)
    process = program(base, "plan")
    _out, err = process.communicate()
    assert process.returncode == 2
    assert b'unknown key "ign\\xf6re"' in err


def test_a_signal_ends_it_with_its_status(base):
    (base / "stowage.yml").unlink()
    os.mkfifo(base / "stowage.yml")  # it waits for somebody to write
    process = program(base, "plan")
    until, line = time.monotonic() + 60, None
    while line is None:
        assert process.poll() is None and time.monotonic() < until
        try:
            line = os.open(base / "stowage.yml", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # it has not come to it
            time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=60)
    os.close(line)
    assert process.returncode == 143
    assert len(err.splitlines()) == 1


def test_version_and_help_need_no_configuration(base):
    for words in (("--version",), ("--help",), ("restore", "--help"), ("list", "--help")):
        process = program(base, *words)
        out, err = process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert b"stowage" in out

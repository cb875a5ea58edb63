"""The target `command` over a small script: the conformance suite, and programs that fail, lie, hang and shout."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from backupcore.hookspecs import TargetContext, TargetError
from pydantic import ValidationError

from backupcore.targets import command
from backupcore.targets.command import CommandOptions, CommandTarget
from backupcore.testing.targets import TargetConformance

SERVER = "0123456789abcdef"
SCRIPT = r"""#!/bin/sh
# a place in a folder: $1 is the folder, $2 the verb
set -eu
cd "$1"; verb=$2; shift 2
case $verb in
put)    mkdir -p "$(dirname "./$1")"; cat > "./$1" ;;
putfile) mkdir -p "$(dirname "./$1")"; cp -- "$2" "./$1" ;;
get)    exec cat "./$1" ;;
range)  exec dd status=none iflag=skip_bytes,count_bytes,fullblock bs=64k skip="$2" count="$3" if="./$1" ;;
list)   find . -type f ! -path '*[[:cntrl:]]*' -printf '%s\t%T@\t%P\n' ;;
stat)   [ -f "./$1" ] || exit 44; stat -c '%s' "./$1" ;;
delete) rm "./$1" ;;
move)   mkdir -p "$(dirname "./$2")"; mv -- "./$1" "./$2" ;;
esac
"""


@pytest.fixture
def script(tmp_path):
    return program(tmp_path / "store.sh", SCRIPT)


def program(path, content):
    path.write_text(content)
    path.chmod(0o755)
    return str(path)


def full(script, place, **more):
    """All verbs, through standard input, with ranges and an own stat."""
    to = [script, str(place)]
    given = {
        "put": [*to, "put", "{name}"], "get": [*to, "range", "{name}", "{offset}", "{length}"], "list": [*to, "list"],
        "delete": [*to, "delete", "{name}"], "stat": [*to, "stat", "{name}"], "move": [*to, "move", "{from}", "{to}"],
        "missing": [44], "timeout": 20,
    }  # fmt: skip
    return {name: value for name, value in {**given, **more}.items() if value is not None}


def least(script, place, **more):
    """Only what is needed: files by path, no ranges, no stat, no move."""
    to = [script, str(place)]
    return full(
        script, place, put=[*to, "putfile", "{name}", "{path}"], get=[*to, "get", "{name}"], stat=None, move=None,
        missing=None, **more,
    )  # fmt: skip


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def opened(tmp_path):
    return lambda options: CommandTarget(CommandOptions(**options), TargetContext("rc", SERVER, tmp_path / "state"))


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "local"
    path.write_bytes(b"content")
    return path


def planted(path, content):
    with open(path, "wb") as file:
        file.write(content)


class TestFull(TargetConformance):
    driver = command.DRIVER

    @pytest.fixture
    def target(self, opened, script, place):
        return opened(full(script, place))

    @pytest.fixture
    def plant(self, place):
        return lambda name, content: planted(os.fsencode(place) + b"/" + name, content)


class TestLeast(TargetConformance):
    driver = command.DRIVER

    @pytest.fixture
    def target(self, opened, script, place):
        return opened(least(script, place))

    @pytest.fixture
    def plant(self, place):
        return lambda name, content: planted(os.fsencode(place) + b"/" + name, content)


def test_what_it_can_do_is_what_its_arguments_say(opened, script, place):
    assert opened(full(script, place)).capabilities.ranged_reads
    assert not opened(least(script, place)).capabilities.ranged_reads
    assert not opened(full(script, place)).capabilities.overwrite_protection


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"put": []}, "put"),
        ({"put": ["x"]}, "{name} is missing"),
        ({"put": ["x", "{name}", "{secret}"]}, "{secret} means nothing"),
        ({"get": ["x", "{name}", "{offset}"]}, "needs {offset} and {length}"),
        ({"list": ["x", "{name}"]}, "means nothing"),
        ({"move": ["x", "{from}"]}, "{to} is missing"),
        ({"delete": ["", "{name}"]}, "first argument"),
        ({"delete": ["x {credentials}", "{name}"]}, "credentials: FILE"),
        ({"get": "rclone cat {name}"}, "list"),
        ({"password": "x"}, "xtra"),
    ],
)
def test_options_that_make_no_sense_are_refused(script, place, wrong, told):
    with pytest.raises(ValidationError, match=told.replace("{", r"\{")):
        CommandOptions(**{**full(script, place), **wrong})


def test_no_shell_sees_a_name(opened, script, place, local):
    target = opened(full(script, place))
    name = "a $(touch evil) `touch evil` ; touch evil | & > evil * 'x' \"y\""
    target.put(name, local)
    assert b"".join(target.read(name)) == b"content"
    assert [found.name for found in target.list()] == [name]
    assert list(place.rglob("evil")) == []


def test_a_name_is_never_an_option(opened, tmp_path, local):
    odd = {verb: ["rm", "{name}"] for verb in ("put", "get", "delete", "stat")}
    with pytest.raises(TargetError, match="would be an option"):
        opened({**odd, "list": ["true"]}).stat("-rf")


def test_a_failing_program_is_told_with_status_and_last_line(opened, script, place, tmp_path, local):
    ill = program(tmp_path / "ill", "#!/bin/sh\necho first >&2; printf 'quota \\033[31mused up\\n\\n' >&2; exit 7\n")
    target = opened(full(script, place, put=[ill, "{name}"]))
    with pytest.raises(TargetError) as error:
        target.put("x", local)
    message = error.value.message
    assert message.startswith("cannot write x to target rc: ill ended with status 7: quota ") and error.value.retry
    assert "\x1b" not in message and "\n" not in message and "first" not in message
    with pytest.raises(TargetError, match="ended with signal 9"):
        opened(full(script, place, delete=["sh", "-c", "kill -9 $$", "{name}"], stat=["echo", "7\t{name}"])).delete("x")


def test_a_program_that_is_not_there_is_told(opened, script, place, local):
    target = opened(full(script, place, put=["/no/such/program", "{name}"]))
    with pytest.raises(TargetError, match="cannot run /no/such/program: No such file"):
        target.put("x", local)
    (finding,) = target.probe()
    assert not finding.ok and "/no/such/program" in finding.message


def test_a_program_that_stores_less_than_it_got_is_found_out(opened, script, place, local):
    cut = ["sh", "-c", f'mkdir -p "{place}/$(dirname "$1")"; head -c 3 > "{place}/$1"; cat > /dev/null', "sh", "{name}"]
    for options in (full(script, place, put=cut), least(script, place) | {"put": cut}):
        target = opened(options)
        with pytest.raises(TargetError, match="3 bytes in target rc after 7 bytes were written"):
            target.put("x", local)
        assert [path for path in place.rglob("*") if path.is_file()] == []


def test_a_failed_put_leaves_an_older_file_alone(opened, script, place, local, tmp_path):
    for options in (full(script, place), least(script, place)):
        target = opened(options)
        target.put("x", local)
        ill = opened({**options, "put": ["false", "{name}"]})
        with pytest.raises(TargetError, match="status 1"):
            ill.put("x", local)
        assert b"".join(target.read("x")) == b"content"


@pytest.mark.parametrize(
    "written, told",
    [
        ("printf 0123456789X", "gives more bytes"),
        ("printf 0123", "ends 6 bytes too early"),
        ("printf 0123456789; exit 3", "status 3"),
        ("true", "ends 10 bytes too early"),
    ],
)
def test_a_program_that_gives_other_bytes_than_asked_for(opened, script, place, written, told):
    get = ["sh", "-c", written, "sh", "{name}", "{offset}", "{length}"]
    with pytest.raises(TargetError, match=told):
        b"".join(opened(full(script, place, get=get)).read("x", 0, 10))


@pytest.mark.parametrize(
    "lines, told",
    [
        ("echo 12 x", "no line of SIZE"), ("printf -- '-1\\tx\\n'", "no line of SIZE"),
        ("yes x | tr -d '\\n'", "without end"),
        ("printf '99999999999999999999\\tx\\n'", "no line of SIZE"), ("printf '1\\tnan\\tx\\n'", "no line of SIZE"),
        ("printf '1\\t2\\t3\\tx\\n'", "no line of SIZE"), ("exit 9", "status 9"),
    ],
)  # fmt: skip
def test_a_listing_that_is_none_is_an_error(opened, script, place, lines, told):
    with pytest.raises(TargetError, match=told):
        list(opened(full(script, place, list=["sh", "-c", lines])).list())


def test_a_listing_without_end_is_an_error(opened, script, place, monkeypatch):
    monkeypatch.setattr(command, "MOST_LINES", 5000)
    with pytest.raises(TargetError, match="without end"):
        list(opened(full(script, place, list=["sh", "-c", "yes '1\tx'"])).list())


def test_hostile_names_in_a_listing_are_passed_over(opened, script, place):
    text = r"printf '1\t../up\n1\t/abs\n1\ta//b\n1\t\377\n1\tgood\n1\t5\tgood2\n2\tgood\n1\ta\\b\n'"
    found = list(opened(full(script, place, list=["sh", "-c", text])).list())
    assert [(one.name, one.size) for one in found] == [("good", 2), ("good2", 1)]


def test_lines_that_are_none_do_not_hide_the_others(opened, script, place):
    text = r"printf '1\tgood\nline\n7\tforged\tby\ta\tname\n2\tgood2'"
    assert [one.name for one in opened(full(script, place, list=["sh", "-c", text])).list()] == ["good", "good2"]


def test_a_listing_of_a_folder_names_what_lies_below_it(opened, script, place, local):
    found = f'cd "{place}/$1" 2>/dev/null || exit 44; find . -type f -printf "%s\\t%P\\n"'
    target = opened(full(script, place, list=["sh", "-c", found, "sh", "{folder}"], stat=None))
    for name in ("a/b/c", "a/bc", "d"):
        target.put(name, local)
    assert [found.name for found in target.list("a/b")] == ["a/b/c", "a/bc"]
    assert [found.name for found in target.list("a/b/")] == ["a/b/c"]
    assert [found.name for found in target.list()] == ["a/b/c", "a/bc", "d"]
    assert list(target.list("no/where")) == []
    assert target.stat("d").size == 7 and target.stat("e") is None


@pytest.mark.parametrize("verb", ["get", "list", "put", "stat"])
def test_a_program_that_hangs_is_ended_with_all_it_started(opened, script, place, local, tmp_path, verb):
    note = tmp_path / "pid"
    hang = ["sh", "-c", f"sleep 600 & echo $! > {note}; wait", "sh"]
    hang += {"list": [], "get": ["{name}", "{offset}", "{length}"]}.get(verb, ["{name}"])
    target = opened(full(script, place, timeout=2, longest=3, **{verb: hang}))
    begun = time.monotonic()
    action = {
        "get": lambda: b"".join(target.read("x", 0, 5)), "list": lambda: list(target.list()),
        "put": lambda: target.put("x", local), "stat": lambda: target.stat("x"),
    }[verb]  # fmt: skip
    with pytest.raises(TargetError, match="takes too long") as error:
        action()
    assert error.value.retry and time.monotonic() - begun < 60  # and not 600
    pid = int(note.read_text())
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_shouts_is_not_kept_in_memory_and_does_not_hang(opened, script, place, local):
    shout = "cat > /dev/null; head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo end >&2; exit 5"
    loud = ["sh", "-c", shout, "sh", "{name}"]
    with pytest.raises(TargetError, match="status 5: end$"):
        opened(full(script, place, put=loud)).put("x", local)


def test_nothing_of_our_environment_is_passed_on(opened, script, place, local, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    seen = tmp_path / "seen"
    target = opened(full(script, place, delete=["sh", "-c", f"env > {seen}", "sh", "{name}"]))
    target.delete("x")
    text = seen.read_text()
    assert "hush" not in text and "PATH=" in text and "LANG=C.UTF-8" in text


def test_credentials_are_a_path_that_only_its_owner_can_read(opened, script, place, tmp_path, local):
    secret = tmp_path / "rclone.conf"
    secret.write_text("hush")
    seen = tmp_path / "seen"
    delete = ["sh", "-c", f'printf "%s" "$2" > {seen}', "sh", "{name}", "--config={credentials}"]
    target = opened(full(script, place, delete=delete, credentials=secret))
    secret.chmod(0o644)
    with pytest.raises(TargetError, match="read by others"):
        target.delete("x")
    secret.chmod(0o600)
    target.delete("x")
    assert seen.read_text() == f"--config={secret}"
    secret.unlink()
    with pytest.raises(TargetError, match="cannot read the credentials"):
        target.delete("x")


KILLED = """
import sys
from pathlib import Path
from backupcore.hookspecs import TargetContext
from backupcore.targets.command import CommandOptions, CommandTarget
script, place, path = sys.argv[1:]
options = CommandOptions(put=[script, place, "put", "{name}"], get=["cat", "{name}"], list=[script, place, "list"],
                         delete=["rm", "{name}"], move=["mv", "{from}", "{to}"])
target = CommandTarget(options, TargetContext("rc", "0123456789abcdef", Path(place).with_name("state")))
import time
target.put("x", Path(path), progress=lambda count: (print(count, flush=True), time.sleep(60)))
"""


def test_a_killed_put_leaves_only_what_clean_removes(opened, script, place, tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom(2 << 20))
    child = [sys.executable, "-c", KILLED, script, place, path]
    with subprocess.Popen(child, cwd=Path(__file__).parents[4], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline()
        child.kill()
    target = opened(full(script, place))
    deadline = time.monotonic() + 60
    while not [one for one in place.rglob("*") if one.is_file()] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert target.stat("x") is None and list(target.list()) == []
    assert target.clean(time.time_ns() - 3600 * 10**9) == 0, "a young one may belong to a live put"
    assert target.clean(time.time_ns()) == 1
    assert [one for one in place.rglob("*") if one.is_file()] == []


def test_probe_warns_when_there_is_no_move(opened, script, place):
    findings = {finding.name: finding for finding in opened(least(script, place)).probe()}
    assert findings["whole"].warning and findings["whole"].ok and "move:" in findings["whole"].hint
    findings = {finding.name: finding for finding in opened(full(script, place)).probe()}
    assert not findings["whole"].warning
    assert stat.S_ISDIR(place.stat().st_mode)

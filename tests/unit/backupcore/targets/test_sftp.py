"""The SFTP target: its options, what it loads, and servers that lie, which cost an error and nothing else."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from backupcore.hookspecs import TargetContext, TargetError
from pydantic import ValidationError

from backupcore.targets import _sftp_connect, sftp
from backupcore.targets import _sftp_wire as wire
from backupcore.targets.sftp import SftpOptions, SftpTarget

SERVER = "0123456789abcdef"
GIVEN = {"host": "nas", "user": "backup", "known_hosts": "/etc/known", "key": "/etc/key"}


def test_paramiko_is_not_loaded_before_it_is_used():
    code = (
        "import sys; from backupcore.targets import stowage_targets; stowage_targets();"
        "sys.exit('paramiko' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4]).returncode == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "../up"}, {"path": "a/../b"}, {"path": ""}, {"path": "a\nb"}, {"port": 0}, {"port": 70000},
        {"host": "a b"}, {"host": ""}, {"user": "a/b"}, {"parallel": 0}, {"timeout": 0}, {"pasword": "x"},
        {"password": "secrets have no place in the configuration"}, {"key": None}, {"known_hosts": None},
        {"host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKb0"}, {"known_hosts": None, "host_key": "x"},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        SftpOptions(**{**GIVEN, **wrong})


def test_the_path_may_be_the_root_of_a_chroot():
    assert SftpOptions(**GIVEN, path="/").path == "/"
    assert SftpOptions(**GIVEN, path="/a/").path == "/a"
    assert SftpOptions(**GIVEN).path == "."


def test_sftp_says_that_it_outlives_this_machine():
    assert sftp.DRIVER.remote is True


@pytest.mark.parametrize(
    "line",
    ["|1|x|y ssh-ed25519 AAAA", "|1|=|= ssh-ed25519 AAAA", "nas ssh-ed25519 AAAA", "nas ssh-rsa !!", "nas", "|1| a b"],
)  # fmt: skip
def test_a_broken_line_of_known_hosts_is_no_key_and_no_crash(tmp_path, line):
    known = tmp_path / "known"
    known.write_text(line + "\n")
    with pytest.raises(TargetError, match="has no key of nas") as error:
        _sftp_connect.pinned_keys(SftpOptions(**{**GIVEN, "known_hosts": known}))
    assert f" >> {known}, " in error.value.hint  # keys of other hosts may stand there


# -- a server that lies


def string(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack(">I", len(raw)) + raw


def attrs(mode=0o100600, size=10):
    return struct.pack(">IQI", 5, size, mode)


def status(code, text="no"):
    return 101, struct.pack(">I", code) + string(text) + string("en")


class Liar:
    """Answers each request by what `answers` says: kind of request -> (kind, content), a list of them, or bytes."""

    def __init__(self, answers, extensions=()):
        self.answers = {
            1: (2, struct.pack(">I", 3) + b"".join(string(one) for one in extensions)),
            7: (105, attrs(0o40700)),  # LSTAT: a folder, so that the mark is there
            3: (102, string(b"h")), 11: (102, string(b"h")), 4: status(0), 8: (105, attrs()),
            **answers,
        }  # fmt: skip
        self.asked = []

    def session(self):
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        ours.settimeout(10)
        return wire.Session(ours.recv, ours.sendall, ours.close)

    def _serve(self, line):
        with contextlib.suppress(OSError, ValueError), line, line.makefile("rb") as stream:
            while head := stream.read(4):
                request = stream.read(struct.unpack(">I", head)[0])
                kind = request[0]
                self.asked.append(kind)
                answer = self.answers.get(kind, status(8))
                answer = answer(request) if callable(answer) else answer
                for one in answer if isinstance(answer, list) else [answer]:
                    if isinstance(one, bytes):
                        line.sendall(one)
                        continue
                    number = b"" if kind == 1 else request[1:5]
                    line.sendall(struct.pack(">IB", 1 + len(number) + len(one[1]), one[0]) + number + one[1])


@pytest.fixture
def target(tmp_path, monkeypatch):
    """target(answers) -> a target whose server answers so."""
    from backupcore.targets import sftp as module

    monkeypatch.setattr(module, "ATTEMPTS", 2)

    def make(answers, extensions=()):
        liar = Liar(answers, extensions)
        monkeypatch.setattr(module, "connect", lambda options, name: liar.session())
        made = SftpTarget(SftpOptions(**GIVEN), TargetContext("nas", SERVER, tmp_path / "state"))
        made.liar = liar
        return made

    return make


def page(*entries):
    return 104, struct.pack(">I", len(entries)) + b"".join(
        string(name) + string("-rw") + facts for name, facts in entries
    )


def once(answer, end):
    """An answer for the first request only, then the end."""
    left = [answer]
    return lambda request: left.pop() if left else end


def test_hostile_names_in_a_listing_are_passed_over(target):
    names = [b"..", b".", b"../../etc/passwd", b"a/b", b"/abs", b"", b"new\nline", b"\xff\xfe", b"back\\slash",
             b"x" * 300, b"good", b"nul\0", b"good"]  # fmt: skip
    answers = {12: once(page(*[(name, attrs()) for name in names]), status(1))}
    assert [found.name for found in target(answers).list()] == ["good"]


def test_others_are_told_with_their_names(target):
    entries = [(b"link", attrs(0o120777)), (b"folder", attrs(0o40700)), (b"plain", attrs()), (b"\xff", attrs()),
               (b"..", attrs(0o40700)), (b"a/b", attrs())]  # fmt: skip
    told = list(target({12: once(page(*entries), status(1))}).others("x"))
    assert told == ["x/a/b", "x/folder/", "x/link", "x/\udcff"]


def test_a_folder_that_names_itself_as_its_parent_is_not_followed(target):
    answers = {12: once(page((b"..", attrs(0o40700)), (b".", attrs(0o40700)), (b"x", attrs())), status(1))}
    assert [found.name for found in target(answers).list()] == ["x"]


def test_a_tree_without_end_ends_by_the_length_of_names(target):
    answers = {12: lambda request: page((b"deeper" * 40, attrs(0o40700)))}
    ended = {"count": 0}

    def pages(_request):
        ended["count"] += 1
        return page((b"deeper" * 40, attrs(0o40700))) if ended["count"] % 2 else status(1)

    answers = {12: pages}
    assert list(target(answers).list()) == []
    assert ended["count"] < 20


def test_a_listing_without_end_is_an_error(target, monkeypatch):
    monkeypatch.setattr(wire, "MOST_NAMES", 1000)
    with pytest.raises(TargetError, match="does not end") as error:
        list(target({12: page(*[(b"%d" % index, attrs()) for index in range(100)])}).list())
    assert not error.value.retry
    with pytest.raises(TargetError, match="does not end"):
        list(target({12: page()}).list())


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack(">I", 1 << 31) + b"x",  # a packet of 2 GiB
        struct.pack(">I", 0),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        (104, struct.pack(">I", 1_000_000)),  # a million names in four bytes
        (104, struct.pack(">II", 1, 1 << 31)),  # a name of 2 GiB
        (102, string(b"handle")),  # another kind
        (101, b""),
        struct.pack(">IBI", 9, 101, 99999) + bytes(4),  # an answer to another question
    ],
)
def test_nonsense_is_one_clear_error(target, answer):
    with pytest.raises(TargetError) as error:
        list(target({12: answer}).list())
    assert "\n" not in error.value.message and len(error.value.message) < 300


@pytest.mark.parametrize("size", [0, 5, 11, 1 << 62])
def test_a_lie_about_a_size_is_an_error(target, size):
    def data(request):
        offset, count = struct.unpack(">QI", request[-12:])
        return (103, string(b"0123456789"[offset : offset + count])) if offset < 10 else status(1)

    lying = target({8: (105, attrs(size=size)), 5: data})
    if size > 10:
        with pytest.raises(TargetError, match="ends before"):
            for piece in lying.read("x"):
                assert len(piece) <= 10
    with pytest.raises(TargetError):
        b"".join(lying.read("x", 0, 100))


@pytest.mark.parametrize("count", [0, 101, 5000])
def test_more_bytes_than_asked_for_or_none_are_an_error(target, count):
    lying = target({8: (105, attrs(size=100)), 5: (103, string(bytes(count)))})
    with pytest.raises(TargetError, match="another number of bytes"):
        b"".join(lying.read("x"))


def test_short_answers_are_put_together(target):
    content = bytes(range(256)) * 500

    def data(request):
        offset, count = struct.unpack(">QI", request[-12:])
        return 103, string(content[offset : offset + min(count, 7777)])

    lying = target({8: (105, attrs(size=len(content))), 5: data})
    assert b"".join(lying.read("x")) == content
    assert b"".join(lying.read("x", 3, 50_000)) == content[3:50_003]


def test_a_server_that_stores_less_than_it_says_is_found_out(target, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100_000)
    lying = target({6: status(0), 8: (105, attrs(size=99_999)), 13: status(0)})
    with pytest.raises(TargetError, match="99999 bytes long there"):
        lying.put("a", path)
    assert wire.REMOVE in lying.liar.asked and wire.RENAME not in lying.liar.asked


def test_messages_of_the_server_are_shown_escaped_and_short(target):
    rude = target({13: status(4, "\x1b[31m\n" + "x" * 5000)})
    with pytest.raises(TargetError) as error:
        rude.delete("x")
    assert "\x1b" not in error.value.message and "\n" not in error.value.message and len(error.value.message) < 400


def test_a_server_with_the_bare_protocol_will_do(target, tmp_path):
    """No hard links, no posix-rename, no sync: a look before, and a rename."""
    files = {}

    def lstat(request):
        name = request[9:].decode()
        return (105, attrs(size=files[name])) if name in files else status(2)

    def rename(request):
        size = struct.unpack(">I", request[5:9])[0]
        files[request[13 + size :].decode()] = 7
        return status(0)

    def look(request):
        name = request[9:].decode()
        return (105, attrs(0o40700)) if name.endswith(".stowage") else lstat(request)

    path = tmp_path / "x"
    path.write_bytes(b"content")
    bare = target({6: status(0), 7: look, 8: (105, attrs(size=7)), 13: status(0), 18: rename})
    assert bare.put("a", path, if_absent=True).size == 7
    assert not bare.capabilities.overwrite_protection
    with pytest.raises(TargetError, match="already"):
        bare.put("a", path, if_absent=True)

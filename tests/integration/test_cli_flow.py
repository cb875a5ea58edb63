"""The operator's way through the commands: run, report by mail, find, list, restore, copies, status."""

from __future__ import annotations

import email
import email.policy
import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest
from cli_lab import Server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for number in range(20):
        (tree / "sub" / f"file{number}").write_text(f"content {number}\n" * 50)
    (tree / "odd \x1b[31m name").write_text("x")
    return tree


@pytest.fixture
def server(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    server = Server(base)
    (base / "nas").mkdir()
    server.write(targets={"nas": {"type": "directory", "path": str(base / "nas")}})
    yield server
    server.close()


class Mailbox(threading.Thread):
    """Takes one mail."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.data = b""
        self.start()

    def run(self):
        connection, _where = self.socket.accept()
        with connection, connection.makefile("rwb") as stream:
            stream.write(b"220 here\r\n")
            stream.flush()
            for line in stream:
                word = line.split()[0].upper()
                stream.write(b"354 go\r\n" if word == b"DATA" else b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
                stream.flush()
                if word == b"DATA":
                    for data in iter(stream.readline, b".\r\n"):
                        self.data += data
                    stream.write(b"250 taken\r\n")
                    stream.flush()


def test_from_the_first_run_to_a_file_that_is_back(server, tree, tmp_path):
    mailbox = Mailbox()
    server.write(events={"mail": {"type": "mail", "to": "ops@acme.example", "host": "127.0.0.1", "port": mailbox.port}})
    server.client("web1", {"tree": tree})

    planned = server.json("plan")["sources"]
    assert [(one["source"], one["level"], one["reason"]) for one in planned] == [("tree", 0, "the first full")]
    server.stowage("run")
    mailbox.join(60)
    mail = email.message_from_bytes(mailbox.data, policy=email.policy.default)
    assert mail["Subject"].startswith("stowage OK   1 client, 1 source within RPO; ")
    assert "nas: 1 of 1 newest dumps have a verified copy" in mail.get_content()

    server.write(events={})
    (tree / "sub" / "file3").write_text("changed\n")
    (tree / "sub" / "file4").unlink()
    done = server.json("run")
    assert [(one["level"], one["status"]) for one in done["sources"]] == [(1, "OK")]
    full, incremental = (one["dump"] for one in server.json("list", "dumps")["dumps"])

    found = server.json("find", "file4")
    assert [(one["gone_dump"], one["dump"]) for one in found["found"]] == [(incremental, full)]
    assert found["next"] == [f"stowage restore web1:{tree}/sub/file4 --at {full}"]
    server.stowage("find", "nothing-of-this-name", status=1)

    listed = server.json("list", "files", f"web1:{tree}", "--recursive")["files"]
    names = {one["path"] for one in listed}
    assert f"{tree}/sub/file3" in names
    assert f"{tree}/sub/file4" not in names
    assert f"{tree}/odd \\x1b[31m name" in names
    assert "\x1b" not in server.stowage("list", "files", f"web1:{tree}")[0]

    out = tmp_path / "out"
    words = server.json("find", "file4")["next"][0].split()[1:]
    server.stowage(*words, "--to", out)
    assert (out / str(tree)[1:] / "sub/file4").read_text() == "content 4\n" * 50

    answer = server.json("restore", f"web1:{tree}", "--plan", "--from", "nas")
    assert {one["place"] for one in answer["dumps"]} == {"nas"}
    assert answer["next"] == [f"stowage restore web1:{tree} --from nas"]
    assert not (tmp_path / "out2").exists()

    answer = server.json("restore", f"web1:{tree}")
    assert answer["destination"].startswith(str(server.base / "web1.scratch"))
    assert (server.base / "web1.scratch").stat().st_mode & 0o777 == 0o700
    kinds = [(one["kind"], one["status"]) for one in server.json("list", "runs")["runs"]]
    assert kinds[-1] == ("restore", "OK")


def test_one_file_goes_to_standard_output_whole(server, tree):
    server.client("web1", {"tree": tree})
    server.stowage("run")
    process = server.start("restore", f"web1:{tree}/sub/file7", "--stdout")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"content 7\n" * 50, b"")


def test_what_exists_is_left_alone_and_reported(server, tree, tmp_path):
    server.client("web1", {"tree": tree})
    server.stowage("run")
    out = tmp_path / "out"
    there = out / str(tree)[1:] / "sub" / "file1"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    answer = server.json("restore", f"web1:{tree}/sub", "--to", out, status=1)
    assert there.read_text() == "mine"
    assert [one["path"].endswith("/sub/file1") for one in answer["failed"]] == [True]
    assert (there.parent / "file2").exists()
    again = f"stowage restore web1:{tree}/sub --to"
    ways = [f"{again} {out} --existing overwrite", f"{again} {out} --existing keep", f"{again} DIR"]
    assert answer["next"] == ways
    server.stowage("restore", f"web1:{tree}/sub", "--to", out, "--existing", "keep")
    assert there.read_text() == "mine"
    server.stowage("restore", f"web1:{tree}/sub", "--to", out, "--existing", "overwrite")
    assert there.read_text() == "content 1\n" * 50


def test_a_run_of_one_source_copies_and_judges_that_source_only(server, tree):
    server.client("web1", {"tree": tree})
    server.client("web2", {"tree": tree})
    done = server.json("run", "--client", "web1")
    assert [one["client"] for one in done["sources"]] == ["web1"]
    assert server.dumps() == ["web1:tree"]
    answer = server.json("report")
    assert answer["status"] == "warn"
    assert [one["client"] for one in answer["sources"] if one["code"] == "never-dumped"] == ["web2"]


def test_a_level_that_is_asked_for_is_made(server, tree):
    server.client("web1", {"tree": tree})
    for level in ("0", "0", "3"):
        server.stowage("run", "--level", level)
    assert [one["level"] for one in server.json("list", "dumps")["dumps"]] == [0, 0, 3]


def test_images_leave_the_holding_disk_only_with_verified_copies(server, tree):
    server.client("web1", {"tree": tree})
    for _night in range(3):
        server.stowage("run", "--level", "0")
    listed = server.json("list", "dumps")["dumps"]
    assert [bool(one["holding"]) for one in listed] == [False, False, True]
    assert [one["copies"] for one in listed] == [{"nas": "verified"}] * 3


def test_check_finds_nothing_wrong_with_a_good_server(server, tree):
    server.client("web1", {"tree": tree}, ignore={"/": "a test"})
    answer = server.json("check")
    assert [one for one in answer["findings"] if one["status"] == "FAIL"] == []
    assert answer["ready"] == ["web1"]
    assert answer["not_covered"] == []


def test_an_image_that_is_gone_is_seen_by_check_and_made_good_by_the_next_run(server, tree):
    server.client("web1", {"tree": tree})
    server.client("web2", {"tree": {"path": str(tree), "policy": "here"}})
    server.write(policies={"here": {"copies": []}})
    server.stowage("run")
    for name in ("web1", "web2"):
        shutil.rmtree(server.base / "holding" / name)
    out, _err = server.stowage("check", status=1)
    assert "WARN images: web1:tree: the image " in out
    assert "; a copy is at a target" in out
    assert "FAIL images: web2:tree: the image " in out
    assert "and has no copy -> stowage run --client web2 --source tree" in out
    server.stowage("run")
    levels = {one["client"]: one["level"] for one in server.json("list", "dumps")["dumps"]}
    assert levels == {"web1": 1, "web2": 0}
    assert "FAIL" not in server.stowage("check")[0]


def test_the_command_that_is_installed_is_the_same(server, tree):
    script = os.path.join(os.path.dirname(sys.executable), "stowage")
    assert os.path.exists(script), "make venv"
    server.client("web1", {"tree": tree})
    out = subprocess.run(
        [script, "--config", str(server.base / "stowage.yml"), "--json", "plan"], capture_output=True, check=True
    ).stdout
    assert json.loads(out)["sources"][0]["level"] == 0


def test_find_says_what_it_could_not_search(server, tree):
    server.client("web1", {"tree": tree})
    server.stowage("run", "--level", "0")
    server.stowage("run", "--level", "0")
    lost = server.json("list", "dumps")["dumps"][0]["dump"]
    for place in (server.base / "nas", server.base / "state" / "index"):
        for path in [*place.rglob(f"{lost}*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert server.json("find", "file7")["status"] == "ok"  # the run has put it into the search
    shutil.rmtree(server.base / "state" / "search")
    answer = server.json("find", "file7")
    assert answer["found"] and answer["status"] == "warn"
    assert any(lost in note for note in answer["notes"])

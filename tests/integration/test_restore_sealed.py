"""Sealed dumps are restored by the real command: from the holding disk and a target, with a key that lies elsewhere."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from cli_lab import Server

PASSPHRASE = "correct horse battery staple"
ADDRESS = "127.77.61.3"


@pytest.fixture(scope="module")
def lab():
    base = Path(tempfile.mkdtemp(prefix="stowage-restore-sealed-", dir="/var/tmp"))
    base.chmod(0o755)
    server = Server(base)
    try:
        _set_up(server, base)
        yield server
    finally:
        server.close()
        shutil.rmtree(base)


def _set_up(server, base):
    tree = base / "tree"
    (tree / "deep").mkdir(parents=True)
    for number in range(40):
        (tree / "deep" / f"f{number:02d}").write_bytes(os.urandom(30_000))
    (tree / "secret.txt").write_text("the only copy\n")
    (base / "nas").mkdir()
    (base / "vault").mkdir(mode=0o700)
    (base / "pass").write_text(PASSPHRASE + "\n")
    (base / "pass").chmod(0o600)
    server.write(
        keys={"folder": str(base / "vault")},
        targets={"nas": {"type": "directory", "path": str(base / "nas")}},
        policies={"standard": {"encrypt": "server"}},
    )
    server.client("web1", {"data": tree}, address=ADDRESS)
    server.stowage("key", "generate", "--passphrase-file", base / "pass")
    server.stowage("run")
    # the private keys leave the server: runs need the public ones only
    shutil.move(base / "vault" / "private", base / "safe")


def opening(lab):
    return ["--key", lab.base / "safe" / "operations.pem", "--passphrase-file", lab.base / "pass"]


@pytest.mark.parametrize("place", ["holding", "nas"])
def test_one_file_and_a_folder_come_back_with_the_key(lab, place):
    tree = lab.base / "tree"
    out = lab.base / f"out-{place}"
    lab.stowage("restore", f"web1:{tree}/deep", "--from", place, "--to", out, *opening(lab))
    for path in (tree / "deep").iterdir():
        assert (out / str(path)[1:]).read_bytes() == path.read_bytes()
    answer = lab.json("restore", f"web1:{tree}/secret.txt", "--from", place, "--to", out, *opening(lab))
    assert (out / str(tree)[1:] / "secret.txt").read_text() == "the only copy\n"
    assert answer["status"] == "ok" and {one["place"] for one in answer["read_from"]} == {place}
    assert b"the only copy" not in b"".join(path.read_bytes() for path in (lab.base / "nas").rglob("*.enc"))


def test_a_sealed_dump_goes_open_over_ssh_to_its_client(lab):
    answer = lab.json("restore", "web1", "data", *opening(lab))
    tree = lab.base / "tree"
    there = Path(answer["destination"]) / str(tree)[1:]
    assert (there / "secret.txt").read_text() == "the only copy\n"
    assert len(list((there / "deep").iterdir())) == 40


def test_without_the_key_or_its_passphrase_it_says_what_to_do(lab):
    what = f"web1:{lab.base}/tree/secret.txt"
    error = lab.json("restore", what, "--to", lab.base / "none", status=1)["error"]
    assert error["code"] == "key-missing" and "--key FILE" in error["hint"]
    key = lab.base / "safe" / "operations.pem"
    error = lab.json("restore", what, "--to", lab.base / "none", "--key", key, status=1)["error"]
    assert error["code"] == "key-locked" and "--passphrase-file" in error["hint"]
    wrong = lab.base / "wrong"
    wrong.write_text("no such passphrase\n")
    wrong.chmod(0o600)
    opened = ["--key", key, "--passphrase-file", wrong]
    assert lab.json("restore", what, "--to", lab.base / "none", *opened, status=1)["error"]["code"] == "key-locked"
    assert not (lab.base / "none").exists()


def test_the_plan_names_the_command_with_the_key(lab):
    out, _err = lab.stowage("restore", f"web1:{lab.base}/tree/secret.txt", "--to", "/x", "--plan", *opening(lab))
    assert f"--key {lab.base}/safe/operations.pem" in out and PASSPHRASE not in out

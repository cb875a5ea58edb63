"""`stowage support`: what is in the archive, what is in no piece of it, and that a sick server still makes one."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile

import pytest
from cli_lab import Server

SECRETS = ("Zk9-access-key-id", "Qp7/secret+key=", "hook-token-4711", "tell-nobody-this", "script-password-9",
           "argument-word-3", "argument-word-4")  # fmt: skip


@pytest.fixture
def server(tmp_path):
    one = Server(tmp_path)
    (tmp_path / "nas").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("the content of a file\n")
    one.write(targets={"nas": {"type": "directory", "path": str(tmp_path / "nas")}})
    one.client("web1", {"data": {"path": str(tmp_path / "data"), "before": f"echo {SECRETS[4]}"}})
    yield one
    one.close()


def pieces(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        found = {}
        for member in archive:
            assert member.isreg() and member.mode == 0o600 and member.name.startswith("stowage-support-")
            found[member.name.split("/", 1)[1]] = archive.extractfile(member).read().decode()
    return found


def test_it_tells_what_helps_and_no_secret_of_any_kind(server):
    base = server.base
    server.stowage("run")
    (base / "keys.json").write_text(json.dumps({"access_key": SECRETS[0], "secret_key": SECRETS[1]}))
    (base / "keys.json").chmod(0o600)
    (base / "smtp").write_text(f"{SECRETS[3]}\n")
    (base / "smtp").chmod(0o600)
    server.write(
        targets={
            "nas": server.config["targets"]["nas"],
            "cloud": {"type": "s3", "bucket": "acme", "endpoint": "http://127.0.0.1:9", "region": "eu",
                      "credentials": str(base / "keys.json")},
            "own": {"type": "command", "put": ["/bin/false", "-u", f"ops:{SECRETS[5]}", "{name}"], "get": [
                "/bin/false", f"--password={SECRETS[6]}", f"-p{SECRETS[6]}", "{name}"], "list": ["/bin/false"],
                "delete": ["/bin/false", "/srv/{name}"]},
        },
        events={
            "hook": {"type": "webhook", "url": f"https://example.org/{SECRETS[2]}"},
            "mail": {"type": "mail", "to": ["ops@acme.example"], "from": "b@acme.example", "host": "127.0.0.1",
                     "user": "ops", "password_file": str(base / "smtp")},
        },
        policies={"standard": {"copies": [{"target": "nas"}, {"target": "cloud", "after": "nas"}]}},
    )  # fmt: skip
    (base / "state" / "bugs").mkdir()
    (base / "state" / "bugs" / "20260101T000000Z-1.txt").write_text(
        f"Error: {SECRETS[1]} {SECRETS[2]} {json.dumps(SECRETS[3])} http://ops:url-password@proxy/ \x1b[2J\n"
        "-----BEGIN PRIVATE KEY-----\nMIIsecret\n-----END PRIVATE KEY-----\n"
    )
    server.stowage("key", "generate", "--no-passphrase")
    out = base / "support.tgz"
    answer = json.loads(server.stowage("--json", "support", "--out", out)[0])
    assert answer["out"] == str(out) and stat.S_IMODE(out.stat().st_mode) == 0o600
    found = pieces(out.read_bytes())
    assert sorted(found) == sorted(answer["pieces"])
    whole = "\n".join(found.values())
    for secret in (*SECRETS, "url-password", "MIIsecret", "the content of a file"):
        assert secret not in whole
    for name in ("operations", "escrow"):
        private = (base / "state" / "keys" / "private" / f"{name}.pem").read_text().splitlines()[1]
        assert private not in whole
    assert "stowage 0.1.0" in found["versions.txt"] and "OpenSSH" in found["versions.txt"]
    assert "- /bin/false\n    - -u\n    - (left out)\n    - '{name}'\n" in found["configuration.yml"]
    assert "bucket: acme" in found["configuration.yml"] and "after: nas" in found["configuration.yml"]
    assert json.loads(found["runs.json"])[0]["results"][0]["client"] == "web1"
    (cloud,) = [one for one in json.loads(found["check.json"])["findings"] if one["name"] == "cloud"]
    assert cloud["status"] == "FAIL" and "no connection" in cloud["message"]
    assert json.loads(found["catalog.json"])["dumps"] == 1 and json.loads(found["audit.txt"])["status"] == "OK"
    assert "(left out)" in found["bugs.txt"]
    (report,) = [name for name in found if name.startswith("report-")]
    assert "1 client, 1 source" in found[report]


def test_a_file_that_is_there_is_not_touched_and_the_default_is_in_the_state(server):
    taken = server.base / "there.tgz"
    taken.write_text("mine")
    _out, err = server.stowage("support", "--no-check", "--out", taken, status=2)
    assert "is there already" in err and taken.read_text() == "mine"
    server.stowage("support", "--no-check")
    (made,) = (server.base / "state" / "support").iterdir()
    assert "check.json" not in pieces(made.read_bytes())
    _out, err = server.stowage("support", "--no-check", "--out", server.base / "no" / "such.tgz", status=1)
    assert "No such file" in err


def test_it_is_made_of_a_server_without_catalog_and_of_a_wrong_configuration(server):
    (server.base / "state").mkdir(exist_ok=True)
    (server.base / "state" / "catalog.sqlite").write_bytes(b"rubbish" * 1000)
    answer = json.loads(server.stowage("--json", "support", "--no-check", "--out", server.base / "a.tgz")[0])
    assert answer["status"] == "warn" and any(one.startswith("catalog.json") for one in answer["failed"])
    found = pieces((server.base / "a.tgz").read_bytes())
    assert "could not be had" in found["catalog.json"] and "web1" in found["configuration.yml"]
    server.write(polcies={"secret": SECRETS[0]})
    process = server.start("support", "--out", "-")
    data, err = process.communicate()
    assert process.returncode == 0 and b"polcies" in err
    found = pieces(data)
    assert "polcies" in found["configuration.txt"] and "stowage 0.1.0" in found["versions.txt"]
    assert SECRETS[0] not in "".join(found.values())


def test_a_full_disk_leaves_no_half_archive(server):
    place = server.base / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(place)], check=True)
    try:
        filler = os.open(place / "filler", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space"):
            while True:
                os.write(filler, b"x" * 4096)
        os.close(filler)
        _out, err = server.stowage("support", "--no-check", "--out", place / "a.tgz", status=1)
        assert "No space left" in err and "elsewhere" in err and not (place / "a.tgz").exists()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)

"""No key and no passphrase where others can read it, no name from inside a sealed dump on a target.

The real command under strace: words and environment of every program that is started, what is written, what is printed,
and whether core files are off before a key file is opened. By Ansible: tests/integration/test_collection.py.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys

import pytest
import sealed
from cli_lab import Server

from backupcore.image import recipients

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")

PASSPHRASE = b"correct-horse-battery-staple"
SECRET_NAME, SECRET = "wages-of-alice", "not for you " * 9


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A server that has made keys, dumped two sealed sources, restored, renewed keys, all of it watched."""
    base = tmp_path_factory.mktemp("secrets") / "server"
    base.mkdir()
    server = Server(base)
    (base / "nas").mkdir()
    tree = base.parent / "tree"
    (tree / "cellar").mkdir(parents=True)
    (tree / "cellar" / SECRET_NAME).write_text(SECRET)
    passphrase = base.parent / "passphrase"
    passphrase.write_bytes(PASSPHRASE + b"\n")
    passphrase.chmod(0o600)
    policies = {name: {"encrypt": name} for name in ("server", "client")}
    server.write(targets={"nas": {"type": "directory", "path": str(base / "nas")}}, policies=policies)
    watched = Watched(base)
    watched("key", "generate", "--passphrase-file", passphrase)
    keys = base / "state" / "keys"
    pems = [one["public"] for one in server.json("key", "list")["keys"]]
    sources = {"one": {"path": str(tree), "policy": "server"}, "two": {"path": str(tree), "policy": "client"}}
    server.client("web1", sources, agent_sources={"one": {"path": str(tree)}, "two": {"path": str(tree)}})
    _seal_on_client(base / "web1.agent.json", "two", pems)
    watched("run")
    away = base.parent / "away.pem"
    (keys / "private" / "operations.pem").rename(away)
    unlock = ("--key", away, "--passphrase-file", passphrase)
    for number, source in enumerate(sources):
        where = base.parent / f"back{number}"
        watched("restore", "web1", source, "--to", where, *unlock)
        assert next(where.rglob(SECRET_NAME)).read_text() == SECRET
    watched("key", "generate", "--only", "next", "--passphrase-file", passphrase)
    watched("key", "rewrap", *unlock)
    watched("verify", "--full", *unlock)
    watched.away, watched.keys, watched.base = away, keys, base
    yield watched
    server.close()


def _seal_on_client(path, source, pems):
    plain = json.loads(path.read_text())
    plain["sources"][source].update(encrypt="client", recipients=pems)
    path.write_text(json.dumps(plain))


class Watched:
    """Runs the command under strace; keeps what it printed and what strace saw."""

    def __init__(self, base):
        self.config, self.logs, self.printed = base / "stowage.yml", [], b""

    def __call__(self, *words):
        log = self.config.parent.parent / f"strace-{len(self.logs)}"
        watch = ["strace", "-f", "-v", "-s", "1000000", "-o", log, "-e", "trace=execve,openat,prctl,prlimit64"]
        command = [sys.executable, "-m", "backupcore", "--config", self.config, *words]
        done = subprocess.run(list(map(str, [*watch, *command])), capture_output=True, timeout=120)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        self.printed += done.stdout + done.stderr
        self.logs.append((words, log.read_bytes()))


def secrets_of(night):
    """What must be nowhere: passphrase, private numbers of the keys, in any writing."""
    found = {"passphrase": PASSPHRASE, "passphrase in base64": base64.b64encode(PASSPHRASE)[:-4]}
    for name in ("operations", "escrow", "next"):
        path = night.away if name == "operations" else night.keys / "private" / f"{name}.pem"
        key = recipients.load_private(path.read_bytes(), PASSPHRASE)
        numbers = key._key.private_numbers()
        for which, number in (("p", numbers.p), ("d", numbers.d)):
            raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
            found[f"{name} {which}"], found[f"{name} {which} in hex"] = raw[8:40], raw[8:40].hex().encode()
            found[f"{name} {which} in decimal"] = str(number)[:60].encode()
        for line in key.to_pem().splitlines()[3:-1]:
            found[f"{name} pem {line[:6]}"] = line
        found[f"{name} locked"] = path.read_bytes().splitlines()[4]  # not even protected, except in its own file
    signing = (night.keys / "signing.pem").read_bytes().splitlines()[1]
    return {**found, "signing": signing}


def test_no_secret_in_words_environment_or_output(night):
    for name, secret in secrets_of(night).items():
        assert secret not in night.printed, name
        for words, log in night.logs:
            started = b"\n".join(line for line in log.splitlines() if b"execve(" in line)
            assert b"execve(" in started and secret not in started, (name, words)


def test_no_secret_in_what_lies_about(night):
    wanted = secrets_of(night)
    files = [path for path in night.base.rglob("*") if path.is_file() and path.parent != night.keys / "private"]
    assert {"catalog.sqlite", "manifest.json", "keys.tsv", "keys-2.tsv"} <= {path.name for path in files}
    for path in files:
        data = path.read_bytes()
        for name, secret in wanted.items():
            if path.name != "signing.pem":
                assert secret not in data, (name, path)


def test_core_files_are_off_before_a_key_or_a_passphrase_is_read(night):
    seen = 0
    for words, log in night.logs:
        lines = log.decode("utf-8", "replace").splitlines()
        opened = [n for n, line in enumerate(lines) if re.search(r"openat\(.*(away\.pem|/passphrase|private/)", line)]
        if not opened or "--passphrase-file" not in words:
            continue
        first = lines[: opened[0]]
        assert any("RLIMIT_CORE, {rlim_cur=0, rlim_max=0}" in line for line in first), words
        assert any("prctl(PR_SET_DUMPABLE, 0" in line or "SUID_DUMP_DISABLE" in line for line in first), words
        seen += 1
    assert seen == 6


def test_a_run_that_seals_writes_no_core_file(night):
    (log,) = [log for words, log in night.logs if words == ("run",)]
    processes = {line.split()[0] for line in log.splitlines() if b"RLIMIT_CORE, {rlim_cur=0, rlim_max=0}" in line}
    assert len(processes) >= 2  # the dumper, the agent that seals


@pytest.mark.parametrize("place", ["nas", "holding"])
def test_no_name_from_inside_a_sealed_dump_is_on_a_target(night, place):
    folder = night.base / place
    seals = [json.loads(path.read_text())["seal"]["by"] for path in folder.rglob("manifest.json")]
    assert sorted(seals) == ["client", "server"]
    words = [SECRET_NAME.encode(), b"cellar", SECRET.encode()[:20], PASSPHRASE]
    assert sealed.names_in(folder, words) == []

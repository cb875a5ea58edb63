"""Sealed dumps over a real ssh: by client and by server, by the distribution's own Python, opened with the keys."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import sealed
from dump_lab import PORT, Lab, Sshd, forced

from backupcore.catalog import places
from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys
from backupcore.keys import store
from backupcore.settings import CopyRule, Policy, TargetSettings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NAMES = (b"wichtig", b"unterlagen", b"geheimnis")
PYTHON = "/usr/bin/python3"  # the distribution's, with its python3-cryptography


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    made.make_key()
    sealed.prove(made.settings.keys)
    made.hosts = []
    yield made
    for host in made.hosts:
        host.stop()
    made.catalog.close()


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    (top / "unterlagen").mkdir(parents=True)
    for number in range(40):
        (top / "unterlagen" / f"wichtig{number}").write_bytes(b"geheimnis" + os.urandom(number * 20_000))
    return top


def host(lab, name, number, trees, policy, python=PYTHON):
    client = lab.client(
        name, trees, policy, transport="ssh", address=f"127.77.11.{number}", port=PORT, user="root", agent_python=python
    )
    lab.hosts.append(Sshd(lab, name, client.address, forced(client)))
    return client


def unpack(lab, client, source, dest):
    """Every image of the chain, opened with the keys, into dest by GNU tar."""
    dest.mkdir()
    for row in lab.catalog.chain(lab.latest(client, source).id):
        archive = sealed.opens(row)[0]
        tar = ["tar", "-xpG", "--numeric-owner", "-C", str(dest), "-f", "-"]
        subprocess.run(tar, input=archive, check=True, env={**os.environ, "LC_ALL": "C"})


@pytest.mark.parametrize("encrypt", ["client", "server"])
@pytest.mark.parametrize("compress", ["zstd", "none"])
def test_a_chain_over_ssh_is_sealed_and_opens(lab, tree, tmp_path, encrypt, compress):
    lab.set(targets={"nas": TargetSettings("nas", "directory", {"path": str(tmp_path / "nas")})})
    policy = Policy("sealed", compress=compress, encrypt=encrypt, part_size=8 << 20, copies=(CopyRule("nas"),))
    host(lab, "web1", 1, {"data": tree}, policy)
    assert lab.night()["web1:data"].ok, lab.results
    row = lab.latest("web1", "data")
    manifest = check_folder(Path(row.holding), load_public_keys(lab.settings.keys), full=True)
    assert manifest.sealed.by == encrypt and len(manifest.parts) > 1
    assert (row.level, row.entries, row.files) == (0, 42, 40) and row.stored_size == manifest.stored_size
    assert not row.warnings and not row.notes
    (tree / "unterlagen" / "wichtig1").unlink()
    (tree / "unterlagen" / "wichtig2").write_bytes(b"geheimnis neu")
    (tree / "wichtig-neu").write_bytes(b"geheimnis" * 100_000)
    for level in (1, 1):
        assert lab.night()["web1:data"].ok, lab.results
        assert lab.latest("web1", "data").level == level
    for one in lab.catalog.dumps():
        text = sealed.opens(one)[1]
        plain = places.find_index(lab.settings.state, "web1", "data", one.id)
        tool = ["zstd", "-dcq"] if compress == "zstd" else ["cat"]
        assert subprocess.run([*tool, plain], capture_output=True, check=True).stdout == text
    unpack(lab, "web1", "data", tmp_path / "r")
    subprocess.run(["diff", "-r", tree, tmp_path / "r"], check=True)
    # the names of the tree's own files stand nowhere: not on the holding disk, not at a target
    stage(lab)
    assert not sealed.names_in(tmp_path / "holding", NAMES)
    assert sum(path.name == "keys.tsv" for path in (tmp_path / "nas").rglob("*")) == len(lab.catalog.dumps())
    assert not sealed.names_in(tmp_path / "nas", NAMES)


def stage(lab):
    from backupcore.hookspecs import TargetContext

    from backupcore.stage import stager
    from backupcore.targets.directory import DirectoryOptions, DirectoryTarget

    settings = lab.settings
    context = TargetContext("nas", places.server_id(settings.state), settings.state / "targets" / "nas")
    target = DirectoryTarget(DirectoryOptions(path=settings.targets["nas"].options["path"]), context)
    results = stager.stage(settings, lab.catalog, lambda name: target)
    assert results and all(one.ok for one in results), results


def test_a_server_that_asks_for_less_than_agent_json_says_gets_nothing(lab, tree):
    host(lab, "web1", 1, {"data": tree}, Policy("sealed", encrypt="client"))
    config = lab.base / "web1.agent.json"
    kept = config.read_text()
    for policy in (Policy("standard"), Policy("server", encrypt="server")):
        lab.client("web1", {"data": tree}, policy, transport="ssh", address="127.77.11.1", port=PORT, user="root")
        config.write_text(kept)
        result = lab.night()["web1:data"]
        assert (result.ok, result.code) == (False, "agent-refused"), result
        assert "agent.json says encrypt: client" in result.message and "site" in result.hint
    assert lab.catalog.dumps() == []


def test_a_key_that_came_or_went_since_site_is_refused_until_the_agent_knows_it(lab, tree):
    policy = Policy("sealed", encrypt="client")
    host(lab, "web1", 1, {"data": tree}, policy)
    sealed.prove(lab.settings.keys, sealed.recipient("escrow"))
    result = lab.night()["web1:data"]
    assert (result.ok, result.code) == (False, "agent-refused") and "others than agent.json" in result.message
    lab.client("web1", {"data": tree}, policy, transport="ssh", address="127.77.11.1", port=PORT, user="root")
    assert lab.night()["web1:data"].ok
    row = lab.latest("web1", "data")
    for name in ("operations", "escrow"):
        assert sealed.opens(row, sealed.recipient(name))[2]
    with store.changing(lab.settings.keys):
        store.revoke(lab.settings.keys, "escrow")
    assert lab.night()["web1:data"].code == "agent-refused"


def test_without_cryptography_on_the_client_the_dump_fails_with_the_package(lab, tree, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", bare], check=True)
    host(lab, "web1", 1, {"data": tree}, Policy("sealed", encrypt="client"), str(bare / "bin/python3"))
    result = lab.night()["web1:data"]
    assert (result.ok, result.code) == (False, "source-failed"), result
    assert "must be sealed" in result.message and "python3-cryptography" in result.hint
    assert lab.catalog.dumps() == [] and not sealed.names_in(tmp_path / "holding", NAMES)

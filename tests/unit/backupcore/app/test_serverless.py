"""Places without a server: how they are named, what is refused, and that nothing of them is left."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from stage_world import World

from backupcore import cli
from backupcore.app.serverless import Loose, Place, is_place, settings_of
from backupcore.cli import _place
from backupcore.errors import NothingThatOld, RequestError
from backupcore.settings import CopyRule


@pytest.mark.parametrize("word", ["s3://b/p", "file:///mnt/nas", "/mnt/nas", "./nas", "nas/"])
def test_an_address_is_a_place(word):
    assert is_place(word)


@pytest.mark.parametrize("word", [None, "nas", "holding", "cloud.1"])
def test_a_name_is_a_target(word):
    assert not is_place(word)


def test_a_bucket_and_its_options():
    place = Place("s3://acme-backup/prod/", "http://127.0.0.1:1", "eu-west-1", "/root/bucket.json", "ops")
    one = settings_of(place)
    assert (one.name, one.type) == ("acme-backup", "s3")
    assert one.options == {
        "bucket": "acme-backup", "prefix": "prod", "endpoint": "http://127.0.0.1:1", "region": "eu-west-1",
        "credentials": "/root/bucket.json", "profile": "ops",
    }  # fmt: skip
    assert settings_of(Place("s3://acme-backup")).options["prefix"] == ""


def test_a_folder(tmp_path):
    (tmp_path / "a b").mkdir()
    for url in (f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a%20b", f"{tmp_path}/a b"):
        one = settings_of(Place(url))
        assert (one.type, one.options) == ("directory", {"path": tmp_path / "a b"})


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (Place("http://x/y"), "no place"), (Place("s3:///x"), "no place"), (Place("s3://b/p?x=1"), "no place"),
        (Place("file://nas/mnt"), "no place"), (Place("/nowhere/at/all"), "no such folder"),
        (Place("/", endpoint="http://x"), "goes with"),
    ],
)  # fmt: skip
def test_what_is_no_place_is_refused(place, told):
    with pytest.raises(RequestError, match=told):
        settings_of(place)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.policy(CopyRule("nas"))
    world.dump("web1")
    world.dump("web2")
    world.stage()
    yield world
    world.catalog.close()


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_only_the_client_that_was_asked_for_is_read_and_nothing_is_left(world, scratch):
    before = sorted(Path(world.root / "nas").rglob("*"))
    with Loose(Place(str(world.root / "nas")), ("web1",)) as engine:
        assert [row.client for row in engine.catalog.dumps()] == ["web1"]
        assert engine.report.signers == engine.report.adopted == [world.signer.fingerprint]
        assert list(scratch.iterdir())
    assert list(scratch.iterdir()) == []
    assert sorted(Path(world.root / "nas").rglob("*")) == before


@pytest.mark.parametrize(
    ("client", "signers", "told"),
    [("web9", (), "has nothing of web9"), ("web1", ("0" * 64,), "no dump on nas is signed by")],
)
def test_a_refusal_leaves_nothing_either(world, scratch, client, signers, told):
    with pytest.raises(RequestError, match=told):
        Loose(Place(str(world.root / "nas"), signers=signers), (client,))
    assert list(scratch.iterdir()) == []


def test_a_client_whose_dumps_cannot_be_read_is_no_unknown_one(world, scratch):
    for path in (world.root / "nas" / "web2").rglob("manifest.json"):
        path.write_bytes(b"{}")
    with pytest.raises(NothingThatOld, match="holds no dump of web2 that can be read"):
        Loose(Place(str(world.root / "nas")), ("web2",))


def test_the_next_step_names_the_place_again(world, capsys):
    """Without a server `stowage find` knows nothing, and `stowage list` needs to be told where to look."""
    words = f" --from {world.root / 'nas'} --signer {world.signer.fingerprint}"
    assert cli.main(["list", "files", "web9:/etc", *words.split()]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "has nothing of web9" in last and last.endswith(f" -> stowage list dumps{words}")


@pytest.mark.parametrize(
    ("told", "hint"),
    [
        ("stowage find none   or   stowage list files web1:/etc", "stowage list files web1:/etc WORDS"),
        ("stowage list dumps --from s3://b/p", "stowage list dumps WORDS"),
        ("stowage list copies --client web1 --source etc", "stowage list copies --client web1 --source etc WORDS"),
        ("give one by --key FILE", "give one by --key FILE"),
        ("", ""),
    ],
)
def test_a_hint_without_a_server(told, hint):
    assert _place.hint(told, " WORDS") == hint

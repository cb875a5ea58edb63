"""Copies in an archive class (ministack, which needs seconds where AWS needs hours): restore, verify and drill.

A rule of the bucket put the parts there, as far as Stowage can tell: what is read before them stays awake.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from cli_lab import Server

from backupcore.app import restoring

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
import ministack  # noqa: E402
import s3proxy  # noqa: E402

BUCKET = "archive"
MIB = 1 << 20


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with ministack.running(folder) as answer, s3proxy.Proxy(answer["endpoint"]) as proxy:
        client = boto3.client(
            "s3", endpoint_url=answer["endpoint"], aws_access_key_id="test", aws_secret_access_key="test",
            region_name="us-east-1", config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        yield client, proxy, folder / "asleep"


class World:
    def __init__(self, base, s3):
        self.plain, self.proxy, self.asleep = s3
        self.base = base
        self.server = Server(base)
        keys = base / "credentials.json"
        keys.write_text('{"access_key": "test", "secret_key": "test"}')
        keys.chmod(0o600)
        price = {"read_gb": 0.09, "woken_gb": 100, "currency": "$"}
        self.options = {"type": "s3", "bucket": BUCKET, "endpoint": self.proxy.url, "addressing": "path",
                        "credentials": str(keys), "price": price}  # fmt: skip
        self.prefix = {name: f"{base.name}-{name}" for name in ("cold", "warm")}

    def night(self, *targets):
        """Both sources on these targets and nowhere else."""
        self.server.write(
            targets={name: {**self.options, "prefix": self.prefix[name]} for name in targets},
            policies={"standard": {"part_size": "16 MiB", "compress": "none", "keep_on_holding": 0}},
        )
        dice = random.Random(7)
        tree = self.base / "tree"
        tree.mkdir()
        (tree / "a-first").write_bytes(dice.randbytes(17 * MIB))
        (tree / "b-last").write_bytes(dice.randbytes(200_000))
        (self.base / "small").mkdir()
        (self.base / "small" / "file").write_bytes(b"small")
        self.server.client("web1", {"tree": tree, "small": self.base / "small"})
        self.server.stowage("run")
        assert not list((self.base / "holding").glob("web1/*/*"))

    def objects(self, target="cold"):
        """name of each part -> its key."""
        found = self.plain.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix[target] + "/").get("Contents", [])
        return [item["Key"] for item in found if "/image-" in item["Key"]]

    def freeze(self, target="cold", kind="GLACIER"):
        """What a lifecycle rule does."""
        for key in self.objects(target):
            self.plain.copy_object(
                Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": key}, StorageClass=kind
            )  # fmt: skip
        del self.proxy.requests[:]

    @contextlib.contextmanager
    def nothing_wakes(self):
        """However long the block takes."""
        self.asleep.touch()
        try:
            yield
        finally:
            self.asleep.unlink()

    def asked(self):
        """How many objects were asked for."""
        return sum(1 for row in self.proxy.requests if row[0] == "POST" and "restore" in row[1])


@pytest.fixture
def world(tmp_path, s3, monkeypatch):
    monkeypatch.setattr(restoring, "LOOK_FIRST", 0.5)
    world = World(tmp_path, s3)
    with contextlib.closing(world.server):
        yield world


def same(world, there):
    root = there / str(world.base / "tree").lstrip("/")
    return all((root / name).read_bytes() == (world.base / "tree" / name).read_bytes()
               for name in ("a-first", "b-last"))  # fmt: skip


def test_a_restore_asks_for_all_that_sleeps_once_and_the_same_command_goes_on(world, tmp_path):
    world.night("cold")
    assert len(world.objects()) == 3
    world.freeze()
    there = tmp_path / "there"
    words = ("restore", "web1", "tree", "--to", str(there))
    with world.nothing_wakes():
        _out, err = world.server.stowage(*words, status=1)
        assert world.asked() == 2 and not there.exists()
        world.server.stowage(*words, status=1)
    assert world.asked() == 2  # not a second time
    assert "asleep in an archive, asked for now: 2 files (18 MB) of target cold: GLACIER wakes in 3 to 5 hours" in err
    assert "waking them costs about $ 1.8" in err
    assert f"stowage restore web1 tree --to {there}   or   stowage restore web1 tree --to {there} --wait 24h" in err
    time.sleep(2.5)
    world.server.stowage(*words)
    assert same(world, there) and world.asked() == 2


def test_what_the_rule_of_transition_chooses_is_woken_and_all_else_stays_awake(world, tmp_path):
    world.options["transition"] = {"GLACIER": 30}
    world.night("cold")
    moved = []
    for item in world.plain.list_objects_v2(Bucket=BUCKET, Prefix=world.prefix["cold"] + "/")["Contents"]:
        where = {"Bucket": BUCKET, "Key": item["Key"]}
        tags = {one["Key"]: one["Value"] for one in world.plain.get_object_tagging(**where)["TagSet"]}
        if tags == {"stowage": "part"}:  # as the rule does after its days
            world.plain.copy_object(**where, CopySource=where, StorageClass="GLACIER")
            moved.append(item["Key"])
    del world.proxy.requests[:]
    big = [key for key in world.objects() if "/tree/" in key]
    assert moved == sorted(big) and len(big) == 2  # not the part of 200 bytes, no manifest, index or sums
    there = tmp_path / "there"
    _out, err = world.server.stowage("restore", "web1", "tree", "--to", str(there), status=1)
    assert "asleep in an archive, asked for now: 2 files" in err and world.asked() == 2
    time.sleep(2.5)
    world.server.stowage("restore", "web1", "tree", "--to", str(there))
    assert same(world, there)
    world.server.stowage("restore", "web1", "small", "--to", str(tmp_path / "small-there"))
    told = world.server.json("usage", status=0)
    assert told["prices"]["cold"] == "price:"


def test_only_the_parts_that_are_wanted_are_woken(world, tmp_path):
    world.night("cold")
    world.freeze()
    last = f"web1:{world.base}/tree/b-last"
    with world.nothing_wakes():
        answer = world.server.json("restore", last, "--to", str(tmp_path / "x"), status=1)
    assert answer["error"]["code"] == "asleep" and world.asked() == 1
    with world.server.start("restore", last, "--stdout", "--wait", "1 min") as process:
        assert process.communicate()[0] == (world.base / "tree" / "b-last").read_bytes()
    assert world.asked() == 1


def test_a_file_on_standard_output_is_asked_for_too(world):
    world.night("cold")
    world.freeze()
    with world.nothing_wakes():
        for name, asked in (("b-last", 1), ("a-first", 2)):
            with world.server.start("restore", f"web1:{world.base}/tree/{name}", "--stdout") as process:
                out, err = process.communicate()
            assert (process.returncode, out) == (1, b"") and b"asked for now" in err
            assert world.asked() == asked
    time.sleep(2.5)
    with world.server.start("restore", f"web1:{world.base}/tree/a-first", "--stdout") as process:
        assert process.communicate()[0] == (world.base / "tree" / "a-first").read_bytes()


def test_a_restore_waits_as_long_as_it_is_told_and_goes_on_by_itself(world, tmp_path):
    world.night("cold")
    world.freeze(kind="DEEP_ARCHIVE")
    there = tmp_path / "there"
    words = ("restore", "web1", "tree", "--to", str(there), "--wait")
    with world.nothing_wakes():
        _out, err = world.server.stowage(*words, "1 s", status=1)
    assert "DEEP_ARCHIVE wakes in up to 12 hours" in err
    begun = time.monotonic()
    world.server.stowage(*words, "60 s")
    assert same(world, there) and world.asked() == 2 and time.monotonic() - begun < 50
    _out, err = world.server.stowage("restore", "web1", "tree", "--to", str(there), "--wait", "soon", status=2)
    assert "is no duration" in err


def test_a_kill_while_it_waits_loses_nothing(world, tmp_path):
    world.night("cold")
    world.freeze()
    words = [sys.executable, "-c", "import sys; from backupcore.cli import main; sys.exit(main())", "--config",
             str(tmp_path / "stowage.yml"), "restore", "web1", "tree", "--to", str(tmp_path / "there"),
             "--wait", "1 h"]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
    deadline = time.monotonic() + 60
    while world.asked() < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    world.server.stowage("restore", "web1", "tree", "--to", str(tmp_path / "there"), "--wait", "1 min")
    assert same(world, tmp_path / "there") and world.asked() == 2


def test_a_copy_that_is_awake_is_read_and_nothing_is_woken(world, tmp_path):
    world.night("cold", "warm")
    world.freeze("cold")
    world.server.stowage("restore", "web1", "tree", "--to", str(tmp_path / "there"))
    assert same(world, tmp_path / "there") and world.asked() == 0
    # but where the operator names the place, that one is asked
    with world.nothing_wakes():
        out = world.server.json("restore", "web1", "tree", "--to", str(tmp_path / "x"), "--from", "cold", status=1)
    assert out["error"]["code"] == "asleep" and world.asked() == 2


def test_a_manifest_that_sleeps_is_woken_first_and_the_copy_is_not_called_damaged(world, tmp_path):
    world.night("cold")
    found = world.plain.list_objects_v2(Bucket=BUCKET, Prefix=world.prefix["cold"] + "/web1/tree/")["Contents"]
    for item in found:
        world.plain.copy_object(Bucket=BUCKET, Key=item["Key"], StorageClass="GLACIER",
                                CopySource={"Bucket": BUCKET, "Key": item["Key"]})  # fmt: skip
    with world.nothing_wakes():
        world.server.stowage("restore", "web1", "tree", "--to", str(tmp_path / "x"), status=1)
    world.server.stowage("restore", "web1", "tree", "--to", str(tmp_path / "there"), "--wait", "1 min")
    assert same(world, tmp_path / "there")
    listed = world.server.json("list", "copies")["copies"]
    assert {one["state"] for one in listed} == {"verified"}
    assert not any(one.get("damaged") for one in world.server.json("list", "dumps")["dumps"])


def test_verify_and_drill_pass_over_what_sleeps_and_say_so(world, tmp_path):
    world.night("cold", "warm")
    world.freeze("cold")
    answer = world.server.json("verify", "--full")
    states = {(one["place"], one["source"]): one["status"] for one in answer["results"]}
    assert {states["cold", name] for name in ("tree", "small")} == {"asleep"}
    assert {states["warm", name] for name in ("tree", "small")} == {"ok"}
    assert "2 copies sleep in an archive of target cold: not read" in answer["notes"] and answer["status"] == "ok"
    # a sample reads those that can be read, however long ago the others were
    for _ in range(3):
        answer = world.server.json("verify", "--sample", "40%")
        assert any(one["status"] == "ok" and one["bytes"] for one in answer["results"]), answer["results"]
    assert {one["status"] for one in world.server.json("verify", "--quick")["results"]} == {"ok"}
    answer = world.server.json("drill")
    assert {one["place"] for one in answer["results"]} == {"warm"} and answer["status"] == "ok"
    assert world.asked() == 0
    world.freeze("warm")
    answer = world.server.json("drill")
    assert answer["results"] == [] and len(answer["asleep"]) == 4
    out, _err = world.server.stowage("drill")
    assert "web1:tree on cold sleeps in an archive: passed over" in out
    assert json.dumps(answer["without"]) == "[]"

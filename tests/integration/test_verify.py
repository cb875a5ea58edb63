"""`stowage verify` end to end: real dumps on a holding disk, a folder and a bucket, harmed and made anew."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
import s3server
from botocore.config import Config
from cli_lab import Server

from backupcore import clock
from backupcore.catalog import places
from backupcore.catalog.records import ProofRow
from backupcore.catalog.store import Catalog

BUCKET = "verify"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with s3server.running(folder) as answer:
        client = boto3.client(
            "s3", endpoint_url=answer["endpoint"], aws_access_key_id=answer["access_key"], region_name="us-east-1",
            aws_secret_access_key=answer["secret_key"], config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        yield answer, client


class World:
    """A server with a nas and a cloud, and some dumps of one client at both."""

    def __init__(self, base, bucket, nights=1):
        self.server = Server(base)
        self.base, (answer, self.s3) = base, bucket
        keys = base / "credentials"
        keys.write_text(json.dumps({name: answer[name] for name in ("access_key", "secret_key")}))
        keys.chmod(0o600)
        self.prefix = base.name
        (base / "nas").mkdir()
        self.server.write(targets={
            "nas": {"type": "directory", "path": str(base / "nas")},
            "cloud": {"type": "s3", "bucket": BUCKET, "prefix": self.prefix, "endpoint": answer["endpoint"],
                      "addressing": "path", "credentials": str(keys), "part_size": "5 MiB"},
        })  # fmt: skip
        tree = base / "tree"
        (tree / "deep/er").mkdir(parents=True)
        randomly = random.Random(7)
        for number in range(40):
            (tree / f"f{number}").write_bytes(randomly.randbytes(randomly.randrange(20_000)))
        (tree / "deep/er/big").write_bytes(randomly.randbytes(6_000_000))
        os.link(tree / "f1", tree / "deep/hard")
        (tree / "soft").symlink_to("f1")
        self.server.client("web1", {"data": tree})
        for night in range(nights):
            (tree / f"night{night}").write_text(str(night))
            assert self.run("run").exit == 0

    def run(self, *words):
        """(exit, json, standard error) of a command."""
        status, out, err = self.server.told("--json", *words)
        assert status in (0, 1, 2), (out, err)
        return SimpleNamespace(exit=status, json=json.loads(out), err=err)

    def catalog(self):
        return Catalog(places.catalog_file(Path(self.server.config["state"])))

    def newest(self):
        with self.catalog() as catalog:
            return catalog.dumps()[-1]

    def states(self, dump):
        with self.catalog() as catalog:
            return {row.target: row.state for row in catalog.copies(dump=dump.id)}

    def on_nas(self, dump, name):
        return self.base / "nas/web1/data" / dump.id / name

    def flip_in_bucket(self, dump, name):
        key = f"{self.prefix}/web1/data/{dump.id}/{name}"
        content = bytearray(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        content[len(content) // 2] ^= 1
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=bytes(content))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def world(tmp_path, bucket):
    return World(tmp_path, bucket)


PART = "image-0000.tar.zst"


def test_all_is_good_and_remembered(world):
    for depth in ("--quick", "--full"):
        answer = world.run("verify", depth)
        assert answer.exit == 0 and answer.json["status"] == "ok", answer
        assert {(one["place"], one["status"]) for one in answer.json["results"]} == {
            ("holding", "ok"), ("nas", "ok"), ("cloud", "ok"),
        }  # fmt: skip
    stored = world.newest().stored_size
    assert all(one["bytes"] >= stored for one in answer.json["results"])
    with world.catalog() as catalog:
        proofs = catalog.proofs()
    assert {(one.place, one.kind) for one in proofs} == {
        (place, kind) for place in ("holding", "nas", "cloud") for kind in ("quick", "full")
    }  # fmt: skip
    assert all(one.ok for one in proofs)


@pytest.mark.parametrize("place", ["nas", "cloud", "holding"])
def test_what_rotted_is_found_marked_and_made_anew(world, place):
    dump = world.newest()
    right = Path(dump.holding, PART).read_bytes()
    if place == "cloud":
        world.flip_in_bucket(dump, PART)
    else:
        flip(world.on_nas(dump, PART) if place == "nas" else Path(dump.holding, PART))
    answer = world.run("verify", "--full", "--no-repair")
    assert answer.exit == 1
    (bad,) = [one for one in answer.json["results"] if one["status"] != "ok"]
    assert (bad["place"], bad["status"]) == (place, "damaged") and PART in bad["message"]
    assert world.states(dump)[place] == "damaged"
    listed = world.run("list", "copies").json["copies"]
    assert {one["target"]: one["state"] for one in listed}[place] == "damaged"
    report = world.run("report")
    assert report.json["headline"].startswith("FAIL")
    assert any(f"damaged: web1:data {dump.id} on {place}" in note for note in report.json["notes"])
    if place == "holding":
        restored = world.run("restore", "web1:" + str(world.base / "tree/f3"), "--plan")
        assert {one["place"] for one in restored.json["dumps"]} <= {"nas", "cloud"}
    answer = world.run("verify", "--full")
    assert answer.exit == 1  # what was damaged is said, also when it is made anew
    assert [(one["target"], one["ok"]) for one in answer.json["repaired"]] == [(place, True)]
    assert world.run("verify", "--full").exit == 0
    dump = world.newest()
    assert world.on_nas(dump, PART).read_bytes() == right == Path(dump.holding, PART).read_bytes()
    assert not dump.damaged


def test_the_quick_look_at_a_bucket_compares_the_checksums_it_keeps(world):
    dump = world.newest()
    world.flip_in_bucket(dump, "index.tsv.zst")
    answer = world.run("verify", "--quick", "--target", "cloud", "--no-repair")
    # a bucket that keeps no checksum of what another program put says nothing: then only --full finds it
    status = answer.json["results"][0]["status"]
    assert status in ("damaged", "ok")
    if status == "ok":
        assert any("no checksums" in note for note in answer.json["notes"])
    assert world.run("verify", "--full", "--target", "cloud", "--no-repair").exit == 1


@pytest.mark.parametrize("depth", ["--quick", "--full"])
def test_what_lies_beside_a_dump_is_named_with_its_path_and_no_damage(world, depth):
    dump = world.newest()
    world.on_nas(dump, "planted").write_text("x")
    (Path(dump.holding) / "keys-7.tsv").write_text("x")
    world.s3.put_object(Bucket=BUCKET, Key=f"{world.prefix}/web1/data/{dump.id}/sub/planted", Body=b"x")
    answer = world.run("verify", depth)
    assert answer.exit == 0 and answer.json["status"] == "warn" and not answer.json["repaired"]
    folder = f"web1/data/{dump.id}"
    assert {one.partition(": it is no part of the dump")[0] for one in answer.json["strays"]} == {
        f"on nas: {folder}/planted", f"on cloud: {folder}/sub/planted", f"on holding: {dump.holding}/keys-7.tsv",
    }  # fmt: skip
    assert set(world.states(dump).values()) == {"verified"}
    out, _err = world.server.stowage("verify", depth)
    assert f"WARN on nas: {folder}/planted: it is no part of the dump" in out
    assert world.server.stowage("verify", depth, "--strict", status=1)


def test_what_is_no_file_beside_a_dump_on_a_directory_is_named_too(world):
    """Links, folders, fifos and names that no target takes: list() of a target passes over all of them."""
    dump = world.newest()
    folder = world.on_nas(dump, "manifest.json").parent
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("/etc/shadow")
    (folder / "away").symlink_to("/etc")
    os.mkfifo(folder / "fifo")
    (folder / "two\nlines\\").write_text("x")
    with open(os.fsencode(folder) + b"/\xff\x1b[2J", "wb"):
        pass
    answer = world.run("verify", "--quick", "--target", "nas")
    assert answer.exit == 0 and answer.json["status"] == "warn" and not answer.json["repaired"]
    prefix = f"on nas: web1/data/{dump.id}/"
    found = {one.partition(": it is no part of the dump")[0] for one in answer.json["strays"]}
    names = ["empty/", "link", "away", "fifo", "two\nlines\\", "\udcff\x1b[2J"]
    assert found == {prefix + name for name in names}
    out, _err = world.server.stowage("verify", "--target", "nas")
    assert f"WARN {prefix}two\\x0alines\\: it is no part" in out and f"WARN {prefix}\\xff\\x1b[2J: it is no" in out
    assert world.states(dump)["nas"] == "verified"


def test_a_record_that_was_kept_elsewhere_contradicts_a_target_and_a_server_that_were_put_back(tmp_path, bucket):
    world = World(tmp_path, bucket)
    state, away = Path(world.server.config["state"]), tmp_path / "away"
    shutil.copytree(state, tmp_path / "older-state")
    (world.base / "tree/later").write_text("later")
    assert world.run("run").exit == 0
    dump = world.newest()
    away.mkdir()
    newest = max((state / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)  # by name: seconds
    record = shutil.copy(newest, away)
    shutil.copy(newest.with_suffix(".sig"), away)
    answer = world.run("verify", "--last-run", record)
    assert answer.exit == 0 and answer.json["rollbacks"] == []

    # the bucket is as it was a night ago; the catalog knows better, and so does the record
    folder = f"{world.prefix}/web1/data/{dump.id}/"
    objects = {}
    for one in world.s3.list_objects_v2(Bucket=BUCKET, Prefix=folder)["Contents"]:
        objects[one["Key"]] = world.s3.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read()
        world.s3.delete_object(Bucket=BUCKET, Key=one["Key"])
    answer = world.run("verify", "--last-run", record, "--no-repair", "--target", "cloud")
    (one,) = answer.json["rollbacks"]
    assert answer.exit == 1 and (one["place"], one["dump"]) == ("cloud", dump.id)
    assert f"knows {dump.id}, number 2, and cloud has nothing newer than" in one["message"]

    # the server is put back, too: nothing it knows says that anything is missing, only the record does
    shutil.move(state, tmp_path / "newer-state")
    shutil.copytree(tmp_path / "older-state", state)
    assert world.run("verify", "--target", "cloud").exit == 0
    answer = world.run("verify", "--last-run", record)
    assert answer.exit == 1
    assert {(one["place"], one["dump"]) for one in answer.json["rollbacks"]} == {
        ("catalog", dump.id), ("cloud", dump.id),
    }  # fmt: skip
    out, _err = world.server.stowage("verify", "--last-run", record, status=1)
    assert f"FAIL rollback of cloud: web1:data: the run {newest.stem} knows {dump.id}" in out

    # another dump under that name, rightly signed as it may be, is none either
    for key, content in objects.items():
        world.s3.put_object(Bucket=BUCKET, Key=key, Body=content)
    shutil.rmtree(state)
    shutil.move(tmp_path / "newer-state", state)
    forged = json.loads(newest.read_bytes())
    (made,) = forged["manifests"]
    made["manifest_sha256"] = "0" * 64
    from backupcore.image.manifest import Signer

    data = json.dumps(forged).encode()
    (away / "other.json").write_bytes(data)
    (away / "other.sig").write_bytes(Signer.load(state / "keys").sign(data))
    answer = world.run("verify", "--last-run", str(away / "other.json"))
    assert sorted(one["place"] for one in answer.json["rollbacks"]) == ["catalog", "cloud", "nas"]
    assert all("is another dump than the run" in one["message"] for one in answer.json["rollbacks"])


def test_a_record_that_nobody_known_signed_proves_nothing(world, tmp_path):
    state = Path(world.server.config["state"])
    (record,) = (state / "runs").glob("*.json")
    data = record.read_bytes()
    for name, content, signature in (
        ("edited", data.replace(b'"counter": 1', b'"counter": 2'), record.with_suffix(".sig").read_bytes()),
        ("unsigned", data, b"0" * 64),
    ):
        (tmp_path / f"{name}.json").write_bytes(content)
        (tmp_path / f"{name}.sig").write_bytes(signature)
        answer = world.run("verify", "--last-run", str(tmp_path / f"{name}.json"))
        assert answer.exit == 2 and "proves nothing" in answer.json["error"]["message"]
    assert world.run("verify", "--last-run", str(tmp_path / "none.json")).exit == 2
    assert world.run("verify", "--last-run", record.stem).exit == 2


def test_without_any_good_copy_the_next_run_makes_a_full(world):
    dump = world.newest()
    world.flip_in_bucket(dump, PART)
    flip(world.on_nas(dump, PART))
    flip(Path(dump.holding, PART))
    answer = world.run("verify", "--full")
    assert answer.exit == 1
    assert any("no good copy left" in problem for problem in answer.json["problems"])
    assert world.newest().damaged
    assert "damaged" in world.run("plan").json["sources"][0]["reason"]
    assert world.run("run").json["sources"][0]["level"] == 0


def test_what_is_right_of_the_last_damaged_copy_comes_back_when_its_place_is_named(world, tmp_path):
    dump, tree = world.newest(), world.base / "tree"
    content = bytearray(world.on_nas(dump, PART).read_bytes())
    content[-4096] ^= 1  # the end of the image, where deep/er/big ends
    world.on_nas(dump, PART).write_bytes(content)
    one = [f"web1:{tree}/f3", "--to", str(tmp_path / "one")]
    answer = world.run("verify", "--full", "--target", "nas", "--no-repair")
    assert answer.exit == 1 and world.states(dump)["nas"] == "damaged"
    # good ones are there: the damaged one is not read, named or not
    refused = world.run("restore", *one, "--from", "nas")
    assert refused.exit == 1 and "can all be read" in refused.json["error"]["message"]

    world.flip_in_bucket(dump, PART)
    flip(Path(dump.holding, PART))
    assert world.run("verify", "--full", "--no-repair").exit == 1
    assert world.newest().damaged and set(world.states(dump).values()) == {"damaged"}
    answer = world.run("restore", *one, "--from", "nas")
    assert answer.exit == 0 and answer.json["status"] == "warn"
    assert any(f"the last copy of {dump.id}, on nas, is damaged" in note for note in answer.json["notes"])
    assert (tmp_path / "one").joinpath(*tree.parts[1:], "f3").read_bytes() == (tree / "f3").read_bytes()
    # all of it: what is right comes back, what is not is named
    answer = world.run("restore", f"web1:{tree}", "--to", str(tmp_path / "all"), "--from", "nas")
    failed = [one["path"] for one in answer.json["failed"]]
    assert answer.exit == 1 and failed == [f"{tree}/deep/er/big"], answer.json
    for path in tree.rglob("f*"):
        back = (tmp_path / "all").joinpath(*path.parts[1:])
        assert back.read_bytes() == path.read_bytes()
    assert not (tmp_path / "all").joinpath(*tree.parts[1:], "deep/er/big").exists()
    # without a name it is never chosen, and no drill takes it
    world.run("drill", "--plan")
    shutil.rmtree(dump.holding)
    with world.catalog() as catalog:
        catalog.set_holding(dump.id, None)
    assert world.run("restore", *one[:1], "--to", str(tmp_path / "none")).exit == 1
    assert world.run("drill", "--plan").json["picks"] == []
    assert world.run("drill", "--target", "nas", "--plan").json["picks"] == []


def test_an_unmounted_holding_disk_is_no_damage_but_a_lost_folder_is(world):
    holding = world.base / "holding"
    holding.rename(world.base / "away")
    holding.mkdir()
    answer = world.run("verify")
    assert any("not mounted" in problem for problem in answer.json["problems"])
    assert "holding" not in world.states(world.newest())
    assert world.newest().holding
    holding.rmdir()
    (world.base / "away").rename(holding)
    dump = world.newest()
    for path in sorted(Path(dump.holding).iterdir()):
        path.unlink()
    Path(dump.holding).rmdir()
    answer = world.run("verify", "--target", "holding")
    assert "it is gone" in answer.json["results"][0]["message"]
    assert [(one["target"], one["ok"]) for one in answer.json["repaired"]] == [("holding", True)]
    assert world.run("verify", "--full", "--target", "holding").exit == 0


def test_a_full_that_was_killed_goes_on_with_what_it_had_not_read(world):
    with world.catalog() as catalog:
        run = catalog.begin_run("verify")
        catalog.add_proofs([ProofRow(world.newest().id, "nas", "full", True)])
        catalog.end_run(run.id, "FAIL", {"stopped": True})
    answer = world.run("verify", "--full")
    assert {one["place"] for one in answer.json["results"]} == {"holding", "cloud"}
    assert any("goes on with the verify of" in note for note in answer.json["notes"])
    assert len(world.run("verify", "--full").json["results"]) == 3


def test_a_sample_comes_round_and_a_night_takes_its_share(world):
    seen = set()
    for _turn in range(3):
        answer = world.run("verify", "--sample", "1%")
        assert answer.exit == 0
        (one,) = answer.json["results"]
        seen.add(one["place"])
    assert seen == {"holding", "nas", "cloud"}
    flip(world.on_nas(world.newest(), PART))
    old = clock.now_ns() - 3 * 86400 * clock.NS
    with world.catalog() as catalog:  # as if all this was days ago
        with catalog._write() as connection:
            connection.exec_driver_sql(f"UPDATE dumps SET ended_ns = {old}")
            connection.exec_driver_sql(f"UPDATE copies SET verified_ns = {old}")
            connection.exec_driver_sql(f"UPDATE proofs SET when_ns = {old} + number FROM (SELECT 1 AS number)")
            connection.exec_driver_sql(f"UPDATE proofs SET when_ns = {old - 5} WHERE place = 'nas'")
    answer = world.run("run")
    assert answer.exit == 1
    assert "damaged" in json.dumps(answer.json) and "made anew from a good copy" in json.dumps(answer.json)
    assert world.run("verify", "--full").exit == 0


def test_what_is_asked_for_must_be_there(world):
    for words in (("--client", "web9"), ("--dump", "nonsense"), ("--target", "nsa"), ("--sample", "x")):
        assert world.run("verify", *words).exit == 2


def test_what_somebody_hid_in_a_bucket_that_keeps_versions_is_brought_back(world, tmp_path):
    """The last copy of all, its files below delete markers: nothing is missing, and a person hears of it."""
    versioning = {"Status": "Enabled"}
    world.s3.create_bucket(Bucket="versions")
    world.s3.put_bucket_versioning(Bucket="versions", VersioningConfiguration=versioning)
    targets = {**world.server.config["targets"]}
    targets["cloud"] = {**targets["cloud"], "bucket": "versions"}
    world.server.write(targets=targets)
    tree = world.base / "tree"
    (tree / "only").write_text("here")
    assert world.run("run", "--level", "0").exit == 0
    dump = world.newest()
    shutil.rmtree(world.base / "nas/web1/data" / dump.id)
    shutil.rmtree(dump.holding)
    with world.catalog() as catalog:
        catalog.set_holding(dump.id, None)
    below = f"{world.prefix}/web1/data/{dump.id}/"
    keys = [item["Key"] for item in world.s3.list_objects_v2(Bucket="versions", Prefix=below)["Contents"]]
    for key in keys:
        world.s3.delete_object(Bucket="versions", Key=key)
    ask = ["verify", "--dump", dump.id]
    answer = world.run(*ask, "--no-repair")
    assert answer.exit == 1 and world.newest().damaged
    assert world.run("restore", f"web1:{tree}/only", "--to", str(tmp_path / "no")).exit
    answer = world.run(*ask)
    assert answer.exit == 1
    (told,) = [problem for problem in answer.json["problems"] if "hidden" in problem]
    assert f"{len(keys)} files of {dump.id} on cloud were hidden by delete markers" in told
    assert world.states(dump)["cloud"] == "done" and not world.newest().damaged
    assert world.run("verify", "--dump", dump.id, "--target", "cloud", "--full").exit == 0
    assert world.states(dump)["cloud"] == "verified"
    assert world.run("restore", f"web1:{tree}/only", "--to", str(tmp_path / "back")).exit == 0
    assert (tmp_path / "back").joinpath(*tree.parts[1:], "only").read_bytes() == (tree / "only").read_bytes()

"""Locks, holds and a night that cannot delete, on a real S3 server (Ceph's gateway) that is asked behind our back."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import s3server
from backupcore.hookspecs import TargetContext
from botocore.config import Config
from botocore.exceptions import ClientError
from cli_lab import Server
from s3_world import make_world, write_keys

from backupcore import clock
from backupcore.catalog import locked, marks
from backupcore.settings import CopyRule, PruneSettings
from backupcore.stage import locks
from backupcore.stage.prune import look, prune
from backupcore.stage.release import release
from backupcore.targets.s3 import S3Options, S3Target

LOCKED, VERSIONED = "locked", "versioned"
NIGHT = ["GetObject", "GetObjectVersion", "PutObject", "AbortMultipartUpload", "ListMultipartUploadParts",
         "GetObjectRetention", "PutObjectRetention", "GetObjectLegalHold", "PutObjectLegalHold", "ListBucket",
         "ListBucketVersions", "ListBucketMultipartUploads", "GetBucketVersioning",
         "GetBucketObjectLockConfiguration"]  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with s3server.running(folder) as answer:
        yield folder, answer


@pytest.fixture(scope="module")
def server(running):
    return running[1]


def client_of(server, access_key="", secret_key=""):
    return boto3.client(
        "s3", endpoint_url=server["endpoint"], region_name="us-east-1", config=Config(s3={"addressing_style": "path"}),
        aws_access_key_id=access_key or server["access_key"], aws_secret_access_key=secret_key or server["secret_key"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(server):
    client = client_of(server)
    client.create_bucket(Bucket="staging")
    client.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
    client.create_bucket(Bucket=VERSIONED)
    client.put_bucket_versioning(Bucket=VERSIONED, VersioningConfiguration={"Status": "Enabled"})
    return client


def world_of(tmp_path, server, **options):
    world = make_world(tmp_path, server, server["endpoint"], bucket=LOCKED, **options)
    world.settings = replace(world.settings, prune=PruneSettings(grace=0.0))
    return world


@pytest.fixture
def world(tmp_path, server, plain, request):
    world = world_of(tmp_path, server, lock_mode=getattr(request, "param", "compliance"))
    yield world
    world.opened["cloud"].close()
    world.catalog.close()


def objects(world, plain, dump=None, bucket=LOCKED):
    """(key, version) of all versions and markers of images, or of one dump."""
    prefix = world.settings.targets["cloud"].options["prefix"] + "/"
    found = []
    for page in plain.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        for one in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
            if "/.stowage/" not in one["Key"] and (dump is None or f"/{dump.id}/" in one["Key"]):
                found.append((one["Key"], one["VersionId"]))
    return found


def dates(world, plain, dump):
    """What the server says of each file of a dump: (until, mode)."""
    found = []
    for key, version in objects(world, plain, dump):
        kept = plain.get_object_retention(Bucket=LOCKED, Key=key, VersionId=version)["Retention"]
        found.append((kept["RetainUntilDate"].timestamp(), kept["Mode"]))
    assert len(found) == 8
    return set(found)


def now():
    return clock.now_ns()


def until(seconds, dump):
    """How long after a dump's begin it is that many seconds from now."""
    return time.time() + seconds - dump.begun_ns / clock.NS


def apply(world):
    return locks.apply(world.settings, world.catalog, world.opened.__getitem__, now())


def pruned(world, **more):
    return prune(world.settings, world.catalog, world.opened.__getitem__, now(), **more)


@pytest.mark.parametrize("world", ["governance", "compliance"], indirect=True)
def test_a_base_is_extended_with_its_manifest_when_a_dependent_comes(world, plain, request):
    mode = request.node.callspec.params["world"].upper()
    lock = until(600, world.dump())
    (full,) = world.catalog.dumps()
    world.policy(CopyRule("cloud", lock=lock))
    assert all(one.ok for one in world.stage())
    assert apply(world).problems == ()
    ((first, found),) = dates(world, plain, full)
    assert found == mode and abs(first - full.begun_ns / clock.NS - lock) < 2
    change = world.dump(level=1)
    assert all(one.ok for one in world.stage())
    assert set(apply(world).locked) == {(full.id, "cloud"), (change.id, "cloud")}
    assert dates(world, plain, full) == dates(world, plain, change)
    ((later, _mode),) = dates(world, plain, full)
    assert later == pytest.approx(first + 86400, abs=2)
    assert apply(world) == locks.Applied()


@pytest.mark.slow
def test_compliance_refuses_removal_till_the_date_and_prune_leaves_it_till_then(world, plain):
    dumps = [world.dump() for _ in range(3)]
    world.policy(CopyRule("cloud", keep={"last": 1}, lock=until(40, dumps[1])))
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    assert apply(world).problems == ()  # the first one's date is a day ago
    assert {name for name, _target in locked.known(world.catalog)} == {row.id for row in dumps[1:]}
    key, version = objects(world, plain, dumps[1])[0]
    with pytest.raises(ClientError):
        plain.delete_object(Bucket=LOCKED, Key=key, VersionId=version)
    with pytest.raises(ClientError):
        plain.delete_object(Bucket=LOCKED, Key=key, VersionId=version, BypassGovernanceRetention=True)
    pruned(world)
    done = pruned(world)
    assert done.removed == ((dumps[0].id, "cloud"),) and done.problems == ()
    told = {one.decision.dump.id: one.decision.reason for one in look(world.settings, world.catalog, now())}
    assert told[dumps[1].id].startswith("locked until ")
    assert objects(world, plain, dumps[0]) == [] and len(objects(world, plain, dumps[1])) == 8
    # a catalog that knows nothing of locks asks the server before it touches anything
    world.policy(CopyRule("cloud", keep={"last": 1}))
    locked.forget(world.catalog, dumps[1].id)
    pruned(world)
    done = pruned(world)
    assert done.removed == () and done.kept == ((dumps[1].id, "cloud"),)
    assert len(objects(world, plain, dumps[1])) == 8
    time.sleep(max(0.0, locked.known(world.catalog)[dumps[1].id, "cloud"].until_ns / clock.NS - time.time()) + 1.5)
    pruned(world)
    done = pruned(world)
    assert done.removed == ((dumps[1].id, "cloud"),) and done.problems == ()
    assert objects(world, plain, dumps[1]) == []


def test_a_hold_is_a_legal_hold_there_and_ends(world, plain):
    full, change = world.dump(), world.dump(level=1)
    assert all(one.ok for one in world.stage())
    marks.hold(world.catalog, marks.DUMP, change.id, "court")
    assert len(apply(world).held) == 2
    for dump in (full, change):
        for key, version in objects(world, plain, dump):
            held = plain.get_object_legal_hold(Bucket=LOCKED, Key=key, VersionId=version)["LegalHold"]
            assert held["Status"] == "ON"
            with pytest.raises(ClientError):
                plain.delete_object(Bucket=LOCKED, Key=key, VersionId=version)
    for row in (full, change):
        locked.forget(world.catalog, row.id)
    marks.release(world.catalog, marks.DUMP, change.id)
    assert locks.read_back(world.catalog, world.opened["cloud"], "cloud") == (0, 2)
    assert len(marks.held(world.catalog)) == 2
    for row in (full, change):
        marks.release(world.catalog, marks.DUMP, row.id)
    assert len(apply(world).released) == 2
    for key, version in objects(world, plain):
        plain.delete_object(Bucket=LOCKED, Key=key, VersionId=version)
    assert objects(world, plain) == []


def test_a_bucket_without_object_lock_is_named(tmp_path, server, plain):
    world = make_world(tmp_path, server, server["endpoint"], lock_mode="compliance")
    world.policy(CopyRule("cloud", lock=1e9))
    world.dump()
    assert all(one.ok for one in world.stage())
    (problem,) = apply(world).problems
    assert problem.startswith("target cloud cannot lock: 1 copies there")
    world.opened["cloud"].close()
    world.catalog.close()


@pytest.fixture
def whole(tmp_path, server):
    """The whole command, with a local client and the bucket that can be locked as its one target."""
    base = tmp_path / "server"
    base.mkdir()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("first")
    whole = Server(base)
    keys = write_keys(base / "keys.json", server)
    whole.cloud = {"type": "s3", "bucket": LOCKED, "prefix": tmp_path.name, "endpoint": server["endpoint"],
                   "addressing": "path", "credentials": str(keys), "lock_mode": "governance"}  # fmt: skip
    rule = {"target": "cloud", "keep": {"last": 1}, "lock": "2 days"}
    whole.write(
        targets={"cloud": whole.cloud}, prune={"grace": 0}, drill={"nightly": False},
        policies={"standard": {"copies": [rule], "keep_on_holding": 0}},
    )  # fmt: skip
    whole.client("web1", {"data": str(tmp_path / "tree")})
    yield whole
    whole.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")
def test_nights_that_lock_prune_hold_and_are_rebuilt(whole, plain, tmp_path):
    for level in (0, 1, 0):
        whole.stowage("run", "--level", level)
        time.sleep(1.05)  # a dump's name has whole seconds
    whole.stowage("prune")
    whole.stowage("prune")
    dumps = [one["dump"] for one in whole.json("list", "dumps")["dumps"]]
    assert len(dumps) == 3
    out = whole.stowage("prune", "--dry-run")[0]
    assert "locked until" in out and "OK   0 of 3 copies are past their keep" in out

    def kept():
        found = {}
        for one in plain.list_objects_v2(Bucket=LOCKED, Prefix=tmp_path.name + "/web1/")["Contents"]:
            retention = plain.get_object_retention(Bucket=LOCKED, Key=one["Key"])["Retention"]
            found.setdefault(one["Key"].split("/")[3], set()).add(retention["RetainUntilDate"])
        return {name: max(dates) for name, dates in found.items() if len(dates) == 1}

    before = kept()
    assert set(before) == set(dumps) and before[dumps[0]] == before[dumps[1]]
    whole.stowage("hold", dumps[1])
    (whole.base / "state").rename(whole.base / "lost")
    (whole.base / "state").mkdir()
    shutil.copytree(whole.base / "lost" / "keys", whole.base / "state" / "keys")
    out = whole.stowage("rebuild", "--from", "cloud")[0]
    assert "3 dumps are locked there" in out and "2 dumps are held there" in out
    assert {one["name"] for one in whole.json("hold")["held"]} == set(dumps[:2])
    assert "locked until" in whole.stowage("prune", "--dry-run")[0]
    assert whole.json("release", "web1", "--dumps")["at_targets"] == 2
    assert kept() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")
def test_a_night_whose_copies_are_not_locked_as_asked_fails(whole):
    whole.write(targets={"cloud": {**whole.cloud, "bucket": "staging"}})
    out = whole.stowage("run", status=1)[0]
    assert "lock: target cloud cannot lock: 1 copies there can be removed" in out
    assert "cannot lock" in whole.stowage("check", status=1)[0]
    whole.write(targets={"cloud": {**whole.cloud, "bucket": "staging", "lock_mode": None}})
    out = whole.stowage("run", status=1)[0]
    assert "cannot lock" in out
    # the report says so afterwards, too, until all is locked
    for words in (("report",), ("status",)):
        assert whole.stowage(*words, status=1)[0].startswith("FAIL lock: target cloud cannot lock")
    rule = {"target": "cloud", "keep": {"last": 1}}
    whole.write(policies={"standard": {"copies": [rule], "keep_on_holding": 0}})
    assert whole.stowage("status")[0].startswith("OK ")


@pytest.fixture
def night(running, plain, tmp_path, request):
    """A world whose credential may write and not delete; pruning has the owner's. request.param: the bucket."""
    folder, server = running
    bucket = request.param
    keys = {"access_key": "NIGHT", "secret_key": "night-secret"}
    (place,) = [path.parent for path in Path(folder).glob("*/s3.json")]
    admin = s3server.Server(place)
    if "night" not in admin.run("radosgw-admin", "user", "list", name="client.rgw.x"):
        admin.run("radosgw-admin", "user", "create", "--uid=night", "--display-name=night", "--access-key=NIGHT",
                  "--secret=night-secret", name="client.rgw.x")  # fmt: skip
    arn = f"arn:aws:s3:::{bucket}"
    plain.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/night"]},
         "Action": [f"s3:{one}" for one in NIGHT], "Resource": [arn, arn + "/*"]}]}))  # fmt: skip
    owner = tmp_path / "owner"
    owner.write_text(json.dumps({name: server[name] for name in ("access_key", "secret_key")}))
    owner.chmod(0o600)
    options = {"lock_mode": "compliance"} if bucket == LOCKED else {}
    world = make_world(tmp_path, {**server, **keys}, server["endpoint"], bucket=bucket,
                       delete_credentials=str(owner), **options)  # fmt: skip
    world.settings = replace(world.settings, prune=PruneSettings(grace=0.0))
    context = TargetContext("cloud", world.server, world.settings.state / "targets" / "cloud", pruning=True)
    world.removing = S3Target(S3Options(**world.settings.targets["cloud"].options), context)
    yield world
    world.opened["cloud"].close()
    world.removing.close()
    world.catalog.close()


@pytest.mark.parametrize("night", ["staging", VERSIONED, LOCKED], indirect=True)
def test_a_night_that_cannot_delete_works_and_pruning_with_its_own_credential_removes(night, plain, request):
    world, bucket = night, request.node.callspec.params["night"]
    world.policy(CopyRule("cloud", keep={"last": 1}))
    dumps = [world.dump(), world.dump(level=1), world.dump()]
    assert all(one.ok for one in world.stage()), world.stage()
    release(world.settings, world.catalog)
    with pytest.raises(ClientError) as refused:
        client_of({"endpoint": plain.meta.endpoint_url}, "NIGHT", "night-secret").delete_object(
            Bucket=bucket, Key=objects(world, plain, dumps[0], bucket)[0][0])  # fmt: skip
    assert refused.value.response["Error"]["Code"] == "AccessDenied"
    findings = list(world.opened["cloud"].probe())
    assert [one for one in findings if not one.ok] == []
    # it is prune's key that counts for what can be removed, not the night's
    assert not [one for one in findings if "only hidden" in one.message]
    (removed,) = [one for one in findings if one.name == "delete"]
    assert "by another key than the night's" in removed.message
    pruned(world)
    with_night = pruned(world)
    assert with_night.removed == () and len(with_night.problems) >= 1
    done = pruned(world, open_pruning=lambda _name: world.removing)
    assert {dump for dump, _target in done.removed} == {dumps[0].id, dumps[1].id} and done.problems == ()
    left = objects(world, plain, None, bucket)
    assert len(left) == 8 and all(f"/{dumps[2].id}/" in key for key, _version in left)
    assert {row.id for row in world.catalog.dumps()} == {dumps[2].id}


@pytest.mark.parametrize("night", [VERSIONED], indirect=True)
@pytest.mark.parametrize(("fault", "told"), (
    ("missing", "cannot read the credentials of target cloud: No such file or directory"),
    ("secret", "the secret key is wrong"),
    ("night", "access denied"),
))  # fmt: skip
def test_a_key_that_may_not_delete_is_told_by_check_before_prune_needs_it(night, tmp_path, fault, told):
    keys = tmp_path / "owner"
    given = json.loads(keys.read_text())
    if fault == "missing":
        keys.unlink()
    elif fault == "secret":
        keys.write_text(json.dumps({**given, "secret_key": "x"}))
    else:
        keys.write_text(json.dumps({"access_key": "NIGHT", "secret_key": "night-secret"}))
    (said,) = [one for one in night.opened["cloud"].probe() if one.name == "delete"]
    assert not said.ok and said.message.startswith("the key that may delete: ") and told in said.message and said.hint

"""Making buckets at servers that differ: Ceph's gateway, ministack and moto; each thing is read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import boto3
import pytest
from backupcore.hookspecs import Making, TargetContext
from botocore.config import Config
from moto.server import ThreadedMotoServer

from backupcore.targets.s3 import DRIVER

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
import ministack  # noqa: E402
import s3server  # noqa: E402

ALL = Making(lock=True, versions=True, encryption="AES256", abort_days=3, old_days=30)


@pytest.fixture(scope="module", params=("radosgw", "ministack", "moto"))
def place(request, tmp_path_factory):
    """(name, plain client, make(bucket, making, **options) -> findings by name)."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "moto":
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield _of(request.param, {"endpoint": f"http://{host}:{port}", "access_key": "a", "secret_key": "s"}, folder)
        server.stop()
        return
    with {"radosgw": s3server, "ministack": ministack}[request.param].running(folder / "run") as answer:
        yield _of(request.param, answer, folder)


def _of(name, answer, folder):
    keys = folder / "keys"
    keys.write_text(json.dumps({key: answer[key] for key in ("access_key", "secret_key")}))
    keys.chmod(0o600)
    plain = boto3.client(
        "s3", endpoint_url=answer["endpoint"], aws_access_key_id=answer["access_key"], region_name="us-east-1",
        aws_secret_access_key=answer["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip

    def make(bucket, making, **more):
        given = {"prefix": "prod", "endpoint": answer["endpoint"], "credentials": keys, "addressing": "path", **more}
        options = DRIVER.options(bucket=bucket, **given)
        context = TargetContext("cloud", "0123456789abcdef", folder / "state")
        return {one.name: one for one in DRIVER.make(options, context, making)}

    return name, plain, make


def test_a_bucket_is_made_as_wanted_once(place):
    name, plain, make = place
    told = make("made", Making(look=True, **{key: value for key, value in vars(ALL).items() if key != "look"}))
    assert list(told) == ["bucket"] and told["bucket"].changed
    assert "made" not in [one["Name"] for one in plain.list_buckets()["Buckets"]]

    told = make("made", ALL)
    refused = [one for one in told.values() if not one.ok]
    if name == "radosgw":  # Ceph 16 has no default encryption, and says so
        (one,) = refused
        assert one.name == "encryption" and "cannot set encryption" in one.message and "encrypt:" in one.hint
    else:
        assert not refused
    assert set(told) == {"bucket", "versions", "lock", "public access", "encryption", "lifecycle"}
    assert plain.get_bucket_versioning(Bucket="made")["Status"] == "Enabled"
    lock = plain.get_object_lock_configuration(Bucket="made")["ObjectLockConfiguration"]
    assert lock["ObjectLockEnabled"] == "Enabled" and not lock.get("Rule")
    rules = {rule["ID"]: rule for rule in plain.get_bucket_lifecycle_configuration(Bucket="made")["Rules"]}
    aborts = rules["stowage prod unfinished uploads"]["AbortIncompleteMultipartUpload"]
    assert aborts["DaysAfterInitiation"] == 3
    assert rules["stowage prod older versions"]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30

    again = make("made", ALL)
    assert [one.name for one in again.values() if not one.ok] == [one.name for one in refused]
    assert not any(one.changed for one in again.values()), again


def test_public_access_is_blocked_or_it_is_said_that_nobody_can(place):
    name, plain, make = place
    told = make("closed", Making())["public access"]
    assert told.ok and told.changed
    plain.put_object(Bucket="closed", Key="x", Body=b"x")  # what was closed is closed to others only
    kept = plain.get_public_access_block(Bucket="closed")["PublicAccessBlockConfiguration"]
    if name == "radosgw":  # with BlockPublicAcls Ceph 16 refuses every file
        assert told.warning and "BlockPublicAcls" in told.message
        assert kept.pop("BlockPublicAcls") is False
    else:
        assert not told.warning
    assert len(kept) >= 3 and all(kept.values())
    assert [one["Key"] for one in plain.list_objects_v2(Bucket="closed")["Contents"]] == ["x"]
    again = make("closed", Making())["public access"]
    assert again.ok and not again.changed and again.warning == told.warning
    assert not make("closed", Making(look=True))["public access"].changed


def test_rules_of_others_stay(place):
    _name, plain, make = place
    plain.create_bucket(Bucket="rules")
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 9}}
    plain.put_bucket_lifecycle_configuration(Bucket="rules", LifecycleConfiguration={"Rules": [theirs]})
    told = make("rules", Making(abort_days=5, private=False))
    assert told["bucket"].changed is False and told["lifecycle"].changed
    told = make("rules", Making(abort_days=6, private=False))
    assert told["lifecycle"].ok and told["lifecycle"].changed
    rules = {rule["ID"]: rule for rule in plain.get_bucket_lifecycle_configuration(Bucket="rules")["Rules"]}
    assert set(rules) == {"theirs", "stowage prod unfinished uploads"}
    assert rules["theirs"]["Expiration"] == {"Days": 9}
    told = make("rules", Making(abort_days=8, private=False, look=True))
    assert told["lifecycle"].changed
    assert rules == {one["ID"]: one for one in plain.get_bucket_lifecycle_configuration(Bucket="rules")["Rules"]}


MOVES = {"STANDARD_IA": 30, "GLACIER": 90}


def rules_of(plain, bucket):
    return {rule["ID"]: rule for rule in plain.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}


def test_a_rule_moves_parts_to_other_classes_beside_those_of_others(place):
    _name, plain, make = place
    plain.create_bucket(Bucket="moves")
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"},
              "Transitions": [{"Days": 40, "StorageClass": "GLACIER"}]}  # fmt: skip
    plain.put_bucket_lifecycle_configuration(Bucket="moves", LifecycleConfiguration={"Rules": [theirs]})
    only = Making(abort_days=0, private=False)
    looked = make("moves", Making(abort_days=0, private=False, look=True), transition=MOVES)["lifecycle"]
    assert looked.ok and looked.changed and list(rules_of(plain, "moves")) == ["theirs"]
    told = make("moves", only, transition=MOVES)["lifecycle"]
    assert told.ok and told.changed, told
    assert told.message == "parts of images move to STANDARD_IA after 30 days, to GLACIER after 90 days"
    rules = rules_of(plain, "moves")
    assert set(rules) == {"theirs", "stowage prod parts"} and rules["theirs"]["Transitions"] == theirs["Transitions"]
    steps = rules["stowage prod parts"]["Transitions"]
    assert {(one["StorageClass"], one["Days"]) for one in steps} == {("STANDARD_IA", 30), ("GLACIER", 90)}
    again = make("moves", only, transition=MOVES)["lifecycle"]
    assert again.ok and not again.changed
    # another wish takes the place of the rule of ours, and with the days of the rest both are there
    told = make("moves", Making(abort_days=4, private=False), transition={"GLACIER": 31})["lifecycle"]
    assert told.ok and told.changed
    rules = rules_of(plain, "moves")
    assert set(rules) == {"theirs", "stowage prod parts", "stowage prod unfinished uploads"}
    (transition,) = rules["stowage prod parts"]["Transitions"]
    assert (transition["StorageClass"], transition["Days"]) == ("GLACIER", 31)
    told = make("moves", only)  # nobody asks for it any more: nothing is taken away
    assert "lifecycle" not in told and set(rules_of(plain, "moves")) == set(rules)


def test_the_rule_of_a_bucket_without_a_prefix_takes_parts_alone_too(place):
    _name, plain, make = place
    told = make("bare", Making(abort_days=0), transition={"GLACIER": 1}, prefix="")["lifecycle"]
    assert told.ok and told.changed
    chosen = rules_of(plain, "bare")["stowage parts"]["Filter"]
    tag = {"Key": "stowage", "Value": "part"}
    assert tag in (chosen.get("Tag"), *chosen.get("And", {}).get("Tags", ()))
    assert not make("bare", Making(abort_days=0), transition={"GLACIER": 1}, prefix="")["lifecycle"].changed


def test_a_class_that_a_server_does_not_know_is_refused_with_the_next_step(place):
    name, plain, make = place
    if name == "ministack":
        return  # it takes any
    plain.create_bucket(Bucket="unknown")
    told = make("unknown", Making(abort_days=0, private=False), transition={"FROZEN": 30})["lifecycle"]
    assert not told.ok and "refuses the storage class FROZEN" in told.message and "transition:" in told.hint
    assert not plain.list_objects_v2(Bucket="unknown").get("Contents")
    with pytest.raises(plain.exceptions.ClientError, match="NoSuchLifecycleConfiguration"):
        rules_of(plain, "unknown")  # Ceph and moto would take such a rule, and then move nothing


def test_a_lock_on_an_old_bucket_is_set_or_refused_with_the_next_step(place):
    _name, plain, make = place
    plain.create_bucket(Bucket="old")
    told = make("old", Making(lock=True, private=False))["lock"]
    if told.ok:
        lock = plain.get_object_lock_configuration(Bucket="old")["ObjectLockConfiguration"]
        assert lock["ObjectLockEnabled"] == "Enabled"
    else:
        assert "make a new one" in told.hint


def test_a_region_that_a_server_does_not_know_is_no_hindrance(place):
    _name, plain, make = place
    told = make("regional", Making(), region="eu-central-1")
    assert told["bucket"].ok and "regional" in [one["Name"] for one in plain.list_buckets()["Buckets"]]


def test_wrong_keys_are_told(place, tmp_path):
    name, _plain, make = place
    if name != "radosgw":
        return  # the others take any
    keys = tmp_path / "keys"
    keys.write_text('{"access_key": "NOBODY", "secret_key": "x"}')
    keys.chmod(0o600)
    options = {"bucket": "made", "endpoint": _plain.meta.endpoint_url, "credentials": keys, "addressing": "path"}
    context = TargetContext("cloud", "0123456789abcdef", tmp_path)
    (told,) = DRIVER.make(DRIVER.options(**options), context, Making())
    assert not told.ok and "access key is unknown" in told.message

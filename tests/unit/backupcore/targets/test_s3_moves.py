"""`transition` of an S3 target: what may be asked for, the rule that it becomes, and what a month costs with it."""

from __future__ import annotations

import boto3
import pytest
from backupcore.hookspecs import Making
from botocore.stub import Stubber
from pydantic import ValidationError

from backupcore.cost import aws
from backupcore.targets import _s3_bucket, _s3_moves
from backupcore.targets._s3_client import S3Options
from backupcore.targets._s3_kept import arguments, tag_set, tagged
from backupcore.targets._s3_spent import tariff

PART = "web/etc/20261123T010000Z-L0-0123abcd/image-0000.tar.zst"


@pytest.mark.parametrize(("given", "told"), (
    ({"transition": {"STANDARD_IA": 29}}, "after 30 days at the earliest"),
    ({"transition": {"ONEZONE_IA": 1}}, "after 30 days at the earliest"),
    ({"transition": {"STANDARD_IA": 30, "GLACIER": 59}}, "GLACIER after 60 or more"),
    ({"transition": {"GLACIER": 30, "STANDARD_IA": 90}}, "nothing from GLACIER to STANDARD_IA"),
    ({"transition": {"GLACIER_IR": 30}, "storage_class": "DEEP_ARCHIVE"}, "nothing from DEEP_ARCHIVE to GLACIER_IR"),
    ({"transition": {"STANDARD": 30}}, "nothing from STANDARD to STANDARD"),
    ({"transition": {"COLD": 30}}, "AWS knows no storage class COLD"),
    ({"transition": {"COLD": 30}, "endpoint": "https://s3.eu-west-1.amazonaws.com"}, "AWS knows no storage class COLD"),
    ({"transition": {"glacier": 30}}, "is no storage class"),
    ({"transition": {"GLACIER": 0}}, "write 1 to 36500"),
    ({"transition": {"GLACIER": "30 d"}}, "transition"),
    ({"transition": {"GLACIER": 30, "DEEP_ARCHIVE": 30}}, "two classes after the same days"),
    ({"transition": {"GLACIER": 30}, "tags": {"stowage": "x"}}, "needs the tag 'stowage' for itself"),
    ({"transition": {"GLACIER": 30}, "tags": {str(one): "" for one in range(10)}}, "needs the tag"),
))  # fmt: skip
def test_what_no_bucket_would_do_is_refused_with_the_reason(given, told):
    with pytest.raises(ValidationError) as caught:
        S3Options(bucket="unit", **given)
    assert told in str(caught.value)


@pytest.mark.parametrize("given", (
    {"transition": {"DEEP_ARCHIVE": 180, "STANDARD_IA": 30}},
    {"transition": {"GLACIER": "7"}},
    {"transition": {"GLACIER": 1}, "storage_class": "STANDARD_IA"},
    {"transition": {"COLD": 1}, "endpoint": "http://ceph.example:8000"},
))  # fmt: skip
def test_what_a_bucket_does_is_taken_the_earliest_first(given):
    found = S3Options(bucket="unit", **given).transition
    assert list(found.values()) == sorted(int(days) for days in given["transition"].values())


def test_parts_alone_have_the_tag_beside_those_of_the_user():
    options = S3Options(bucket="unit", transition={"GLACIER": 30}, tags={"owner": "it"})
    assert arguments(options, PART, None)["Tagging"] == arguments(options, PART, 1 << 20)["Tagging"] == \
        "owner=it&stowage=part"  # fmt: skip
    assert tag_set(options, PART, 1 << 20) == [{"Key": "owner", "Value": "it"}, {"Key": "stowage", "Value": "part"}]
    for name, size in ((PART, 1000), (PART.replace("image-0000.tar.zst", "index.tsv.zst"), 1 << 30),
                       (PART.replace("image-0000.tar.zst", "manifest.json"), 1 << 20)):  # fmt: skip
        assert arguments(options, name, size)["Tagging"] == "owner=it"
        assert tag_set(options, name, size) == [{"Key": "owner", "Value": "it"}]
    assert "Tagging" not in arguments(S3Options(bucket="unit"), PART, 1 << 20)
    assert tagged(options) == {"Tagging": "owner=it&stowage=part"}  # what a proof tries


WANTED = _s3_moves.rule("stowage p parts", "p/", {"STANDARD_IA": 30, "GLACIER": 90})
TAG = {"Key": "stowage", "Value": "part"}


@pytest.mark.parametrize(("change", "same"), (
    ({}, True),
    # AWS answers sizes that nobody asked for
    ({"Filter": {"And": {"Prefix": "p/", "Tags": [TAG], "ObjectSizeGreaterThan": 0}}}, True),
    ({"Transitions": list(reversed(WANTED["Transitions"]))}, True),
    ({"Status": "Disabled"}, False),
    ({"Filter": {"And": {"Prefix": "q/", "Tags": [TAG]}}}, False),
    ({"Filter": {"Prefix": "p/"}}, False),  # the server forgot the tag: it would move what is read first
    ({"Filter": {"And": {"Prefix": "p/", "Tags": [TAG], "ObjectSizeGreaterThan": 1 << 30}}}, False),
    ({"Transitions": WANTED["Transitions"][:1]}, False),
    ({"Transitions": []}, False),
))  # fmt: skip
def test_a_rule_is_compared_with_what_was_wanted_however_a_server_writes_it(change, same):
    assert _s3_moves.does({**WANTED, **change}, WANTED) is same
    assert not _s3_moves.does(None, WANTED)


def test_what_others_set_for_the_bucket_is_put_back_in_the_form_that_aws_takes():
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")
    options = S3Options(bucket="unit", prefix="p", transition={"GLACIER": 30})
    wanted = _s3_moves.rule("stowage p parts", "p/", {"GLACIER": 30})
    old = {"ID": "old", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 9}}  # of before 2016
    smallest = {"TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    new = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 9}}
    with Stubber(client) as stub:
        stub.add_response("list_objects_v2", {})
        for _time in range(2):
            stub.add_response("get_bucket_lifecycle_configuration", {"Rules": [old], **smallest})
        stub.add_response("put_bucket_lifecycle_configuration", {}, {
            "Bucket": "unit", "LifecycleConfiguration": {"Rules": [new, wanted]}, **smallest,
        })  # fmt: skip
        stub.add_response("get_bucket_lifecycle_configuration", {"Rules": [new, wanted], **smallest})
        steps = list(_s3_bucket._Bucket(client, options, Making(private=False, abort_days=0)).steps())
        stub.assert_no_pending_responses()
    assert [(one.name, one.ok, one.changed) for one in steps] == [("bucket", True, False), ("lifecycle", True, True)]


def test_a_month_is_reckoned_as_if_nothing_moved_and_says_so():
    options = {"bucket": "unit", "region": "us-east-1", "restore_tier": "Bulk"}
    plain = aws.listed(tariff(options))
    moved = aws.listed(tariff({**options, "transition": {"STANDARD_IA": 30, "DEEP_ARCHIVE": 180}}))
    assert moved.listed == f"{plain.listed}, as if nothing moved to STANDARD_IA+DEEP_ARCHIVE"
    assert moved.storage_gb == plain.storage_gb
    assert (plain.woken_gb, moved.woken_gb) == (0.0, 0.0025)  # what sleeps by then is woken at that price
    assert tariff({**options, "endpoint": "http://ceph.example:8000"}) == ""

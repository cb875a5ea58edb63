"""A rule of the bucket moves parts of images to another storage class, and nothing else; what a server lacks is told.

At Ceph's gateway, whose own lifecycle moves them (a day is a second there), and at ministack.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import boto3
import ministack
import pytest
import s3proxy
import s3server
from backupcore.hookspecs import Making, TargetContext
from botocore.config import Config

from backupcore.targets.s3 import DRIVER, S3Target

MIB = 1 << 20
DUMP = "web/etc/20261123T010000Z-L0-0123abcd/"
PARTS = [DUMP + "image-0000.tar.zst", DUMP + "image-0001.tar.zst", DUMP + "image-0002.tar.zst"]
SMALL, MANIFEST, INDEX = DUMP + "image-0003.tar.zst", DUMP + "manifest.json", DUMP + "index.tsv.zst"
MARK = {"stowage": "part"}
RULES = Making(private=False, abort_days=0)


class Place:
    def __init__(self, name, answer, folder):
        self.name, self.answer, self.folder = name, answer, folder
        self.plain = boto3.client(
            "s3", endpoint_url=answer["endpoint"], aws_access_key_id=answer["access_key"], region_name="us-east-1",
            aws_secret_access_key=answer["secret_key"], config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        self.keys = folder / "keys"
        self.keys.write_text(json.dumps({key: answer[key] for key in ("access_key", "secret_key")}))
        self.keys.chmod(0o600)

    def options(self, bucket, **more):
        given = {"prefix": "prod", "endpoint": self.answer["endpoint"], "credentials": self.keys, "addressing": "path",
                 "part_size": 5 * MIB, **more}  # fmt: skip
        return DRIVER.options(bucket=bucket, **given)

    def context(self, bucket, server="0123456789abcdef"):
        return TargetContext("cloud", server, self.folder / "state" / bucket)

    def make(self, bucket, making=RULES, **more):
        return {one.name: one for one in DRIVER.make(self.options(bucket, **more), self.context(bucket), making)}

    @contextlib.contextmanager
    def open(self, bucket, **more):
        target = S3Target(self.options(bucket, **more), self.context(bucket))
        try:
            yield target
        finally:
            target.close()

    def tags(self, bucket, name):
        found = self.plain.get_object_tagging(Bucket=bucket, Key="prod/" + name).get("TagSet", ())
        return {one["Key"]: one["Value"] for one in found}

    def classes(self, bucket):
        found = self.plain.list_objects_v2(Bucket=bucket, Prefix="prod/" + DUMP).get("Contents", ())
        return {item["Key"].removeprefix("prod/"): item.get("StorageClass", "STANDARD") for item in found}


@pytest.fixture(scope="module", params=("radosgw", "ministack"))
def place(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with {"radosgw": s3server, "ministack": ministack}[request.param].running(folder / "run") as answer:
        yield Place(request.param, answer, folder)


def told(target):
    return {one.name: one for one in target.probe()}["transition"]


def put_all(target, tmp_path):
    """A dump with parts in upload parts, in one request, by a stream, small; and what is read before them."""
    big, mean, small = (tmp_path / name for name in ("big", "mean", "small"))
    for path, size in ((big, 11 * MIB), (mean, MIB), (small, 1000)):
        path.write_bytes(os.urandom(size))
    for name, path in ((PARTS[0], big), (PARTS[1], mean), (SMALL, small), (INDEX, big), (MANIFEST, mean)):
        target.put(name, path)
    stream = target.stream(PARTS[2])
    content = mean.read_bytes()
    stream.write(content)
    stream.finish(sha256=hashlib.sha256(content).hexdigest())
    return big.read_bytes()


def test_parts_alone_have_the_tag_and_check_says_what_is_missing(place, tmp_path):
    place.plain.create_bucket(Bucket="tagged")
    moves = {"transition": {"GLACIER": 30}, "tags": {"owner": "it"}}
    with place.open("tagged", **moves) as target:
        said = told(target)
        assert said.ok and said.warning and "no rule of bucket tagged says that parts of images move" in said.message
        put_all(target, tmp_path)
        found = {name: place.tags("tagged", name) for name in (*PARTS, SMALL, INDEX, MANIFEST)}
        assert found == {name: {"owner": "it", **(MARK if name in PARTS else {})} for name in found}
        made = place.make("tagged", **moves)["lifecycle"]
        assert made.ok and made.changed
        said = told(target)
        assert said.ok and not said.warning and said.message == "parts of images move to GLACIER after 30 days"
    with place.open("tagged", **{**moves, "transition": {"GLACIER": 31}}) as target:
        assert told(target).warning  # the bucket has a rule, another one
    if place.name == "radosgw":
        assert not [key for key in place.plain.list_objects_v2(Bucket="tagged")["Contents"] if "probe" in key["Key"]]


def test_what_the_service_copies_by_itself_has_the_tag_too(place, tmp_path):
    for bucket in ("from-here", "to-there"):
        place.plain.create_bucket(Bucket=bucket)
    with place.open("from-here") as one, place.open("to-there", transition={"GLACIER": 30}) as other:
        content = put_all(one, tmp_path)
        digest = hashlib.sha256(content).hexdigest()
        assert place.tags("from-here", PARTS[0]) == {}
        for name in (PARTS[0], INDEX):
            assert other.copy_from(one, name, size=len(content), sha256=digest) is not None
        assert place.tags("to-there", PARTS[0]) == MARK and place.tags("to-there", INDEX) == {}


def test_what_the_service_copies_in_the_clear_goes_by_way_of_this_machine(place, tmp_path, monkeypatch):
    if place.name != "ministack":
        return  # Ceph has no encryption of its own here
    for bucket in ("clear-one", "clear-two"):
        place.plain.create_bucket(Bucket=bucket)
    with place.open("clear-one") as one, place.open("clear-two", sse="AES256") as other:
        content = put_all(one, tmp_path)
        digest = hashlib.sha256(content).hexdigest()
        assert other.copy_from(one, INDEX, size=len(content), sha256=digest) is not None
        assert place.plain.head_object(Bucket="clear-two", Key="prod/" + INDEX)["ServerSideEncryption"] == "AES256"

        def forgotten(params, **_more):  # a service that reads no such header of copies
            params["headers"].pop("x-amz-server-side-encryption", None)

        other.client().meta.events.register("before-call.s3.CopyObject", forgotten)
        assert other.copy_from(one, PARTS[0], size=len(content), sha256=digest) is None
        assert other.stat(PARTS[0]) is None


def test_the_rule_moves_parts_and_leaves_awake_what_is_read_first(place, tmp_path):
    if place.name != "radosgw":
        return  # ministack keeps rules and does nothing by them
    place.plain.create_bucket(Bucket="aging")
    moves = {"transition": {"STANDARD_IA": 1}}
    assert place.make("aging", **moves)["lifecycle"].ok
    with place.open("aging", **moves) as target:
        content = put_all(target, tmp_path)
        assert set(place.classes("aging").values()) == {"STANDARD"}
        server = s3server.Server(next(Path(place.folder / "run").glob("*/ceph.conf")).parent)
        deadline = time.monotonic() + 90
        while True:  # each object has to be two of its days old
            server.run("radosgw-admin", "lc", "process", "--rgw-lc-debug-interval=1", name="client.rgw.x")
            found = place.classes("aging")
            if list(found.values()).count("STANDARD_IA") >= len(PARTS) or time.monotonic() > deadline:
                break
            time.sleep(1)
        assert found == {name: "STANDARD_IA" if name in PARTS else "STANDARD" for name in found} and len(found) == 6
        assert b"".join(target.read(PARTS[0])) == content


def test_a_server_that_keeps_no_tags_is_told_since_no_rule_could_choose(place):
    place.plain.create_bucket(Bucket="no-tags")
    with s3proxy.Proxy(place.answer["endpoint"]) as proxy:
        proxy.fault = lambda method, path: s3proxy.Answer(403) if path.endswith("?tagging") else None
        with place.open("no-tags", endpoint=proxy.url, transition={"GLACIER": 30}) as target:
            said = told(target)
    assert not said.ok and "does not keep tags" in said.message and "leave transition: away" in said.hint


def test_a_server_that_forgets_the_rule_or_knows_none_is_refused(place):
    place.plain.create_bucket(Bucket="forgets")
    with s3proxy.Proxy(place.answer["endpoint"]) as proxy:
        more = {"endpoint": proxy.url, "transition": {"GLACIER": 30}}

        def asked(method, path):
            return "lifecycle" in path and method

        proxy.fault = lambda method, path: s3proxy.Answer(200) if asked(method, path) == "PUT" else None
        said = place.make("forgets", **more)["lifecycle"]
        assert not said.ok and "did not keep it" in said.message
        proxy.fault = lambda method, path: s3proxy.error(501, "NotImplemented") if asked(method, path) else None
        said = place.make("forgets", **more)["lifecycle"]
        assert not said.ok and said.message == "the server knows no lifecycle of buckets"
        with place.open("forgets", **more) as target:
            assert not told(target).ok
        proxy.fault = lambda method, path: s3proxy.error(403, "AccessDenied") if asked(method, path) else None
        with place.open("forgets", **more) as target:
            said = told(target)
            assert said.ok and said.warning and said.hint == "allow s3:GetLifecycleConfiguration"

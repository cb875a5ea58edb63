"""The S3 target against moto, which keeps what it is told and checks nothing; a real server is in tests/integration."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gc
import hashlib
import json
import mmap
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import boto3
import pytest
from backupcore.hookspecs import TargetContext, TargetError, WrongDigest
from moto.server import ThreadedMotoServer
from pydantic import ValidationError

from backupcore.targets import _s3_kept, _s3_memory, _s3_upload, s3
from backupcore.targets._s3_client import S3Options, read_credentials
from backupcore.targets.s3 import S3Target
from backupcore.testing.targets import TargetConformance

MIB = 1 << 20
SERVER = "0123456789abcdef"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def client(endpoint):
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )


@pytest.fixture
def plain(client):
    """A plain boto3 client with an empty bucket `unit`."""
    client.create_bucket(Bucket="unit")
    yield client
    for upload in client.list_multipart_uploads(Bucket="unit").get("Uploads", ()):
        client.abort_multipart_upload(Bucket="unit", Key=upload["Key"], UploadId=upload["UploadId"])
    for item in client.list_objects_v2(Bucket="unit").get("Contents", ()):
        client.delete_object(Bucket="unit", Key=item["Key"])
    client.delete_bucket(Bucket="unit")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "credentials"
    path.write_text('{"access_key": "AKIDEXAMPLE", "secret_key": "secret"}')
    path.chmod(0o600)
    return path


@pytest.fixture
def opened(endpoint, plain, keys, tmp_path):
    """opened(**options) -> a target; all are closed at the end."""
    targets = []

    def make(**options):
        given = {"bucket": "unit", "prefix": "prod", "endpoint": endpoint, "credentials": keys, "part_size": 5 * MIB}
        target = S3Target(S3Options(**{**given, **options}), TargetContext("cloud", SERVER, tmp_path / "state"))
        targets.append(target)
        return target

    yield make
    for target in targets:
        target.close()


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "local"
    path.write_bytes(os.urandom(12 * MIB))
    return path


@pytest.fixture(scope="module")
def shared(endpoint, client, keys, tmp_path_factory):
    """One target for the whole suite: finding the facts and making a client take a while."""
    options = S3Options(bucket="unit", prefix="prod", endpoint=endpoint, credentials=keys, part_size=5 * MIB)
    client.create_bucket(Bucket="unit")
    target = S3Target(options, TargetContext("cloud", SERVER, tmp_path_factory.mktemp("state")))
    target.facts()
    yield target
    target.close()


class TestS3(TargetConformance):
    big = 11 * MIB
    driver = s3.DRIVER

    @pytest.fixture
    def target(self, shared, plain):
        return shared

    @pytest.fixture
    def plant(self, plain):
        def put(name, content):
            try:
                key = name.decode("utf-8")
            except UnicodeDecodeError:
                pytest.skip("keys are UTF-8 by the protocol")
            if "\n" in key:
                pytest.skip("moto takes no such key")
            plain.put_object(Bucket="unit", Key=f"prod/{key}", Body=content)

        return put

    @pytest.fixture
    def again(self, shared):
        context = TargetContext("cloud", SERVER, shared.folder, pruning=True)
        return lambda: S3Target(shared.options, context)


def uploads(plain):
    found = plain.list_multipart_uploads(Bucket="unit").get("Uploads", ())
    return [(upload["Key"], upload["UploadId"]) for upload in found]


def test_everything_lies_below_the_prefix(opened, plain, local):
    opened().put("client/file", local)
    assert [item["Key"] for item in plain.list_objects_v2(Bucket="unit")["Contents"]] == ["prod/client/file"]
    plain.put_object(Bucket="unit", Key="production/other", Body=b"x")
    plain.put_object(Bucket="unit", Key="other", Body=b"x")
    assert [found.name for found in opened().list()] == ["client/file"]


def test_a_big_file_is_sent_in_upload_parts_with_its_storage_class(opened, plain, local):
    opened(storage_class="STANDARD_IA").put("image-0000.tar.zst", local)
    head = plain.head_object(Bucket="unit", Key="prod/image-0000.tar.zst")
    assert head["ETag"].endswith('-3"')
    assert head["StorageClass"] == "STANDARD_IA"


def test_a_place_that_stores_damaged_bytes_proves_nothing(opened, local):
    target = opened()
    assert not target.put("x", local).proven
    assert not target.capabilities.own_checksums
    assert any(finding.name == "checksums" and finding.warning for finding in target.probe())


def test_what_was_found_is_kept_for_a_week_and_for_this_place_only(opened, tmp_path):
    facts = opened().facts()
    assert opened().facts() == facts
    assert opened(prefix="other").facts() != facts
    path = tmp_path / "state/facts.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "seen_ns": time.time_ns() - 8 * 86400 * 10**9}))
    assert opened(prefix="other").facts().seen_ns > found["seen_ns"]
    path.write_text("garbage")
    assert opened().facts().seen_ns > found["seen_ns"]


def test_that_a_place_kept_no_lock_is_asked_again_each_night(opened, tmp_path):
    path = tmp_path / "state/facts.json"
    found = dataclasses.asdict(opened().facts())
    day_old = {**found, "seen_ns": time.time_ns() - 86400 * 10**9}
    path.write_text(json.dumps(day_old))
    assert opened().facts().seen_ns == day_old["seen_ns"]
    path.write_text(json.dumps({**day_old, "unlocked": "it answered 503"}))
    assert opened().facts().seen_ns > found["seen_ns"]


class Killed(BaseException):
    """Stands for a kill -9: nothing of ours runs after it."""


@pytest.fixture
def cut(opened, local):
    """A target and the state after an upload was cut when two of three upload parts were there."""
    states = []

    def checkpoint(state):
        states.append(state)
        if state["parts"] == 2:
            raise Killed

    target = opened(parallel=1)
    with pytest.raises(Killed):
        target.put("x", local, checkpoint=checkpoint)
    return target, states[-1]


def test_a_cut_upload_sends_only_what_is_missing(cut, plain, local, opened):
    _target, state = cut
    ((key, upload),) = uploads(plain)
    before = {part["PartNumber"]: part["LastModified"] for part in list_parts(plain, key, upload)}
    assert len(before) >= 2
    sent = []
    target = opened()
    target.client().meta.events.register("before-send.s3.UploadPart", lambda request, **_kw: sent.append(request.url))
    progress = []
    target.put("x", local, resume=state, progress=progress.append)
    assert len(sent) == 3 - len(before)
    assert sum(progress) == 12 * MIB
    assert b"".join(target.read("x")) == local.read_bytes()
    assert uploads(plain) == []


def list_parts(plain, key, upload):
    return plain.list_parts(Bucket="unit", Key=key, UploadId=upload)["Parts"]


def test_a_cut_upload_of_another_content_is_not_used(cut, local):
    target, state = cut
    content = os.urandom(12 * MIB)
    local.write_bytes(content)
    target.put("x", local, resume=state)
    assert b"".join(target.read("x")) == content


def test_a_cut_upload_keeps_its_part_size_when_the_option_changed(cut, plain, local, opened):
    _target, state = cut
    opened(part_size=6 * MIB).put("x", local, resume=state)
    assert plain.head_object(Bucket="unit", Key="prod/x")["ETag"].endswith('-3"')
    assert b"".join(opened().read("x")) == local.read_bytes()


def test_clean_ends_only_own_and_old_uploads_below_the_prefix(cut, plain, opened):
    target, _state = cut
    foreign = plain.create_multipart_upload(Bucket="unit", Key="prod/of/another/server")["UploadId"]
    assert target.clean(time.time_ns() - 3600 * 10**9) == 0
    assert len(uploads(plain)) == 2
    assert opened(prefix="elsewhere").foreign_uploads(time.time_ns()) == 0
    assert target.foreign_uploads(time.time_ns() + 10**9) == 1
    assert target.clean(time.time_ns() + 10**9) == 1
    assert uploads(plain) == [("prod/of/another/server", foreign)]
    assert target.clean(time.time_ns() + 10**9) == 0


def test_clean_survives_notes_that_are_garbage(opened, tmp_path):
    notes = tmp_path / "state/uploads"
    notes.mkdir(parents=True)
    for index, content in enumerate(["", "[]", "7", '{"bucket": "unit"}', '{"bucket": "unit", "key": 7, "upload": 1}']):
        (notes / f"{index}.json").write_text(content)
    assert opened().clean(time.time_ns() + 10**9) == 0
    assert list(notes.iterdir()) == []


def test_without_checkpoint_a_failed_put_leaves_no_upload(opened, plain, local):
    def stop(_count):
        raise Killed

    with pytest.raises(Killed):
        opened().put("x", local, progress=stop)
    assert uploads(plain) == []


def test_a_wrong_digest_leaves_no_upload(opened, plain, local):
    with pytest.raises(WrongDigest):
        opened().put("x", local, sha256=hashlib.sha256(b"other").hexdigest(), checkpoint=lambda state: None)
    assert uploads(plain) == []


def test_a_completion_whose_answer_was_lost_is_found_out(opened, local):
    target = opened()
    client = target.client()
    complete = client.complete_multipart_upload

    def lost(**arguments):
        complete(**arguments)
        return complete(**arguments)  # the retry of a request that had done its work

    client.complete_multipart_upload = lost
    target.put("x", local)
    assert b"".join(target.read("x")) == local.read_bytes()


@pytest.mark.parametrize("fails", ["", "reading", "sending"])
def test_memory_is_bounded_used_again_and_all_given_back(opened, plain, tmp_path, monkeypatch, fails):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(61 * MIB))
    made, real = [], mmap.mmap

    def make(fd, size):
        assert size <= 5 * MIB
        buffer = real(fd, size)
        made.append(weakref.ref(buffer))
        return buffer

    monkeypatch.setattr(_s3_memory.mmap, "mmap", make)
    target = opened(parallel=2)
    target.facts()

    def refuse(request, **_more):
        if "partNumber=5" in request.url:
            raise OSError("the wire is cut")

    if fails == "sending":
        target.client().meta.events.register("before-send.s3.UploadPart", refuse)
    sha256 = hashlib.sha256(b"" if fails == "reading" else path.read_bytes()).hexdigest()
    with pytest.raises(TargetError) if fails else contextlib.nullcontext():
        target.put("x", path, sha256=sha256)
    assert 1 <= len(made) <= 3  # two being sent, one read
    gc.collect()  # a traceback may hold one until now
    assert all(one() is None or one().closed for one in made)
    assert all(target.room.acquire(blocking=False) for _ in range(3))
    if not fails:
        assert b"".join(target.read("x")) == path.read_bytes()


@pytest.mark.parametrize(
    "size, wanted, expected",
    [
        (1, 16 * MIB, 16 * MIB),
        (10_000 * 16 * MIB, 16 * MIB, 16 * MIB),
        (10_000 * 16 * MIB + 1, 16 * MIB, 17 * MIB),
        (5 << 40, 16 * MIB, 525 * MIB),
    ],
)
def test_upload_parts_grow_so_that_10_000_are_enough(size, wanted, expected):
    assert _s3_upload.part_size_for(size, wanted) == expected
    assert -(-size // expected) <= 10_000


def test_a_file_too_big_for_s3_is_refused():
    with pytest.raises(TargetError, match="more than S3 takes"):
        _s3_upload.part_size_for(60 << 40, 16 * MIB)


# -- options and credentials


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": "a/b"},
        {"bucket": "unit", "prefix": "../x"},
        {"bucket": "unit", "prefix": "a//b"},
        {"bucket": "unit", "part_size": "4 MiB"},
        {"bucket": "unit", "part_size": "6 GiB"},
        {"bucket": "unit", "part_size": "many"},
        {"bucket": "unit", "parallel": 0},
        {"bucket": "unit", "endpoint": "s3.example.org"},
        {"bucket": "unit", "addressing": "dns"},
        {"bucket": "unit", "secret_key": "never here"},
        {"bucket": "unit", "sse": "AES128"},
        {"bucket": "unit", "kms_key": "k"},
        {"bucket": "unit", "sse": "AES256", "kms_key": "k"},
        {"bucket": "unit", "sse": "aws:kms", "kms_key": "two words"},
        {"bucket": "unit", "sse": "aws:kms:dsse", "bucket_key": True},
        {"bucket": "unit", "lock_mode": "none"},
        {"bucket": "unit", "storage_class": "standard_ia"},
        {"bucket": "unit", "tags": {str(index): "" for index in range(11)}},
        {"bucket": "unit", "tags": {"": "x"}},
        {"bucket": "unit", "tags": {"k" * 129: "x"}},
        {"bucket": "unit", "tags": {"k": "v" * 257}},
        {"bucket": "unit", "tags": {"k": "a&b"}},
        {"bucket": "unit", "tags": {"a;b": ""}},
        {"bucket": "unit", "tags": {"k": "two\nlines"}},
        {"bucket": "unit", "tags": {"AWS:k": ""}},
        {},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        S3Options(**wrong)


def test_tags_within_the_limits_are_taken():
    tags = {**{str(index): "v" * 256 for index in range(8)}, "k" * 128: "a+b-c=d._:/@ e", "größe": "日本"}
    assert S3Options(bucket="unit", tags=tags).tags == tags


@pytest.mark.parametrize(
    "name, size, expected",
    [
        ("a/b/c/image-0000.tar.zst", None, True),
        ("a/b/c/image-0000.tar.zst.enc", 128 << 10, True),
        ("a/b/c/image-0012.pgdump.gz", 1 << 30, True),
        ("a/b/c/image-0000.tar.zst", (128 << 10) - 1, False),
        ("a/b/c/index.tsv.zst.enc", 1 << 30, False),
        ("a/b/c/frames.tsv.zst", 1 << 30, False),
        ("a/b/c/manifest.json", 1 << 20, False),
        ("a/b/c/manifest.sig", 64, False),
        ("a/b/c/keys-2.tsv", 1 << 20, False),
        (".stowage/0123456789abcdef", 1 << 20, False),
    ],
)
def test_only_parts_of_an_image_get_the_storage_class(name, size, expected):
    options = S3Options(bucket="unit", storage_class="DEEP_ARCHIVE", sse="AES256", tags={"a b": "c+d/é"})
    found = _s3_kept.arguments(options, name, size)
    assert (found.pop("StorageClass", None) == "DEEP_ARCHIVE") == expected
    assert found == {"ServerSideEncryption": "AES256", "Tagging": "a%20b=c%2Bd%2F%C3%A9"}


def test_a_whole_is_proven_by_checksums_where_tags_are_no_md5():
    class Told:
        whole, facts = "", type("Facts", (), {"part_checked": True})

    given = [base64.b64encode(hashlib.sha256(part).digest()).decode() for part in (b"a", b"b")]
    parts = [_s3_upload.Part(number, f'"{number:032x}"', sha256) for number, sha256 in enumerate(given, 1)]
    joined = hashlib.sha256(hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()).digest()
    entry, proven = {"ETag": '"' + "0" * 32 + '-2"'}, _s3_upload.Upload.is_proven
    assert not proven(Told, entry, parts)
    Told.whole = base64.b64encode(joined).decode() + "-2"
    assert proven(Told, entry, parts)
    assert not proven(Told, entry, parts[::-1])
    assert not proven(Told, entry, [part._replace(sha256="") for part in parts])
    Told.whole = ""
    assert not proven(Told, entry, [part._replace(sha256="") for part in parts])


def test_part_size_may_be_written_for_people():
    assert S3Options(bucket="unit", part_size="64 MiB").part_size == 64 * MIB


GOOD = {"access_key": "A", "secret_key": "S%1"}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(GOOD),
        json.dumps({"cloud": GOOD, "other": {}}),
        "access_key = A\nsecret_key = S%1\n",
        "[cloud]\naccess_key = A\nsecret_key = S%1\n[default]\naccess_key=no\nsecret_key=no",
        "[default]\naws_access_key_id = A\naws_secret_access_key = S%1\n",
    ],
)
def test_credentials_as_json_and_ini(tmp_path, content):
    path = tmp_path / "c"
    path.write_text(content)
    path.chmod(0o600)
    found = read_credentials(path, "cloud")
    assert (found["access_key"], found["secret_key"]) == ("A", "S%1")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_credentials_that_others_can_read_are_refused(tmp_path, mode):
    path = tmp_path / "c"
    path.write_text(json.dumps(GOOD))
    path.chmod(mode)
    with pytest.raises(TargetError, match="read by others") as error:
        read_credentials(path, "cloud")
    assert error.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("content", ["", "{", "[]", "[x", "access_key = A", '{"cloud": 5}', "\x00"])
def test_credentials_that_are_none_are_refused_and_not_shown(tmp_path, content):
    path = tmp_path / "c"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(TargetError) as error:
        read_credentials(path, "cloud")
    assert "\n" not in error.value.message


def test_missing_credentials_are_told(opened, tmp_path):
    with pytest.raises(TargetError, match="cannot read the credentials of target cloud"):
        opened(credentials=tmp_path / "none").stat("x")


# -- errors of the place


def test_a_missing_bucket_is_told_by_every_method(opened, local):
    target = opened(bucket="nowhere")
    for action in (
        lambda: target.put("x", local),
        lambda: target.stat("x"),
        lambda: list(target.list()),
        lambda: b"".join(target.read("x")),
        lambda: target.capabilities,
    ):
        with pytest.raises(TargetError, match="there is no such bucket") as error:
            action()
        assert "bucket" in error.value.hint
        assert not error.value.retry
    (finding,) = target.probe()
    assert not finding.ok


def test_no_connection_is_told(opened, monkeypatch):
    monkeypatch.setattr("backupcore.targets._s3_client.ATTEMPTS", 1)
    with pytest.raises(TargetError, match="no connection") as error:
        opened(endpoint="http://127.0.0.1:1").stat("x")
    assert error.value.retry


def test_an_unknown_profile_is_told(endpoint, tmp_path):
    options = S3Options(bucket="unit", endpoint=endpoint, profile="no-such-profile")
    with pytest.raises(TargetError, match="no-such-profile"):
        S3Target(options, TargetContext("cloud", SERVER, Path(tmp_path))).stat("x")


def test_no_credentials_at_all_are_told(endpoint, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(TargetError, match="no credentials") as error:
        S3Target(S3Options(bucket="unit", endpoint=endpoint), TargetContext("cloud", SERVER, tmp_path)).stat("x")
    assert "credentials: FILE" in error.value.hint


def test_a_missing_certificate_file_is_told(opened, tmp_path):
    with pytest.raises(TargetError, match="certificate file"):
        opened(ca=tmp_path / "none").stat("x")


def test_boto3_is_not_loaded_before_it_is_used():
    code = (
        "import sys; from backupcore.targets import stowage_targets; stowage_targets();"
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[4]).returncode == 0

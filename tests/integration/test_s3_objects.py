"""What objects of an S3 target have besides their bytes: locks, versions, encryption, tags, classes; on real servers.

Ceph's gateway for locks, versions, tags and classes; ministack for what that lacks: encryption, checksums it keeps, and
a bucket whose own retention passes over files in upload parts.
"""

from __future__ import annotations

import json
import os
import re
import time
from datetime import datetime, timedelta, timezone

import boto3
import ministack
import pytest
import s3proxy
import s3server
from backupcore.hookspecs import TargetContext, TargetError
from botocore.config import Config
from botocore.paginate import Paginator

from backupcore.targets import s3
from backupcore.targets.s3 import S3Options, S3Target
from backupcore.testing.targets import TargetConformance

MIB = 1 << 20
NS = 10**9
SERVER = "0123456789abcdef"
PART = "web/etc/20261123T010000Z-L0-0123abcd/image-0000.tar.zst"
MANIFEST = "web/etc/20261123T010000Z-L0-0123abcd/manifest.json"


class Place:
    """A server, a plain client, and targets at it."""

    def __init__(self, answer, folder):
        self.answer, self.folder = answer, folder
        self.plain = self.client(answer["endpoint"])
        self.keys = folder / "keys.json"
        self.keys.write_text(json.dumps({key: answer[key] for key in ("access_key", "secret_key")}))
        self.keys.chmod(0o600)
        self.count = 0

    def client(self, endpoint):
        return boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=self.answer["access_key"], region_name="us-east-1",
            aws_secret_access_key=self.answer["secret_key"], config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def bucket(self, locks=False, versions=False, retention=None):
        self.count += 1
        name = f"bucket{self.count}"
        self.plain.create_bucket(Bucket=name, **({"ObjectLockEnabledForBucket": True} if locks else {}))
        if versions:
            self.plain.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        if retention:
            rule = {"DefaultRetention": {"Mode": retention, "Days": 1}}
            asked = {"ObjectLockEnabled": "Enabled", "Rule": rule}
            self.plain.put_object_lock_configuration(Bucket=name, ObjectLockConfiguration=asked)
        return name

    def target(self, bucket, endpoint=None, **more):
        self.count += 1
        given = {"bucket": bucket, "prefix": "prod", "endpoint": endpoint or self.answer["endpoint"],
                 "addressing": "path", "credentials": self.keys, "part_size": 5 * MIB}  # fmt: skip
        context = TargetContext("cloud", SERVER, self.folder / f"state{self.count}")
        return S3Target(S3Options(**{**given, **more}), context)

    def versions(self, bucket, prefix="prod/"):
        found = self.plain.list_object_versions(Bucket=bucket, Prefix=prefix)
        return [(one["Key"], kind) for kind in ("Versions", "DeleteMarkers") for one in found.get(kind, ())]


@pytest.fixture(scope="module")
def ceph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ceph")
    with s3server.running(folder / "server") as answer:
        yield Place(answer, folder)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    with ministack.running(folder / "server") as answer:
        yield Place(answer, folder)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(os.urandom(1000))
    return path


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom(11 * MIB))
    return path


@pytest.fixture(scope="module")
def guarded(ceph):
    """A target that locks in governance mode."""
    target = ceph.target(ceph.bucket(locks=True), lock_mode="governance")
    target.facts()
    yield target
    target.close()


def soon(seconds=3600.0):
    return time.time_ns() + int(seconds * NS)


def findings(target):
    return {one.name: one for one in target.probe()}


# -- locks


class TestLocking(TargetConformance):
    """The suite in a bucket with Object Lock, and so with versions."""

    big = 6 * MIB
    driver = s3.DRIVER

    @pytest.fixture
    def target(self, guarded):
        yield guarded
        for found in list(guarded.list()):
            guarded.client().delete_object(Bucket=guarded.bucket, Key=guarded.prefix + found.name)


@pytest.mark.parametrize("kind", ["small", "big"])
def test_a_locked_file_says_so_and_stays(guarded, kind, request):
    name = f"lock/{kind}"
    guarded.put(name, request.getfixturevalue(kind))
    until = soon() // NS * NS + 1
    found = guarded.lock(name, until)
    assert until <= found.until_ns < until + NS and found.mode == "governance" and not found.held
    assert guarded.locked(name) == found
    with pytest.raises(TargetError, match=r"locked in .* until 20\d\d-.*\(governance\)"):
        guarded.delete(name)
    assert guarded.stat(name).size == request.getfixturevalue(kind).stat().st_size


def test_a_lock_is_made_longer_and_never_shorter(guarded, small):
    guarded.put("longer", small)
    first = guarded.lock("longer", soon(3600))
    assert guarded.lock("longer", soon(60)) == first
    second = guarded.lock("longer", soon(7200))
    assert second.until_ns > first.until_ns
    assert guarded.locked("longer") == second


def test_governance_becomes_compliance_and_never_the_other_way(ceph, guarded, small):
    strict = ceph.target(guarded.bucket, lock_mode="compliance")
    guarded.put("stricter", small)
    before = guarded.lock("stricter", soon(40))
    after = strict.lock("stricter", soon(20))
    assert (after.mode, after.until_ns) == ("compliance", before.until_ns)
    longer = guarded.lock("stricter", soon(60))
    assert longer.mode == "compliance" and longer.until_ns > before.until_ns
    strict.close()


def test_a_legal_hold_holds_until_it_is_released(guarded, small):
    guarded.put("held", small)
    assert guarded.legal_hold("held", True).held
    assert guarded.locked("held").held
    with pytest.raises(TargetError, match="legal hold"):
        guarded.delete("held")
    assert not guarded.legal_hold("held", False).held
    guarded.delete("held")
    assert guarded.stat("held") is None


def test_what_is_not_there_cannot_be_locked(guarded):
    for action in (lambda: guarded.lock("nothing", soon()), lambda: guarded.locked("nothing")):
        with pytest.raises(TargetError, match="not there"):
            action()


@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_a_probe_proves_the_lock_and_leaves_no_version(ceph, mode):
    bucket = ceph.bucket(locks=True)
    target = ceph.target(bucket, lock_mode=mode)
    found = findings(target)
    assert found["lock"].ok and mode in found["lock"].message
    assert target.capabilities.lock
    assert all(one.ok for one in found.values())
    assert ceph.versions(bucket) == []
    target.close()


@pytest.mark.parametrize("other", [False, True])
def test_a_lock_is_tried_by_the_key_that_may_remove(mini, tmp_path, other):
    """The night's key may not remove: what it is refused proves nothing, unless prune's key tries."""
    keys = tmp_path / "prune.json"
    keys.write_text('{"access_key": "prune", "secret_key": "x"}')
    keys.chmod(0o600)
    refusal = s3proxy.error(403, "AccessDenied")
    bucket = mini.bucket(locks=True)
    with s3proxy.Proxy(mini.answer["endpoint"]) as proxy:
        proxy.judge = lambda method, path, headers: (
            refusal
            if method == "DELETE" and "uploadId" not in path and "=prune/" not in headers.get("Authorization", "")
            else None
        )
        more = {"delete_credentials": keys} if other else {}
        target = mini.target(bucket, proxy.url, lock_mode="governance", **more)
        found = findings(target)["lock"]
        assert found.ok and target.capabilities.lock
        assert found.warning is not other and ("was not removed" in found.message) is other
        if other:
            assert mini.versions(bucket) == []
            assert "another key" in findings(target)["delete"].message
        target.close()


@pytest.mark.parametrize("versions", [False, True])
def test_a_bucket_without_object_lock_is_refused(ceph, small, versions):
    target = ceph.target(ceph.bucket(versions=versions), lock_mode="governance")
    assert not target.capabilities.lock
    assert not findings(target)["lock"].ok
    target.put("x", small)
    with pytest.raises(TargetError, match="no Object Lock"):
        target.lock("x", soon())
    target.close()


def test_without_lock_mode_nothing_is_locked(ceph, guarded, small):
    target = ceph.target(guarded.bucket)
    target.put("unlocked", small)
    assert not target.capabilities.lock
    with pytest.raises(TargetError, match="lock_mode"):
        target.lock("unlocked", soon())
    target.close()


RETENTION = "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>"


def test_a_server_that_takes_locks_and_forgets_them_is_refused(ceph, guarded, small):
    guarded.put("forgotten", small)
    with s3proxy.Proxy(ceph.answer["endpoint"]) as proxy:
        target = ceph.target(guarded.bucket, proxy.url, lock_mode="governance")
        target._known = guarded.facts()
        proxy.fault = lambda method, path: s3proxy.Answer(200) if method == "PUT" and "retention" in path else None
        with pytest.raises(TargetError, match="did not keep the lock .* there is none"):
            target.lock("forgotten", soon())
        assert not target.facts(anew=True).lock
        assert "did not keep" in findings(target)["lock"].message
        target.close()


def test_a_server_that_keeps_locks_and_removes_all_the_same_is_refused(ceph):
    until = (datetime.now(timezone.utc) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def lying(method, path):
        if "retention" not in path:
            return None
        return s3proxy.Answer(200, b"" if method == "PUT" else RETENTION.format(until).encode())

    with s3proxy.Proxy(ceph.answer["endpoint"]) as proxy:
        proxy.fault = lying
        target = ceph.target(ceph.bucket(locks=True), proxy.url, lock_mode="governance")
        assert not target.capabilities.lock
        assert "removes it all the same" in target.facts().unlocked
        target.close()


def test_the_retention_of_the_bucket_itself_is_told(ceph, small):
    bucket = ceph.bucket(locks=True, retention="GOVERNANCE")
    target = ceph.target(bucket)
    found = findings(target)
    assert "governance for 1 day" in found["default lock"].message and found["default lock"].warning
    assert found["delete"].ok and found["delete"].warning and "locked" in found["delete"].message
    assert [one.name for one in target.list()] == []
    target.put("x", small)
    with pytest.raises(TargetError, match="locked in"):
        target.delete("x")
    assert target.stat("x") is not None
    target.close()


def test_a_retention_of_the_bucket_that_passes_over_upload_parts_is_told_and_lock_does_not(mini, small, big):
    target = mini.target(mini.bucket(locks=True, retention="GOVERNANCE"), lock_mode="governance")
    found = [one for one in target.probe() if one.name == "default lock"]
    assert any("upload parts" in one.message for one in found)
    assert not target.facts().locks_parts
    target.put("big", big)
    assert target.locked("big").mode == ""
    assert target.lock("big", soon()).mode == "governance"
    with pytest.raises(TargetError, match="locked in"):
        target.delete("big")
    target.close()


# -- versions


def test_a_delete_removes_every_version_and_marker_of_that_name_alone(ceph, small, big):
    bucket = ceph.bucket(versions=True)
    target = ceph.target(bucket)
    for _time in range(3):
        target.put("a", small)
    ceph.plain.delete_object(Bucket=bucket, Key="prod/a")
    target.put("a", big)
    for other in ("a/b", "ab", "a b", "A"):
        target.put(other, small)
    target.delete("a")
    assert {key for key, _kind in ceph.versions(bucket)} == {"prod/a/b", "prod/ab", "prod/a b", "prod/A"}
    target.delete("a")
    target.delete("never/was")
    assert len(ceph.versions(bucket)) == 4, "no delete marker for what is not there"
    target.close()


def test_a_bucket_whose_versions_were_suspended_is_freed_too(ceph, small):
    bucket = ceph.bucket(versions=True)
    target = ceph.target(bucket)
    target.put("a", small)
    ceph.plain.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    assert target.facts(anew=True).versions == "Suspended"
    target.put("a", small)
    target.delete("a")
    assert ceph.versions(bucket, "prod/a") == []
    target.close()


def test_more_versions_than_a_page(ceph, small, monkeypatch):
    bucket = ceph.bucket(versions=True)
    target = ceph.target(bucket)
    for _time in range(7):
        target.put("a", small)
    real, pages = Paginator.paginate, []

    def small_pages(self, **more):
        for page in real(self, **more, PaginationConfig={"PageSize": 2}):
            pages.append(page)
            yield page

    monkeypatch.setattr(Paginator, "paginate", small_pages)
    target.delete("a")
    assert len(pages) >= 4
    assert ceph.versions(bucket, "prod/a") == []
    target.close()


@pytest.mark.parametrize("denied", ["versions", "versionId"])
def test_who_may_not_remove_versions_hides_and_is_told(ceph, small, denied):
    bucket = ceph.bucket(versions=True)
    with s3proxy.Proxy(ceph.answer["endpoint"]) as proxy:
        target = ceph.target(bucket, proxy.url)
        refusal = s3proxy.error(403, "AccessDenied")
        method = "GET" if denied == "versions" else "DELETE"
        proxy.fault = lambda found, path: refusal if found == method and denied in path.partition("?")[2] else None
        target.put("a", small)
        target.delete("a")
        assert target.stat("a") is None
        assert ("prod/a", "Versions") in ceph.versions(bucket)
        told = [one for one in target.probe() if one.name == "versions" and one.warning]
        assert "only hidden" in told[0].message and "NoncurrentVersionExpiration" in told[0].hint
        target.close()


def test_a_locked_file_is_not_hidden_by_who_may_not_remove_versions(ceph, guarded, small):
    guarded.put("stays", small)
    guarded.lock("stays", soon())
    with s3proxy.Proxy(ceph.answer["endpoint"]) as proxy:
        target = ceph.target(guarded.bucket, proxy.url, lock_mode="governance")
        target._known = guarded.facts()
        refusal = s3proxy.error(403, "AccessDenied")
        proxy.fault = lambda method, path: refusal if method == "GET" and "versions" in path else None
        with pytest.raises(TargetError, match="locked in"):
            target.delete("stays")
        assert target.stat("stays") is not None
        target.close()


def test_what_an_enemy_hid_is_named_and_comes_back(ceph, small, big):
    bucket = ceph.bucket(versions=True)
    target = ceph.target(bucket)
    target.put("web/a", big)
    target.put("web/b", small)
    for _twice in range(2):
        ceph.plain.delete_object(Bucket=bucket, Key="prod/web/a")
    assert target.stat("web/a") is None
    with pytest.raises(TargetError, match="hidden in .* by a delete marker"):
        b"".join(target.read("web/a"))
    with pytest.raises(TargetError, match="not there"):
        b"".join(target.read("web/c"))
    assert list(target.hidden("web/")) == ["web/a"]
    told = findings(target)["hidden"]
    assert told.warning and "web/a" in told.message
    target.unhide("web/a")
    target.unhide("web/b")
    target.unhide("never/was")
    assert b"".join(target.read("web/a")) == big.read_bytes()
    assert list(target.hidden()) == []
    target.close()


def test_older_versions_are_told_and_never_removed_by_themselves(ceph, small):
    bucket = ceph.bucket(versions=True)
    target = ceph.target(bucket)
    target.put("a", small)
    target.put("a", small)
    assert re.match("1 older versions .* take room", findings(target)["versions"].message)
    target.clean(soon())
    assert len(ceph.versions(bucket, "prod/a")) == 2
    target.close()


# -- encryption, tags, classes


@pytest.mark.parametrize("more", [{"sse": "AES256"}, {"sse": "aws:kms", "kms_key": "arn:aws:kms:us-east-1:1:key/abc"}])
def test_files_are_encrypted_as_asked(mini, small, big, more):
    bucket = mini.bucket()
    target = mini.target(bucket, **more)
    assert all(one.ok for one in target.probe())
    for name, path in (("small", small), ("big", big)):
        assert target.put(name, path).proven
        head = mini.plain.head_object(Bucket=bucket, Key=f"prod/{name}")
        assert head["ServerSideEncryption"] == more["sse"]
        assert head.get("SSEKMSKeyId") == more.get("kms_key")
        assert b"".join(target.read(name)) == path.read_bytes()
    target.close()


def test_a_bucket_that_takes_encrypted_files_only_is_proven_with_such(mini, small, big):
    """As bucket policies ask for that deny all other puts."""
    refusal = s3proxy.error(403, "AccessDenied")
    plain = re.compile(r"uploadId|retention|legal-hold|tagging")

    def judge(method, path, headers):
        begins = method == "PUT" and not plain.search(path) or method == "POST" and path.endswith("?uploads")
        return refusal if begins and headers.get("x-amz-server-side-encryption") != "AES256" else None

    with s3proxy.Proxy(mini.answer["endpoint"]) as proxy:
        proxy.judge = judge
        bucket = mini.bucket(locks=True)
        target = mini.target(bucket, proxy.url, sse="AES256", lock_mode="governance", tags={"a": "b"})
        assert all(one.ok for one in target.probe()) and target.capabilities.lock
        assert mini.versions(bucket) == []
        target.put("small", small)
        assert target.put("big", big).proven
        target.close()
        with pytest.raises(TargetError, match="access denied"):
            mini.target(bucket, proxy.url).put("x", small)


def test_a_bucket_key_that_is_not_kept_is_told(mini):
    target = mini.target(mini.bucket(), sse="aws:kms", kms_key="mine", bucket_key=True)
    assert "bucket_key is ignored" in findings(target)["options"].message
    target.close()


@pytest.mark.parametrize("place", ["ceph", "mini"])
def test_a_server_that_refuses_the_encryption_gets_nothing(place, request, small, big):
    place = request.getfixturevalue(place)
    bucket = place.bucket()
    target = place.target(bucket, sse="aws:kms:dsse")
    for path in (small, big):
        with pytest.raises(TargetError, match="nothing is put .* refuses sse: aws:kms:dsse"):
            target.put("x", path)
    found = findings(target)["write"]
    assert not found.ok and "refuses sse" in found.message
    assert place.versions(bucket) == []
    assert place.plain.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    plain = place.target(bucket)
    plain.put("old", small)
    assert b"".join(target.read("old")) == small.read_bytes(), "what was put before can be read"
    assert target.capabilities.ranged_reads
    target.close()
    plain.close()


@pytest.mark.parametrize("where", ["PutObject", "CreateMultipartUpload"])
def test_a_server_that_ignores_the_encryption_gets_nothing(mini, small, monkeypatch, where):
    make = s3.make_client

    def ignoring(*given, **more):
        client = make(*given, **more)

        def strip(params, **_more):
            params["headers"] = {k: v for k, v in params["headers"].items() if "server-side" not in k.lower()}

        client.meta.events.register(f"before-call.s3.{where}", strip)
        return client

    monkeypatch.setattr(s3, "make_client", ignoring)
    bucket = mini.bucket()
    target = mini.target(bucket, sse="AES256")
    with pytest.raises(TargetError, match="ignores sse: AES256.* in the clear"):
        target.put("x", small)
    assert not findings(target)["write"].ok
    assert mini.versions(bucket) == []
    target.close()


def test_another_key_than_the_one_asked_for_is_refused(mini, small, monkeypatch):
    make = s3.make_client

    def other(*given, **more):
        client = make(*given, **more)
        head = client.head_object
        client.head_object = lambda **asked: {**head(**asked), "SSEKMSKeyId": "arn:aws:kms:us-east-1:1:key/other"}
        return client

    monkeypatch.setattr(s3, "make_client", other)
    target = mini.target(mini.bucket(), sse="aws:kms", kms_key="mine")
    with pytest.raises(TargetError, match="another key than kms_key"):
        target.put("x", small)
    target.close()


def test_an_encryption_that_changes_after_the_probe_is_noticed(mini, small, big, monkeypatch):
    bucket = mini.bucket()
    target = mini.target(bucket, sse="aws:kms", kms_key="mine")
    target.facts()
    client = target.client()
    for name in ("put_object", "create_multipart_upload"):
        real = getattr(client, name)
        other = {"ServerSideEncryption": "AES256"}
        monkeypatch.setattr(client, name, lambda real=real, other=other, **asked: {**real(**asked), **other})
    for path in (small, big):
        with pytest.raises(TargetError, match="encrypts as AES256, not as sse: aws:kms"):
            target.put("x", path)
    assert mini.plain.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    target.close()


TAGS = {"purpose": "backup of web", "kept by": "a+b=c_d.e:f/g@h-1", "ümläut": "", "k" * 128: "v" * 256}


def test_files_have_their_tags(ceph, small, big):
    bucket = ceph.bucket()
    target = ceph.target(bucket, tags=TAGS)
    assert "options" not in findings(target)
    for name, path in (("small", small), ("big", big)):
        target.put(name, path)
        kept = ceph.plain.get_object_tagging(Bucket=bucket, Key=f"prod/{name}")["TagSet"]
        assert {one["Key"]: one["Value"] for one in kept} == TAGS
    target.close()


@pytest.mark.parametrize("denied", ["GET", "PUT"])
def test_tags_that_are_not_kept_are_told(ceph, small, denied):
    with s3proxy.Proxy(ceph.answer["endpoint"]) as proxy:
        proxy.fault = lambda method, path: s3proxy.Answer(403) if (method, path[-8:]) == (denied, "?tagging") else None
        target = ceph.target(ceph.bucket(), proxy.url, tags={"purpose": "backup"})
        told = findings(target)["options"]
        assert told.ok and told.warning and "tags of files in upload parts cannot be asked back" in told.message
        target.put("x", small)
        target.close()


def test_parts_have_their_class_and_what_is_read_first_has_not(ceph, small, big):
    bucket = ceph.bucket()
    target = ceph.target(bucket, storage_class="GLACIER")
    assert "options" not in findings(target)
    target.put(PART, big)
    target.put(MANIFEST, big)
    target.put(PART.replace("0000", "0001"), small)
    found = ceph.plain.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["StorageClass"] for item in found] == ["GLACIER", "STANDARD", "STANDARD"]
    target.close()


def test_a_class_that_the_server_does_not_know_is_refused(ceph, big):
    target = ceph.target(ceph.bucket(), storage_class="COLD")
    with pytest.raises(TargetError, match="refuses storage_class: COLD"):
        target.put(PART, big)
    assert not findings(target)["write"].ok
    target.close()


# -- uploads that nobody will finish


def test_own_uploads_are_ended_also_when_their_notes_are_lost(ceph, small):
    bucket = ceph.bucket()
    target = ceph.target(bucket)

    def begun(name):
        return ceph.plain.create_multipart_upload(Bucket=bucket, Key=f"prod/{name}")["UploadId"]

    def there():
        return {one["Key"] for one in ceph.plain.list_multipart_uploads(Bucket=bucket).get("Uploads", ())}

    begun(PART)
    begun("somebody/elses/file")
    assert target.clean(soon(60)) == 0, "no marker: nobody knows whose prefix it is"
    target.put(".stowage/" + SERVER, small)
    target.put(".stowage/fedcba9876543210", small)
    assert target.clean(soon(60)) == 0, "another server makes such names here, too"
    target.delete(".stowage/fedcba9876543210")
    assert target.clean(time.time_ns() - 3600 * NS) == 0, "too young"
    assert target.foreign_uploads(soon(60)) == 1
    assert target.clean(soon(60)) == 1
    assert there() == {"prod/somebody/elses/file"}
    target.close()

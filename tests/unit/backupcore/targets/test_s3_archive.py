"""Objects that sleep in an archive class: told as that, asked for once, read when they are awake (moto and answers)."""

from __future__ import annotations

import boto3
import pytest
from backupcore.hookspecs import Asleep, TargetContext, TargetError
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from backupcore.targets import _s3_archive as archive
from backupcore.targets.s3 import DRIVER, S3Target

NAME = "web1/etc/20261122T210000Z-L0-aaaaaaaa/image-0000.tar.zst"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def plain(endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="cold")
    return client


@pytest.fixture
def target(endpoint, plain, tmp_path):
    options = DRIVER.options(bucket="cold", prefix="p", endpoint=endpoint, addressing="path", restore_tier="Bulk")
    target = S3Target(options, TargetContext("cloud", "0123456789abcdef", tmp_path / "state"))
    yield target
    target.close()


@pytest.mark.parametrize(("kind", "usual"), (("GLACIER", "5 to 12 hours"), ("DEEP_ARCHIVE", "up to 48 hours")))
def test_what_sleeps_is_told_and_read_after_it_was_woken(target, plain, kind, usual):
    plain.put_object(Bucket="cold", Key="p/" + NAME, Body=b"12345", StorageClass=kind)
    for where in ((), (1, 2)):
        with pytest.raises(Asleep) as caught:
            b"".join(target.read(NAME, *where))
        assert caught.value.message == f"{NAME} in bucket cold/p at {plain.meta.endpoint_url} is archived and asleep"
        assert not caught.value.retry
    assert usual in archive.asleep(NAME, "x", kind, "Bulk").hint
    assert target.capabilities.archives
    assert target.wake(NAME, 7) is True  # moto needs no hours
    assert b"".join(target.read(NAME)) == b"12345" and b"".join(target.read(NAME, 1, 2)) == b"23"
    assert target.wake(NAME, 7) is True
    assert target.spent().woken == 5  # asked for once, billed once


def test_what_never_slept_is_awake_and_what_is_not_there_is_told(target, plain):
    plain.put_object(Bucket="cold", Key="p/small", Body=b"1", StorageClass="STANDARD_IA")
    assert target.wake("small", 7) is True and target.spent().woken == 0
    with pytest.raises(TargetError, match="it is not there"):
        target.wake("nothing", 7)


def answers(*heads, restore=None):
    """A client that gives these answers of head_object, and this one of restore_object between them."""
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")
    stub = Stubber(client)
    for number, head in enumerate(heads):
        stub.add_response("head_object", head, {"Bucket": "b", "Key": "k"})
        if number == 0 and restore is not None:
            given, error = restore
            wanted = {"Bucket": "b", "Key": "k", "RestoreRequest": given}
            if error:
                stub.add_client_error("restore_object", error, expected_params=wanted)
            else:
                stub.add_response("restore_object", {}, wanted)
    stub.activate()
    return client, stub


COLD = {"StorageClass": "DEEP_ARCHIVE"}
ASKED = {**COLD, "Restore": 'ongoing-request="true"'}
AWAKE = {**COLD, "Restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2026 00:00:00 GMT"'}
REQUEST = {"GlacierJobParameters": {"Tier": "Standard"}, "Days": 7}


@pytest.mark.parametrize(("heads", "restore", "awake"), (
    ((ASKED,), None, False),  # not asked a second time
    ((AWAKE,), None, True),
    ((COLD, ASKED), (REQUEST, None), False),
    ((COLD,), (REQUEST, "RestoreAlreadyInProgress"), False),
    ((COLD, AWAKE), (REQUEST, "ObjectAlreadyInActiveTierError"), True),
    # what INTELLIGENT_TIERING archived takes no number of days
    (({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "DEEP_ARCHIVE_ACCESS"}, ASKED),
     ({"GlacierJobParameters": {"Tier": "Standard"}}, None), False),
    (({"StorageClass": "INTELLIGENT_TIERING"},), None, True),
    (({"StorageClass": "GLACIER_IR"},), None, True),
    (({},), None, True),
))  # fmt: skip
def test_it_is_asked_for_once(heads, restore, awake):
    client, stub = answers(*heads, restore=restore)
    # DEEP_ARCHIVE knows no Expedited
    assert archive.wake(client, "b", "k", 7, "Expedited") is awake
    stub.assert_no_pending_responses()

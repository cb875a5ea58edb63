"""stowage target against Ceph's gateway behind a proxy that makes faults: a locked bucket made, proven, listed."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from cli_lab import Server

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
import s3proxy  # noqa: E402
import s3server  # noqa: E402


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3")) as answer, s3proxy.Proxy(answer["endpoint"]) as proxy:
        client = boto3.client(
            "s3", endpoint_url=answer["endpoint"], aws_access_key_id=answer["access_key"], region_name="us-east-1",
            aws_secret_access_key=answer["secret_key"], config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        yield answer, client, proxy


@pytest.fixture
def server(tmp_path, s3):
    (tmp_path / "secrets").write_text(json.dumps({key: s3[0][key] for key in ("access_key", "secret_key")}))
    server = Server(tmp_path)
    with contextlib.closing(server):
        yield server


def words(proxy, base, bucket):
    return ("target", "add", "cloud", "--type", "s3", "--option", f"bucket={bucket}", "--option",
            f"endpoint={proxy.url}", "--option", "addressing=path", "--option", "part_size=5 MiB",
            "--secrets", base / "secrets")  # fmt: skip


def test_a_locked_bucket_is_made_proven_and_used_while_requests_fail(server, s3, tmp_path):
    _answer, plain, proxy = s3
    number = itertools.count()
    proxy.fault = lambda method, path: {0: "503", 5: "reset"}.get(next(number) % 10)
    try:
        told = server.json(*words(proxy, tmp_path, "locked"), "--option", "lock_mode=governance", "--create", "--lock")
    finally:
        proxy.fault = lambda method, path: None
    assert told["written"] and told["tested"]["up"] > 0 and told["tested"]["lock"] is True
    by_name = {one["name"]: one for one in told["tested"]["findings"]}
    assert by_name["lock"]["ok"] and by_name["throughput"]["ok"] and by_name["clock"]["ok"]
    lock = plain.get_object_lock_configuration(Bucket="locked")["ObjectLockConfiguration"]
    assert lock["ObjectLockEnabled"] == "Enabled"
    assert not plain.list_multipart_uploads(Bucket="locked").get("Uploads")
    assert not [one for one in plain.list_objects_v2(Bucket="locked").get("Contents", ()) if "test-" in one["Key"]]
    (one,) = server.json("target", "list")["targets"]
    assert (one["name"], one["lock"], one["versions"]) == ("cloud", True, True)
    # and a night goes there, by the policy that nobody wrote
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"content")
    server.client("web1", {"tree": tmp_path / "tree"})
    server.stowage("run")
    (one,) = server.json("target", "list")["targets"]
    assert one["copies"] == 1 and one["verified"]


def test_a_place_that_cuts_every_upload_ends_in_one_line_and_nothing_is_written(server, s3, tmp_path):
    _answer, plain, proxy = s3
    plain.create_bucket(Bucket="cut")
    proxy.fault = lambda method, path: "reset" if method == "PUT" and ".stowage/test-" in path else None
    try:
        out, _err = server.stowage(*words(proxy, tmp_path, "cut"), status=1)
    finally:
        proxy.fault = lambda method, path: None
    failed = [line for line in out.splitlines() if line.startswith("FAIL ")]
    assert len(failed) == 2 and "throughput: cannot write" in failed[0] and "was not added" in failed[1]
    assert not (tmp_path / "targets.d").exists()
    assert not plain.list_multipart_uploads(Bucket="cut").get("Uploads")

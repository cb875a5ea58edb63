"""Renewing wrapped keys in a bucket whose objects are locked (Ceph's gateway), from a real sealed run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import boto3
import pytest
import s3server
from botocore.config import Config
from botocore.exceptions import ClientError
from cli_lab import Server
from passphrases import PASSPHRASE

BUCKET = "locked"


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with s3server.running(folder) as answer:
        yield answer


@pytest.fixture(scope="module")
def bucket(s3):
    client = boto3.client(
        "s3", endpoint_url=s3["endpoint"], aws_access_key_id=s3["access_key"], region_name="us-east-1",
        aws_secret_access_key=s3["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    retention = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket=BUCKET, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention}
    )
    return client


@pytest.fixture
def server(tmp_path, s3, bucket):
    server = Server(tmp_path)
    credentials = tmp_path / "credentials.json"
    credentials.write_text(f'{{"access_key": "{s3["access_key"]}", "secret_key": "{s3["secret_key"]}"}}')
    credentials.chmod(0o600)
    cloud = {"type": "s3", "bucket": BUCKET, "prefix": tmp_path.name, "endpoint": s3["endpoint"],
             "credentials": str(credentials), "addressing": "path"}  # fmt: skip
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "secret.txt").write_text("what nobody else may read\n" * 100)
    server.write(targets={"cloud": cloud}, policies={"standard": {"encrypt": "server"}})
    server.client("web1", {"tree": tree})
    with contextlib.closing(server):
        yield server


def versions(bucket, prefix):
    found = bucket.list_object_versions(Bucket=BUCKET, Prefix=prefix)
    return {(one["Key"], one["VersionId"]): one["ETag"] for one in found.get("Versions", ())}


def test_a_new_key_opens_locked_dumps_and_a_lost_one_is_not_needed(server, bucket, tmp_path):
    phrase = tmp_path / "phrase"
    phrase.write_bytes(PASSPHRASE + b"\n")
    phrase.chmod(0o600)
    server.stowage("key", "generate", "--only", "first", "--no-passphrase")
    server.stowage("run")
    (dump,) = server.json("list", "dumps")["dumps"]
    assert dump["copies"] == {"cloud": "verified"}
    before = versions(bucket, f"{tmp_path.name}/web1/")
    assert before and not [key for key, _version in before if key.endswith(".zst")], "nothing is sealed"
    with pytest.raises(ClientError):  # the lock is real
        key, version = next(iter(before))
        bucket.delete_object(Bucket=BUCKET, Key=key, VersionId=version)

    server.stowage("key", "generate", "--only", "second", "--passphrase-file", str(phrase))
    done = server.json("key", "rewrap")
    assert {(one["place"], one["file"]) for one in done["added"]} == {
        ("holding", "keys-2.tsv"),
        ("cloud", "keys-2.tsv"),
    }
    after = versions(bucket, f"{tmp_path.name}/web1/")
    assert {one: after[one] for one in before} == before
    assert [key.rpartition("/")[2] for key, _version in set(after) - set(before)] == ["keys-2.tsv"]
    assert server.json("key", "rewrap")["added"] == [] and versions(bucket, f"{tmp_path.name}/web1/") == after

    # the first key is lost, the server too: what the bucket has opens with the second and its passphrase
    away = tmp_path / "second.pem"
    shutil.move(tmp_path / "state" / "keys" / "private" / "second.pem", away)
    (tmp_path / "state" / "keys" / "private" / "first.pem").unlink()
    subprocess.run(["rm", "-rf", dump["holding"]], check=True)
    _out, err = server.stowage("restore", "web1:/", "--from", "cloud", "--to", str(tmp_path / "none"), status=1)
    assert "is sealed for first" in err or "sealed for" in _out + err
    server.stowage("restore", "web1:/", "--from", "cloud", "--to", str(tmp_path / "out"), "--key", str(away),
                   "--passphrase-file", str(phrase))  # fmt: skip
    assert list((tmp_path / "out").rglob("secret.txt"))[0].read_text() == "what nobody else may read\n" * 100


def test_the_kit_checks_what_lies_in_the_bucket(server, bucket, tmp_path):
    import re

    server.stowage("key", "generate", "--only", "first", "--no-passphrase")
    server.stowage("run")
    kit, _err = server.stowage("key", "kit", "--unprotected")
    assert f"s3://{BUCKET}/{tmp_path.name}" in kit and "access_key" not in kit
    folder = tmp_path / "fetched" / "dump"
    folder.mkdir(parents=True)
    for one in bucket.list_objects_v2(Bucket=BUCKET, Prefix=f"{tmp_path.name}/web1/tree/")["Contents"]:
        bucket.download_file(BUCKET, one["Key"], str(folder / one["Key"].rpartition("/")[2]))
    pem = re.search(r"-----BEGIN PUBLIC KEY-----\n.*?-----END PUBLIC KEY-----\n", kit, re.DOTALL).group(0)
    (folder.parent / "signing.pub").write_text(pem)
    section = kit[kit.index("2. IS A DUMP") : kit.index("Then read whose")]
    script = "set -e\n" + "\n".join(line[4:] for line in section.split("\n") if line.startswith("    "))
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") >= 5, done

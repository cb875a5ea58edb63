"""stowage drill as it is meant: clients behind real sshd's, sealed copies in a bucket (Ceph's gateway), a price."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil

import boto3
import pytest
import s3server
from botocore.config import Config
from cli_lab import Server

BUCKET = "drill"
# so dear that the cents of some megabytes can be seen
PRICE = {"read_gb": 90.0, "request_1000": 0.4, "currency": "$"}


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with s3server.running(folder) as answer:
        client = boto3.client(
            "s3", endpoint_url=answer["endpoint"], aws_access_key_id=answer["access_key"], region_name="us-east-1",
            aws_secret_access_key=answer["secret_key"], config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        yield answer, client


@pytest.fixture
def server(tmp_path, s3):
    server, (answer, _client) = Server(tmp_path), s3
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps({name: answer[name] for name in ("access_key", "secret_key")}))
    credentials.chmod(0o600)
    (tmp_path / "nas").mkdir()
    server.write(policies={"standard": {"encrypt": "server"}}, targets={
        "nas": {"type": "directory", "path": str(tmp_path / "nas")},
        "cloud": {"type": "s3", "bucket": BUCKET, "prefix": tmp_path.name, "endpoint": answer["endpoint"],
                  "addressing": "path", "credentials": str(credentials), "price": PRICE},
    })  # fmt: skip
    dice = random.Random(3)
    for number, (name, size) in enumerate((("web1", 4_000), ("db2", 60_000))):
        tree = tmp_path / name
        tree.mkdir()
        for count in range(60):
            (tree / f"f{count}").write_bytes(dice.randbytes(dice.randrange(1, size)))
        server.client(name, {"data": tree}, address=f"127.0.0.{61 + number}")
    with contextlib.closing(server):
        yield server


def last_line(text):
    """The last line of a report, without the commands to type next."""
    return [line for line in text.splitlines() if not line.startswith("-> ")][-1]


def test_a_drill_reads_the_bucket_over_ssh_to_the_clients_and_the_report_ends_with_what_is_proven(server, s3, tmp_path):
    server.stowage("key", "generate", "--only", "operations", "--no-passphrase")
    server.stowage("run")
    # as after a fire: only the bucket has it
    shutil.rmtree(tmp_path / "nas")
    (tmp_path / "nas").mkdir()
    shutil.rmtree(tmp_path / "holding")
    (tmp_path / "holding").mkdir(mode=0o700)
    assert last_line(server.stowage("report")[0]) == "proven: 0 of 2 clients restored within 30 days"

    answer = server.json("drill", "--files", "6")
    assert answer["status"] == "ok"
    assert {one["client"] for one in answer["results"]} == {"web1", "db2"}
    for one in answer["results"]:
        assert (one["status"], one["place"], one["where"]) == ("proven", "cloud", "client"), one
        assert one["files"] >= 1 and one["read"] > 0 and one["requests"] > 0
    read = sum(one["read"] for one in answer["results"])
    asked = sum(one["requests"] for one in answer["results"])
    assert answer["money"]["$"] == pytest.approx(read / 1e9 * 90 + asked / 1000 * 0.4, rel=0.01)
    for name in ("web1", "db2"):
        assert not list((tmp_path / f"{name}.scratch" / "drill").iterdir())

    whole = {one["client"]: one["stored_size"] for one in server.json("list", "dumps")["dumps"]}
    estimate = answer["estimates"]["db2"]
    assert estimate["places"] == ["cloud"] and estimate["bytes"] == pytest.approx(whole["db2"], rel=0.01)
    assert estimate["money"]["$"] == pytest.approx(
        estimate["bytes"] / 1e9 * 90 + estimate["requests"] / 1000 * 0.4, rel=0.01
    )
    longest, estimate = max(answer["estimates"].items(), key=lambda one: (one[1]["seconds"], one[0]))
    line = last_line(server.stowage("report")[0])
    time = r"\d[\d.]* (?:s|min|h)(?: \d+)?"
    found = re.fullmatch(
        rf"proven: 2 of 2 clients restored within 30 days; {longest} est\. {time} from cloud, \$(\d+\.\d\d)", line
    )
    assert found and float(found.group(1)) == pytest.approx(estimate["money"]["$"], abs=0.006), line


def test_a_bucket_that_lost_a_byte_is_found_by_the_drill_and_is_no_proof(server, s3, tmp_path):
    server.stowage("key", "generate", "--only", "operations", "--no-passphrase")
    server.stowage("run")
    _answer, client = s3
    for one in client.list_objects_v2(Bucket=BUCKET, Prefix=f"{tmp_path.name}/db2/")["Contents"]:
        if "/image-" in one["Key"]:
            content = bytearray(client.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read())
            for place in range(100, len(content), 500):
                content[place] ^= 1
            client.put_object(Bucket=BUCKET, Key=one["Key"], Body=bytes(content))
    answer = server.json("drill", "--files", "6", status=1)
    assert {one["status"] for one in answer["results"] if one["client"] == "db2"} == {"failed"}
    assert {one["status"] for one in answer["results"] if one["client"] == "web1"} == {"proven"}
    assert last_line(server.stowage("report", status=1)[0]).startswith("proven: 1 of 2 clients restored within 30 days")

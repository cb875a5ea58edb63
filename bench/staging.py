"""stage of one large file to S3, beside s5cmd cp of the same file to the same server: how fast, with how much work of
the processor, and in how much memory.

Here lives what is compared with what; the bed with its client is bed.py, run.py has it as a row. Both sides sign and
hash what they send, since the server speaks no TLS; Stowage also compares the whole with its SHA-256, and asks the
server what it has made of it. Seconds are also the server's, and everybody's who has the machine at that time; seconds
of CPU are the client's own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List, NamedTuple

BUCKET = "stage"
PIECE = 1 << 20


class Found(NamedTuple):
    """Seconds: of whole commands, of the copy alone as stage tells them, of s5cmd; then seconds of CPU of both whole
    commands. peak: KiB of `stowage stage`."""

    whole: List[float]
    copy: List[float]
    theirs: List[float]
    work: List[float]
    their_work: List[float]
    bytes: int
    peak: int


def make_tree(folder: Path, size: int) -> None:
    """One file that no compression makes smaller."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "file", "wb") as file:
        for _piece in range(size // PIECE):
            file.write(os.urandom(PIECE))


def client_of(s3: dict) -> Any:
    """Plain boto3, and the bucket."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=s3["endpoint"], aws_access_key_id=s3["access_key"], region_name=s3["region"],
        aws_secret_access_key=s3["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    return client


def add_targets(config: Path, s3: dict, secret: Path, count: int) -> List[str]:
    """So many targets in a configuration of the bed (JSON), each a place that has nothing yet; their names."""
    secret.write_text(json.dumps({name: s3[name] for name in ("access_key", "secret_key")}))
    secret.chmod(0o600)
    plain = json.loads(config.read_text())
    names = [f"cloud{number}" for number in range(count)]
    plain["targets"] = {
        name: {"type": "s3", "bucket": BUCKET, "prefix": name, "endpoint": s3["endpoint"], "region": s3["region"],
               "addressing": "path", "credentials": str(secret)}
        for name in names
    }  # fmt: skip
    plain["policies"]["standard"]["copies"] = [{"target": name} for name in names]
    config.write_text(json.dumps(plain))
    return names


def measure(bed: Any, s3: dict, source: str, other: str, runs: int) -> Found:
    """The newest dump of source, staged and sent by turns. other: a little source, staged before: what a target is
    asked the first time is no part of a copy."""
    client = client_of(s3)
    names = add_targets(bed.lab / "stowage.yml", s3, bed.lab / "stage.json", runs + 1)
    bed.run(other, level=0)
    dump = bed.last_dump(source)
    (image,) = sorted(Path(dump["holding"]).glob("image-*"))
    peak, found = bed.lab / "stage.peak", Found([], [], [], [], [], image.stat().st_size, 0)
    secrets = {"AWS_ACCESS_KEY_ID": s3["access_key"], "AWS_SECRET_ACCESS_KEY": s3["secret_key"],
               "AWS_REGION": s3["region"]}  # fmt: skip
    s5cmd = [str(Path(sys.executable).parent / "s5cmd"), "--endpoint-url", s3["endpoint"], "cp", str(image)]
    for count, name in enumerate(names):
        _in_memory(image)
        began, used = time.perf_counter(), _used()
        answer = bed.stowage_measured(peak, "stage", "--target", name)
        middle, work = time.perf_counter(), _used() - used
        _in_memory(image)
        before, used = time.perf_counter(), _used()
        subprocess.run([*s5cmd, f"s3://{BUCKET}/yardstick-{count}"], check=True, stdout=subprocess.DEVNULL,
                       env={**os.environ, **secrets})  # fmt: skip
        end, their_work = time.perf_counter(), _used() - used
        mine = [one for one in answer["copies"] if one["dump"] == dump["dump"]]
        assert len(mine) == 1 and mine[0]["ok"], answer
        sizes = {item["Key"]: item["Size"] for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]}
        assert sizes[f"yardstick-{count}"] == found.bytes, sizes
        assert [size for key, size in sizes.items() if key.startswith(name) and key.endswith(image.name)
                and dump["dump"] in key] == [found.bytes], sizes  # fmt: skip
        for key in sizes:
            if image.name in key and key.startswith(name + "/") or key.startswith("yardstick"):
                client.delete_object(Bucket=BUCKET, Key=key)
        found = found._replace(peak=max(found.peak, int(peak.read_text())))
        if count:  # the first of each does not count
            found.whole.append(middle - began)
            found.copy.append(mine[0]["seconds"])
            found.theirs.append(end - before)
            found.work.append(work)
            found.their_work.append(their_work)
    return found


def _used() -> float:
    """Seconds of CPU of all commands that ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def _in_memory(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(PIECE):
            pass

"""verify --full of a large image: how fast, beside the tools that read the same files, and in how much memory.

Here lives what is compared with what; the bed with its client is bed.py, run.py has it as a row.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator, List, Tuple


def add_targets(config: Path, nas: Path, s3: dict, secret: Path) -> None:
    """Two more targets in a configuration of the bed (JSON), and a copy of everything on both."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=s3["endpoint"], aws_access_key_id=s3["access_key"], region_name=s3["region"],
        aws_secret_access_key=s3["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket="verify")
    secret.write_text(json.dumps({name: s3[name] for name in ("access_key", "secret_key")}))
    secret.chmod(0o600)
    nas.mkdir(exist_ok=True)
    plain = json.loads(config.read_text())
    plain["targets"] = {
        "nas": {"type": "directory", "path": str(nas)},
        "cloud": {"type": "s3", "bucket": "verify", "prefix": "b", "endpoint": s3["endpoint"], "region": s3["region"],
                  "addressing": "path", "credentials": str(secret)},
    }  # fmt: skip
    plain["policies"]["standard"]["copies"] = [{"target": "nas"}, {"target": "cloud"}]
    config.write_text(json.dumps(plain))


def rows(bed: Any, source: str, runs: int) -> Iterator[Tuple[str, List[float], List[float], str]]:
    """(place, our seconds, the yardstick's, what is to be said) of each target's copy of the newest dump of source.

    The yardstick reads the holding image's files, whose bytes are those of both copies: it costs no network.
    """
    dump = bed.last_dump(source)
    folder, peak = dump["holding"], bed.lab / "verify.peak"
    tools = "sha256sum --quiet -c SHA256SUMS && for f in *.zst; do zstd -qt $f; done"
    for place in ("nas", "cloud"):
        ours, theirs, most = [], [], 0
        for count in range(runs + 1):
            began = time.perf_counter()
            answer = bed.stowage_measured(peak, "verify", "--full", "--target", place, "--dump", dump["dump"])
            middle = time.perf_counter()
            subprocess.run(["sh", "-ec", tools], cwd=folder, check=True)
            end = time.perf_counter()
            (one,) = answer["results"]
            assert one["status"] == "ok" and one["bytes"] >= dump["stored_size"], one
            if count:
                ours.append(middle - began)
                theirs.append(end - middle)
                most = max(most, int(peak.read_text()))
        speed = dump["stored_size"] / 1e6 / sorted(ours)[len(ours) // 2]
        unpacked = dump["archive_size"] / 1e6 / sorted(ours)[len(ours) // 2]
        told = f"{dump['stored_size'] / 1e6:.0f} MB stored, {speed:.0f} MB/s of them, {unpacked:.0f} MB/s of archive"
        yield place, ours, theirs, f"{told}; peak {most / 1024:.0f} MiB"

"""A little server (stage_world) whose one target `cloud` is a real S3 server behind a proxy that makes faults.

Here lives what tests of staging to S3 share: the world, what lies in the bucket, and what has to be true of it
whatever became of a staging.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import boto3
from backupcore.hookspecs import TargetContext, TargetError  # noqa: F401
from botocore.config import Config
from stage_world import World

from backupcore.settings import CopyRule, TargetSettings
from backupcore.targets.s3 import S3Options, S3Target

MIB = 1 << 20
BUCKET = "staging"


def plain_client(server: dict):
    """Plain boto3 on the server itself, past the proxy; the bucket is there."""
    client = boto3.client(
        "s3", endpoint_url=server["endpoint"], aws_access_key_id=server["access_key"], region_name="us-east-1",
        aws_secret_access_key=server["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    return client


def write_keys(path: Path, server: dict) -> Path:
    """A file of credentials."""
    path.write_text(json.dumps({name: server[name] for name in ("access_key", "secret_key")}))
    path.chmod(0o600)
    return path


def make_world(root: Path, server: dict, url: str, **options) -> World:
    """A world with the target `cloud` at url, below a prefix of its own."""
    world = World(root)
    keys = write_keys(root / "credentials", server)
    given = {
        "bucket": BUCKET, "prefix": root.name, "endpoint": url, "addressing": "path",
        "credentials": str(keys), "part_size": 5 * MIB, "parallel": 2, **options,
    }  # fmt: skip
    world.settings = replace(world.settings, targets={"cloud": TargetSettings("cloud", "s3", given)})
    world.policy(CopyRule("cloud"))
    world.opened = {"cloud": open_cloud(world)}
    return world


def open_cloud(world, name: str = "cloud") -> S3Target:
    """The target, open."""
    context = TargetContext(name, world.server, world.settings.state / "targets" / name)
    return S3Target(S3Options(**world.settings.targets[name].options), context)


def stored(world, plain, name: str = "cloud") -> dict:
    """name below the prefix -> bytes, of all objects of images."""
    prefix = world.settings.targets[name].options["prefix"] + "/"
    found = {}
    for page in plain.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        for item in page.get("Contents", ()):
            below = item["Key"][len(prefix) :]
            if not below.startswith(".stowage/"):
                found[below] = plain.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
    return found


def uploads(world, plain, name: str = "cloud") -> list:
    """Keys of the unfinished uploads below the prefix, as the server itself tells."""
    prefix = world.settings.targets[name].options["prefix"] + "/"
    return [one["Key"] for one in plain.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
            if one["Key"].startswith(prefix)]  # fmt: skip


def check_honest(world, plain, name: str = "cloud") -> list:
    """What has to be true at any moment: what is called verified is whole, byte for byte, and where a manifest is,
    all is. Returns the dumps that are verified."""
    there, sent = stored(world, plain, name), world.files(world.holding)
    verified = []
    for dump in world.catalog.dumps():
        rows = world.catalog.copies(dump=dump.id, target=name)
        assert len(rows) <= 1
        files = {key: value for key, value in sent.items() if f"/{dump.id}/" in key}
        here = {key: value for key, value in there.items() if f"/{dump.id}/" in key}
        if rows and rows[0].state == "verified":
            assert here == files, f"{dump.id} is called verified"
            verified.append(dump.id)
        if any(key.endswith("/manifest.json") for key in here):
            assert here == files, f"{dump.id} has its manifest there"
    return verified

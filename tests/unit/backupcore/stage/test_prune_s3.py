"""Removing a dump from a bucket, with a kill at every request (moto's server)."""

from __future__ import annotations

from dataclasses import replace

import boto3
import pytest
from backupcore.hookspecs import TargetContext
from moto.server import ThreadedMotoServer

from backupcore.image import layout
from backupcore.settings import CopyRule, PruneSettings, TargetSettings
from backupcore.stage.origins import prefix_of
from backupcore.stage.prune import prune
from backupcore.stage.release import release
from backupcore.targets._s3_client import S3Options
from backupcore.targets.s3 import S3Target


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def bucket(world, tmp_path):
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="unit")
    keys = tmp_path / "credentials"
    keys.write_text('{"access_key": "AKIDEXAMPLE", "secret_key": "secret"}')
    keys.chmod(0o600)
    context = TargetContext("cloud", world.server, tmp_path / "state/targets/cloud")
    target = S3Target(S3Options(bucket="unit", prefix="prod", endpoint=endpoint, credentials=keys), context)
    world.settings = replace(
        world.settings, targets={"cloud": TargetSettings("cloud", "s3", {})}, prune=PruneSettings(grace=0.0)
    )
    world.policy(CopyRule("cloud", keep={"last": 1}))
    world.opened = {"cloud": target}
    yield target
    target.close()
    server.stop()


def test_a_kill_at_any_request_leaves_no_half_dump_behind(world, bucket, monkeypatch):
    full, change, last = world.dump(), world.dump(level=1), world.dump()
    assert all(one.ok for one in world.stage())
    release(world.settings, world.catalog)
    now = last.begun_ns
    assert prune(world.settings, world.catalog, world.opened.__getitem__, now).removed == ()
    after, whole = 0, False
    while not whole:
        count = [0]

        def delete(name, limit=2 + after % 2, count=count):
            count[0] += 1
            if count[0] > limit:
                raise Killed
            type(bucket).delete(bucket, name)

        with monkeypatch.context() as patch:
            patch.setattr(bucket, "delete", delete)
            try:
                prune(world.settings, world.catalog, world.opened.__getitem__, now)
                whole = True
            except Killed:
                pass
        for row in world.catalog.dumps():
            names = [found.name for found in bucket.list(prefix_of(row) + "/")]
            listed = f"{prefix_of(row)}/{layout.MANIFEST}" in names
            assert not listed or len(names) == 8
            assert world.states(row) != {"cloud": "verified"} or listed
        after += 1
    assert after > 8
    assert [row.id for row in world.catalog.dumps()] == [last.id]
    names = {found.name.split("/")[2] for found in bucket.list("web1/")}
    assert names == {last.id} and full.id not in names and change.id not in names

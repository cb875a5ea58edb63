"""One bucket by two addresses of its server, and by path and virtual style: the same place; another prefix: another."""

from __future__ import annotations

import boto3
import pytest
from backupcore.hookspecs import TargetContext
from moto.server import ThreadedMotoServer
from stage_world import World

from backupcore.settings import CopyRule
from backupcore.stage.identity import Identities
from backupcore.targets.s3 import DRIVER, S3Target


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1").create_bucket(Bucket="backup")
    yield port
    server.stop()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    for target in world.opened.values():
        target.close()
    world.catalog.close()


def bucket(world, name, endpoint, prefix="p"):
    options = DRIVER.options(bucket="backup", prefix=prefix, endpoint=endpoint, addressing="path")
    context = TargetContext(name, world.server, world.settings.state / "targets" / name)
    world.opened[name] = S3Target(options, context)


def test_an_endpoint_by_name_and_by_number_is_one_place(world, server):
    bucket(world, "nas", f"http://127.0.0.1:{server}")
    bucket(world, "disk", f"http://localhost:{server}")
    dump = world.dump()
    results = world.stage()
    (failed,) = [one for one in results if one.failed]
    assert "are one place under two addresses" in failed.message and sum(one.ok for one in results) == 1
    (same,) = Identities(world.settings, world.server, world.opened.__getitem__).twins()
    assert set(same.names) == {"nas", "disk"}
    world.policy(CopyRule("nas"), CopyRule("disk"))
    bucket(world, "disk", f"http://localhost:{server}", prefix="q")
    assert all(one.ok for one in world.stage())
    assert set(world.states(dump).values()) == {"verified"}

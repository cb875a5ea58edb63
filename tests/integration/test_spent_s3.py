"""What the S3 target says it was used for is what a counting proxy before real servers saw: to the request and byte."""

from __future__ import annotations

import os
from dataclasses import asdict

import counting
import ministack
import pytest
import s3_world
import s3server

from backupcore.app.noting import Noting
from backupcore.catalog import spending
from backupcore.stage import prune, release

MIB = 1 << 20


@pytest.fixture(scope="module", params=["radosgw", "ministack"])
def server(request, tmp_path_factory):
    running = s3server.running if request.param == "radosgw" else ministack.running
    with running(tmp_path_factory.mktemp(request.param)) as answer:
        s3_world.plain_client(answer)
        yield answer


@pytest.fixture
def proxy(server):
    with counting.Counting(server["endpoint"]) as found:
        yield found


@pytest.fixture
def world(proxy, server, tmp_path):
    world = s3_world.make_world(tmp_path, server, proxy.url)
    yield world
    world.opened["cloud"].close()
    world.catalog.close()


def same(world, proxy):
    spent = asdict(world.opened["cloud"].spent())
    assert spent.pop("woken") == 0
    assert spent == proxy.counted()
    return spent


def use(world):
    """A copy with upload parts, one that is read whole and by ranges, one that is removed."""
    world.dump(parts=(11 * MIB, 2000))
    small = world.dump()
    world.stage()
    assert {row.state for row in world.catalog.copies()} == {"verified"}
    cloud = world.opened["cloud"]
    names = [found.name for found in cloud.list("")]
    assert sum(len(piece) for name in names for piece in cloud.read(name)) > 11 * MIB
    (large,) = [found.name for found in cloud.list("") if found.size >= 11 * MIB]
    assert len(b"".join(cloud.read(large, 5 * MIB, 12345))) == 12345
    assert cloud.stat("nothing/there") is None and cloud.kept_sha256(names[-1]) != ""
    release.release(world.settings, world.catalog)
    prune.remove_files(cloud, small)


def test_every_request_and_byte_is_counted(world, proxy):
    use(world)
    spent = same(world, proxy)
    assert spent["sent"] > 11 * MIB and spent["got"] > 11 * MIB
    assert all(spent[kind] > 5 for kind in ("write", "read", "delete"))


def test_what_is_tried_again_counts_as_often_as_it_is_tried(world, proxy):
    proxy.refuse = lambda number: number % 5 == 0
    use(world)
    same(world, proxy)
    assert proxy.number // 5 > 5


def test_it_is_in_the_catalog_when_the_engine_is_closed(world, proxy):
    notes = Noting(lambda: world.catalog)
    notes.watch("cloud", world.opened["cloud"])
    use(world)
    notes.note()
    assert len(b"".join(world.opened["cloud"].read(next(world.opened["cloud"].list("")).name))) > 0
    world.opened["cloud"].close()
    notes.close()
    ((key, kept),) = spending.spent_by_month(world.catalog).items()
    assert key[0] == "cloud" and {**proxy.counted(), "woken": 0} == asdict(kept)
    stays = spending.stays_between(world.catalog, 0, 1 << 62)
    (stay,) = [one for one in stays if one.bytes > 11 * MIB]  # the other was removed; either may be whole first
    files = [found for found in s3_objects(world) if stay.dump in found["Key"]]
    assert (stay.bytes, stay.objects) == (sum(found["Size"] for found in files), len(files))
    assert stay.small == sum(found["Size"] < spending.SMALL for found in files)
    assert os.path.basename(world.root) in files[0]["Key"]


def s3_objects(world):
    client = s3_world.open_cloud(world)
    try:
        pages = client.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=s3_world.BUCKET, Prefix=world.root.name + "/")
        return [item for page in found for item in page.get("Contents", ())]
    finally:
        client.close()

"""The first night through a bad line: whatever answer is lost while an S3 place is tried, the same is found of it, and
nothing is left there."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import pytest
import s3_world
import s3proxy
import s3server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3")) as answer:
        yield answer


@pytest.fixture(scope="module")
def plain(server):
    return s3_world.plain_client(server)


class Trial:
    """Tries the place with a fault at one of its requests: facts, how many requests, and what is left there."""

    def __init__(self, server, plain, root, options):
        self.server, self.plain, self.root, self.options, self.count = server, plain, root, options, itertools.count()

    def found(self, proxy, fault, number):
        folder = self.root / f"try{next(self.count)}"
        folder.mkdir()
        seen = itertools.count(1)
        proxy.fault = lambda method, path: fault if next(seen) == number else None
        world = s3_world.make_world(folder, self.server, proxy.url, **self.options)
        try:
            facts = asdict(world.opened["cloud"].facts())
        finally:
            world.opened["cloud"].close()
            world.catalog.close()
        listed = self.plain.list_objects_v2(Bucket=s3_world.BUCKET, Prefix=folder.name + "/")
        left = [one["Key"] for one in listed.get("Contents", ())] + s3_world.uploads(world, self.plain)
        facts.pop("place"), facts.pop("seen_ns")
        return facts, next(seen) - 1, left


@pytest.mark.parametrize("options", [{}, {"tags": {"who": "stowage"}, "storage_class": "STANDARD_IA"}])
@pytest.mark.parametrize("fault", ["lost", "cut", "reset", "503"])
def test_an_answer_that_is_lost_changes_nothing_that_is_found(server, plain, tmp_path, fault, options):
    trial = Trial(server, plain, tmp_path, options)
    with s3proxy.Proxy(server["endpoint"]) as proxy:
        good, requests, left = trial.found(proxy, None, 0)
        assert left == [] and requests > 10 and good["put_checked"] and good["part_checked"]
        for number in range(1, requests + 1):
            facts, _requests, left = trial.found(proxy, fault, number)
            assert facts == good and left == [], (number, left)

"""`stowage usage` after days of real work: what it tells of a bucket is what a counting proxy before it saw."""

from __future__ import annotations

import contextlib
import random
import shutil
from dataclasses import asdict

import counting
import pytest
import s3_world
import s3server
from backupcore.hookspecs import Spent
from cli_lab import Server

from backupcore.catalog import spending
from backupcore.catalog.store import Catalog

PRICE = {"currency": "$", "storage_gb": 1000, "write_1000": 5, "request_1000": 0.4, "read_gb": 90}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3")) as answer:
        yield s3_world.plain_client(answer), answer


@pytest.fixture
def proxy(bucket):
    with counting.Counting(bucket[1]["endpoint"]) as found:
        yield found


@pytest.fixture
def server(tmp_path, bucket, proxy):
    server = Server(tmp_path)
    keys = s3_world.write_keys(tmp_path / "credentials", bucket[1])
    server.write(
        targets={"cloud": {"type": "s3", "bucket": s3_world.BUCKET, "prefix": tmp_path.name, "endpoint": proxy.url,
                           "addressing": "path", "credentials": str(keys), "part_size": "5 MiB", "price": PRICE}},
        policies={"standard": {"copies": [{"target": "cloud", "keep": {"last": 1}}], "compress": "none",
                               "keep_on_holding": 0}},
        prune={"grace": 0}, drill={"nightly": False},
    )  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "big").write_bytes(random.Random(1).randbytes(12 << 20))
    server.client("web1", {"data": tmp_path / "data"})
    with contextlib.closing(server):
        yield server


def counted(server):
    with Catalog(server.base / "state" / "catalog.sqlite") as catalog:
        rows = spending.spent_by_month(catalog)
        assert {target for target, _month in rows} == {"cloud"}
        every = [asdict(one) for one in rows.values()]
        stays = spending.stays_between(catalog, 0, 1 << 62)
    return {name: sum(one[name] for one in every) for name in Spent.__dataclass_fields__}, stays


def test_days_of_work_are_told_to_the_request_and_byte(server, proxy, bucket, tmp_path):
    server.stowage("check", "--json")
    server.stowage("run", "--level", "0", "--source", "data")
    proxy.refuse = lambda number: number % 7 == 0
    server.stowage("run", "--level", "0", "--source", "data")
    server.stowage("verify", "--full")
    proxy.refuse = lambda number: False
    shutil.rmtree(tmp_path / "holding")
    (tmp_path / "holding").mkdir(mode=0o700)
    server.stowage("restore", "web1:" + str(tmp_path / "data"), "--to", tmp_path / "back")
    for _turn in range(2):
        server.stowage("prune")
    found, stays = counted(server)
    assert found.pop("woken") == 0
    assert found == proxy.counted()
    assert found["sent"] > 24 << 20 and found["got"] > 24 << 20 and found["delete"] > 5
    gone, there = sorted(stays, key=lambda one: one.came_ns)
    assert gone.gone_ns is not None and there.gone_ns is None
    listed = bucket[0].list_objects_v2(Bucket=s3_world.BUCKET, Prefix=f"{tmp_path.name}/web1/")["Contents"]
    assert (there.bytes, there.objects) == (sum(one["Size"] for one in listed), len(listed))

    answer = server.json("usage")
    (row,) = answer["rows"]
    assert row["requests"] == {name: found[name] for name in ("write", "read", "delete")}
    assert (row["egress"], row["sent"], row["bytes"]) == (found["got"], found["sent"], there.bytes)
    cost = row["cost"]["$"]
    assert cost["requests"] == pytest.approx(found["write"] / 200 + found["read"] / 2500, abs=1e-5)
    assert cost["read"] == pytest.approx(found["got"] / 1e9 * 90, abs=1e-5)
    before = proxy.number
    what_if = tmp_path / "weekly.yml"
    what_if.write_text("policies: {standard: {copies: [{target: cloud, every: week}]}}\n")
    told = server.json("usage", "--what-if", what_if)
    assert told["forecast"]["next"]["rows"][0]["bytes"] > there.bytes
    assert told["what_if"]["changes"][told["forecast"]["next"]["month"]][0]["more"]["$"] != 0
    assert proxy.number == before  # nobody was asked

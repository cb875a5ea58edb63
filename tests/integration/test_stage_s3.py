"""Staging to a real S3 server (Ceph's gateway): killed in mid-upload, gone on with, proven, and read by hand."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
import s3proxy
import s3server
from backupcore.hookspecs import TargetContext
from botocore.config import Config
from moto.server import ThreadedMotoServer
from stage_world import World

from backupcore import hours
from backupcore.settings import CopyRule, TargetSettings
from backupcore.stage import pace, release, stager
from backupcore.targets.s3 import S3Options, S3Target

ROOT = Path(__file__).parents[2]

MIB = 1 << 20
BUCKET = "staging"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with s3server.running(folder) as answer:
        yield answer


@pytest.fixture(scope="module")
def plain(server):
    client = boto3.client(
        "s3", endpoint_url=server["endpoint"], aws_access_key_id=server["access_key"], region_name="us-east-1",
        aws_secret_access_key=server["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def proxy(server):
    with s3proxy.Proxy(server["endpoint"]) as found:
        yield found


@pytest.fixture
def world(proxy, plain, server, tmp_path):
    """As in the unit tests, with one target `cloud` behind the proxy, each test below a prefix of its own."""
    world = World(tmp_path)
    keys = tmp_path / "credentials"
    keys.write_text(json.dumps({name: server[name] for name in ("access_key", "secret_key")}))
    keys.chmod(0o600)
    given = {
        "bucket": BUCKET, "prefix": tmp_path.name, "endpoint": proxy.url, "addressing": "path",
        "credentials": str(keys), "part_size": 5 * MIB, "parallel": 2,
    }  # fmt: skip
    world.settings = replace(world.settings, targets={"cloud": TargetSettings("cloud", "s3", given)})
    world.policy(CopyRule("cloud"))
    world.opened = {"cloud": open_cloud(world)}
    yield world
    world.opened["cloud"].close()
    world.catalog.close()


def open_cloud(world) -> S3Target:
    context = TargetContext("cloud", world.server, world.settings.state / "targets/cloud")
    return S3Target(S3Options(**world.settings.targets["cloud"].options), context)


def stored(world, plain):
    """name below the prefix -> bytes, of all objects of the image."""
    prefix = world.settings.targets["cloud"].options["prefix"] + "/"
    found = {}
    for item in plain.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ()):
        name = item["Key"][len(prefix) :]
        if not name.startswith(".stowage/"):
            found[name] = plain.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
    return found


def test_a_copy_is_proven_by_the_place_without_reading_it_back(world, proxy, plain):
    dump = world.dump(parts=(11 * MIB, 3 * MIB))
    (result,) = world.stage()
    assert result.ok, result
    assert world.states(dump) == {"cloud": "verified"}
    # of the place something may be asked (versions, lock, unfinished uploads), no object is read
    read = [path for method, path, _size in proxy.requests if method == "GET" and "list-type" not in path]
    assert not [path for path in read if not path.startswith(f"/{BUCKET}?") or "web1%2F" in path]
    assert stored(world, plain) == world.files(world.holding)
    puts = [path for method, path, _size in proxy.requests if method == "PUT" and dump.id in path]
    assert puts[-1].endswith("manifest.json")


def parts_there(plain, word):
    """Numbers of the upload parts that the server has of unfinished files with word in their name."""
    found = set()
    for upload in plain.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
        if word in upload["Key"]:
            listed = plain.list_parts(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
            found |= {part["PartNumber"] for part in listed.get("Parts", ())}
    return found


KILLED = """
import pickle, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_stage_s3 import open_cloud
from stage_world import World
from backupcore.catalog import places
from backupcore.catalog.store import Catalog
from backupcore.stage import stager
world = World.__new__(World)
world.settings = pickle.loads(Path(sys.argv[1]).read_bytes())
world.server = places.server_id(world.settings.state)
target = open_cloud(world)
catalog = Catalog(places.catalog_file(world.settings.state))
stager.stage(world.settings, catalog, lambda name: target)
"""


def test_killed_in_mid_upload_the_next_run_sends_only_what_is_missing(world, proxy, plain, tmp_path):
    dump = world.dump(parts=(6 * MIB, 41 * MIB))
    saved = tmp_path / "settings"
    saved.write_bytes(pickle.dumps(world.settings))
    script = KILLED.format(paths=[str(ROOT / "tests/integration"), str(ROOT / "tests/lab")])
    proxy.fault = lambda method, path: "mute" if re.search(r"0001.*partNumber=(5|6)(&|$)", path) else None
    with subprocess.Popen([sys.executable, "-c", script, saved], cwd=ROOT) as child:
        deadline = time.monotonic() + 50
        while len(parts_there(plain, "image-0001")) < 4:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        child.send_signal(signal.SIGKILL)
    assert world.states(dump) == {"cloud": "copying"}
    before = stored(world, plain)
    assert not any(name.endswith("manifest.json") for name in before)
    proxy.fault = lambda method, path: None
    proxy.requests.clear()
    (result,) = world.stage()
    assert result.ok, result
    sent = [path for method, path, _size in proxy.requests if method == "PUT"]
    assert not [path for path in sent if "image-0000" in path], "the part that was whole"
    again = {int(re.search(r"partNumber=(\d+)", path).group(1)) for path in sent if "image-0001" in path}
    assert again == {5, 6, 7, 8, 9}
    assert stored(world, plain) == world.files(world.holding)
    assert plain.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


def test_a_bucket_that_fails_for_a_night_costs_that_night_only(world, proxy, plain, monkeypatch):
    monkeypatch.setattr("backupcore.targets._s3_client.ATTEMPTS", 1)
    world.opened["cloud"].facts()
    world.opened["cloud"].close()
    first, second = world.dump(), world.dump()
    proxy.fault = lambda method, path: "503"
    assert [one.ok for one in world.stage()] == [False, False]
    assert world.states(first) == {"cloud": "failed"}
    assert release.release(world.settings, world.catalog).dumps == ()
    proxy.fault = lambda method, path: None
    assert [one.ok for one in world.stage()] == [True, True]
    assert release.release(world.settings, world.catalog).dumps == (first.id,)
    assert not Path(first.holding).exists() and Path(second.holding).is_dir()


def test_the_image_in_the_bucket_checks_out_by_hand(world, plain, tmp_path):
    dump = world.dump(parts=(6 * MIB,))
    assert all(one.ok for one in world.stage())
    place = tmp_path / "by-hand"
    place.mkdir()
    for name, content in stored(world, plain).items():
        (place / name.rpartition("/")[2]).write_bytes(content)
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=place, check=True)
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(world.settings.keys / "signing.pub"),
         "-in", "manifest.json", "-sigfile", "manifest.sig"],
        cwd=place, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert hashlib.sha256((place / "manifest.json").read_bytes()).hexdigest() == dump.manifest_sha256


def test_two_servers_in_one_bucket_do_not_meet(world, proxy, plain, tmp_path_factory):
    """Each under a prefix of its own, or even under the same one: names of dumps tell them apart."""
    world.dump()
    assert all(one.ok for one in world.stage())
    other = World(tmp_path_factory.mktemp("other"))
    other.settings = replace(other.settings, targets=world.settings.targets)
    other.policy(CopyRule("cloud"))
    target = open_cloud(other)
    try:
        other.dump()
        results = stager.stage(other.settings, other.catalog, lambda name: target)
        assert all(one.ok for one in results)
        marks = {f".stowage/{one.server}" for one in (world, other)}
        signers = {f".stowage/keys/{one.signer.fingerprint}.pub" for one in (world, other)}
        assert {found.name for found in target.list(".stowage/")} == marks | signers
        assert stored(world, plain) == {**world.files(world.holding), **other.files(other.holding)}
    finally:
        target.close()
        other.catalog.close()


def test_a_bucket_that_stores_what_was_damaged_on_the_way_is_found_out_by_reading_back(tmp_path):
    """moto checks nothing: what it kept is known only when it is read."""
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    world = World(tmp_path)
    keys = tmp_path / "credentials"
    keys.write_text(json.dumps({"access_key": "k", "secret_key": "s"}))
    keys.chmod(0o600)
    given = {"bucket": BUCKET, "endpoint": "http://%s:%d" % moto.get_host_and_port(), "credentials": str(keys)}
    world.settings = replace(world.settings, targets={"cloud": TargetSettings("cloud", "s3", given)})
    world.policy(CopyRule("cloud"))
    target = world.opened["cloud"] = open_cloud(world)
    damage = [True]

    def flip(request, **_kwargs):
        if damage and "/image-0001" in request.url:
            damage.pop()
            body = request.body.read()
            request.body = bytes([body[0] ^ 1]) + body[1:]

    try:
        target.client().create_bucket(Bucket=BUCKET)
        target.client().meta.events.register("before-send.s3.PutObject", flip)
        dump = world.dump()
        (result,) = world.stage()
        assert not result.ok and "gives other bytes" in result.message and "image-0001" in result.message
        assert target.stat(f"web1/etc/{dump.id}/manifest.json") is None
        assert release.release(world.settings, world.catalog).dumps == ()
        (result,) = world.stage()
        assert result.ok and world.states(dump) == {"cloud": "verified"}
        names = [found.name for found in target.list("web1/")]
        assert {name: b"".join(target.read(name)) for name in names} == world.files(world.holding)
    finally:
        target.close()
        world.catalog.close()
        moto.stop()


def upload_parts_sent(proxy):
    return [path.split("partNumber=")[1].split("&")[0] for method, path, _size in proxy.requests
            if method == "PUT" and "partNumber=" in path and "image-0000" in path]  # fmt: skip


def test_the_end_of_a_window_stops_at_the_upload_part_and_the_next_goes_on_without_sending_one_twice(
    world, proxy, plain
):
    dump = world.dump(parts=(31 * MIB,))
    (result,) = world.stage(leave=lambda: "its window has closed" if upload_parts_sent(proxy) else "")
    assert result.waits and result.message == "its window has closed"
    row = world.catalog.copies(dump=dump.id)[0]
    assert row.state == "copying" and not row.error
    first = upload_parts_sent(proxy)
    assert 1 <= len(first) < 6 and len(parts_there(plain, dump.id)) == len(first)
    assert plain.list_objects_v2(Bucket=BUCKET, Prefix=f"{world.settings.targets['cloud'].options['prefix']}/web1")[
        "KeyCount"
    ] == 0  # fmt: skip
    (result,) = world.stage()
    assert result.ok and world.states(dump) == {"cloud": "verified"}
    assert sorted(upload_parts_sent(proxy), key=int) == [str(number) for number in range(1, 8)]
    assert stored(world, plain) == world.files(world.holding)


def test_two_parallel_uploads_share_the_rate_of_their_target_within_five_percent(world, tmp_path):
    target = world.opened["cloud"]
    assert target.capabilities.own_checksums  # asked before: it is no part of the time
    settings = replace(world.settings.targets["cloud"], rate=hours.parse_rates("40 Mbit/s"))
    world.settings = replace(world.settings, targets={"cloud": settings})
    paces = pace.Paces(world.settings, lambda: None)
    size = 11 * MIB
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(os.urandom(size))
    (limiter,) = paces.of("standard", "cloud", None).limiters
    moments, asked = [], []

    def sleep(seconds):
        asked.append(seconds)
        time.sleep(seconds)

    limiter._sleep = sleep

    def timed(given):
        def wait(count):
            begun = time.monotonic()
            given(count)
            if count:
                moments.extend((begun, time.monotonic()))

        return wait

    with ThreadPoolExecutor(2) as pool:
        names = ("one", "two")
        given = {name: timed(paces.of("standard", "cloud", None)) for name in names}
        jobs = [pool.submit(target.put, name, tmp_path / name, pace=given[name]) for name in names]
        done = [job.result() for job in jobs]
    assert [one.size for one in done] == [size, size]
    # on the line: not what an upload costs before and behind it
    assert 2 * size / (max(moments) - min(moments)) <= 5e6 * 1.05
    # a busy machine is late for other reasons: they are held back for no longer than the rate wants
    assert 0 < sum(asked) <= 2 * size / (5e6 * 0.95)

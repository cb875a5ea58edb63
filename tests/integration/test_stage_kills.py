"""Staging killed at any moment: it goes on at the upload part (S3) or the byte (SFTP), sends nothing twice beyond what
was on its way, loses nothing, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from dataclasses import replace

import pytest
import s3_world
import s3proxy
import s3server
import sftpserver
from s3_world import MIB, check_honest, uploads
from stage_world import World
from zygote import Zygote

from backupcore import clock, hours
from backupcore.settings import CopyRule, TargetSettings

PART = 5 * MIB
PARALLEL = 2
SLOW = hours.parse_rates("60 Mbit/s")  # that a kill comes in time


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with s3server.running(folder) as answer:
        yield answer


@pytest.fixture(scope="module")
def plain(server):
    return s3_world.plain_client(server)


@pytest.fixture
def proxy(server):
    with s3proxy.Proxy(server["endpoint"]) as found:
        yield found


@pytest.fixture
def world(proxy, plain, server, tmp_path):
    world = s3_world.make_world(tmp_path, server, proxy.url, parallel=PARALLEL)
    world.opened["cloud"].facts()
    yield world
    world.opened["cloud"].close()
    world.catalog.close()


class Killer:
    """Kills a child at a moment of its way: after some time, or when its n-th request comes or has been done."""

    def __init__(self, proxy):
        self.proxy, self.child, self.left, self.when = proxy, None, 0, ""
        proxy.fault = self.came
        proxy.answered = self.done
        self.turn = threading.Lock()

    def came(self, method, path):
        return self._count("came")

    def done(self, exchange):
        self._count("done")

    def _count(self, what):
        with self.turn:
            if self.child is not None and what == self.when:
                self.left -= 1
                if self.left == 0:
                    self.child.kill()

    def strike(self, zygote, numbers, length, requests):
        """One child, killed; whether it was before its end, and how many requests it had made."""
        begun = len(self.proxy.exchanges)
        with self.turn:
            self.when = numbers.choice(["came", "done", "time"])
            self.left = numbers.randrange(1, requests + 2)
            self.child = zygote.begin()
        if self.when == "time":
            time.sleep(numbers.random() * length)
            self.child.kill()
        else:
            deadline = time.monotonic() + max(120, 20 * length)
            while self.left > 0 and not self.child.told.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert time.monotonic() < deadline
        status = self.child.wait()
        with self.turn:
            self.child = None
        return status != 0, len(self.proxy.exchanges) - begun


def taken(proxy, since=0):
    """What the server has taken of images: (file, upload part or 0) -> bytes."""
    found = {}
    for one in proxy.exchanges[since:]:
        name = re.search(r"/([^/?]+/image-\d+[^/?]*)(?:\?.*partNumber=(\d+))?", one.path)
        if one.method == "PUT" and name and one.status == 200:
            found[name.group(1), int(name.group(2) or 0)] = one.size
    return found


def asked(proxy, since):
    """(file, upload part or 0) of all images' pieces that anybody began to send."""
    found = []
    for one in proxy.exchanges[since:]:
        name = re.search(r"/([^/?]+/image-\d+[^/?]*)(?:\?.*partNumber=(\d+))?", one.path)
        if one.method == "PUT" and name:
            found.append((name.group(1), int(name.group(2) or 0)))
    return found


def killed_again_and_again(world, proxy, plain, kills):
    seed = int(os.environ.get("STOWAGE_KILL_SEED", "20261123"))
    numbers = random.Random(seed)
    killer = Killer(proxy)
    sizes, cut, length, requests, gone = 0, 0, 1.0, 20, set()

    def more():
        parts = (numbers.choice([11 * MIB, 13 * MIB, 3000]), numbers.choice([2000, 6 * MIB]))
        dump = world.dump(client=numbers.choice(["web1", "web2"]), parts=parts)
        return sum(parts), dump

    with Zygote(world) as zygote:
        for kill in range(1, kills + 1):
            while len([row for row in world.catalog.dumps() if row.id not in gone]) < 2:
                sizes += more()[0]
            there, since = taken(proxy), len(proxy.exchanges)
            killed, count = killer.strike(zygote, numbers, length, requests)
            cut += killed
            # upload parts that the server had taken before this child began are never sent again; of a file that goes
            # in one request, what is on its way when the child is killed is all of it
            again = [piece for piece in asked(proxy, since) if piece in there and piece[1]]
            assert not again, (seed, kill, again)
            verified = check_honest(world, plain)
            if killed and kill % 5 and len(verified) < 2 + len(gone):
                continue
            begun, since = time.monotonic(), len(proxy.exchanges)
            there = taken(proxy)
            child = zygote.run()
            assert all(ok for _dump, _target, ok, _message in child.results), (seed, kill, child.results)
            again = [piece for piece in asked(proxy, since) if piece in there and piece[1]]
            assert not again, (seed, kill, again)
            if child.results:
                length, requests = time.monotonic() - begun, max(len(proxy.exchanges) - since, 10)
            verified = check_honest(world, plain)
            assert set(verified) | gone >= {row.id for row in world.catalog.dumps()}, (seed, kill)
            gone |= forget(world, plain, verified)
        world.opened["cloud"].clean(clock.now_ns() + clock.NS)
    assert uploads(world, plain) == []
    # every byte once, but for what was on its way when a child was killed
    sent = sum(one.got for one in proxy.exchanges if "/image-" in one.path and one.method == "PUT")
    assert sizes <= sent <= sizes + cut * PARALLEL * PART, (seed, sent, sizes, cut)
    rows = world.catalog.copies()
    assert len({(row.dump, row.target) for row in rows}) == len(rows) == len(world.catalog.dumps())
    assert {row.state for row in rows} == {"verified"}
    assert cut >= kills / 3, cut
    return sent - sizes, cut


def forget(world, plain, dumps):
    """Makes room: dumps that were compared leave the server and the holding disk, not the catalog."""
    for dump in dumps:
        row = world.catalog.dump(dump)
        if row.holding is None:
            continue
        prefix = f"{world.settings.targets['cloud'].options['prefix']}/{row.client}/{row.source}/{dump}/"
        for item in plain.list_objects_v2(Bucket=s3_world.BUCKET, Prefix=prefix)["Contents"]:
            plain.delete_object(Bucket=s3_world.BUCKET, Key=item["Key"])
        for path in (world.holding / row.client / row.source / dump).iterdir():
            path.unlink()
        world.catalog.set_holding(dump, None)
    return set(dumps)


def test_killed_at_some_moments_staging_goes_on_at_the_upload_part(world, proxy, plain):
    killed_again_and_again(world, proxy, plain, 15)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_at_two_hundred_moments_staging_goes_on_at_the_upload_part(world, proxy, plain):
    killed_again_and_again(world, proxy, plain, 200)


# -- other targets


@pytest.fixture
def box(tmp_path_factory):
    with sftpserver.running(tmp_path_factory.mktemp("box") / "ssh") as answer:
        line = sftpserver.Line(answer.port)
        answer.pin(line.port)
        yield answer, line
        line.close()


def lies(top):
    """Relative name -> bytes of all files of images below a folder, half made ones too."""
    found = {str(path.relative_to(top)): path for path in top.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".")}


def killed_a_few_times(world, kills, arrived):
    """Kills a staging whenever some more bytes arrived; then lets it come to its end. How many were cut."""
    numbers = random.Random(20261123)
    cut = 0
    with Zygote(world) as zygote:
        for _kill in range(kills):
            more = arrived() + numbers.randrange(1 << 16, 6 * MIB)
            child = zygote.begin()
            deadline = time.monotonic() + 60
            while arrived() < more and not child.told.exists():
                assert time.monotonic() < deadline
                time.sleep(0.005)
            child.kill()
            cut += child.wait() != 0
        child = zygote.run()
        assert all(ok for _dump, _target, ok, _message in child.results), child.results
    rows = world.catalog.copies()
    assert [row.state for row in rows] == ["verified"]
    return cut


def test_killed_while_it_sends_by_sftp_it_goes_on_at_the_byte(box, tmp_path):
    answer, line = box
    world = World(tmp_path)
    given = {"host": "127.0.0.1", "port": line.port, "user": sftpserver.USER, "path": "/home/stowage",
             "known_hosts": str(answer.known_hosts), "key": str(answer.key), "timeout": 20}  # fmt: skip
    world.settings = replace(world.settings, targets={"box": TargetSettings("box", "sftp", given, rate=SLOW)})
    world.policy(CopyRule("box"))
    try:
        dump = world.dump(parts=(24 * MIB, 2000))
        cut = killed_a_few_times(world, 6, lambda: sum(line.sent))
        assert cut >= 3
        # under way is what the server had not acknowledged yet; ssh's own words come on top
        assert sum(line.sent) <= dump.stored_size + cut * 5 * MIB + 1 * MIB
        assert lies(answer.disk / "stowage") == world.files(world.holding)
    finally:
        world.catalog.close()


def test_killed_while_it_writes_to_a_folder_nothing_half_is_left(tmp_path):
    world = World(tmp_path)
    world.settings = replace(world.settings, targets={"nas": world.settings.targets["nas"]})
    top = tmp_path / "nas"
    given = {"path": str(top)}
    world.settings = replace(world.settings, targets={"nas": TargetSettings("nas", "directory", given, rate=SLOW)})
    world.policy(CopyRule("nas"))
    top.mkdir()

    def arrived():
        found = 0
        for path in top.rglob("*"):
            with contextlib.suppress(OSError):
                found += path.stat().st_size if path.is_file() else 0
        return found

    try:
        world.dump(parts=(24 * MIB, 2000))
        cut = killed_a_few_times(world, 6, arrived)
        assert cut >= 2
        assert lies(top) == world.files(world.holding)
    finally:
        world.catalog.close()

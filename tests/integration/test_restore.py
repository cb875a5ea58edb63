"""Dumps by the real agent, restored by the real agent: from the holding disk, a directory and a bucket.

What came back is compared by a judge of its own (tests/lab/tree.py), at each level and each moment.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from backupcore import clock, wire
from backupcore.app.agent_build import HALVES, build_agent
from backupcore.catalog.records import CopyRow
from backupcore.catalog.store import Catalog
from backupcore.dump import driver, history, runlock, transport
from backupcore.errors import AgentRefused, StowageError
from backupcore.restore import deliver, request
from backupcore.restore.images import Images
from backupcore.restore.report import Options
from backupcore.schedule import bases
from backupcore.settings import Client, HoldingDisk, Policy, Settings, Source, TargetSettings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
import tree as lab  # noqa: E402

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


class World:
    """A server, a local client with its agent, and targets."""

    def __init__(self, base: Path, agent: Path):
        self.base = base
        base.chmod(0o700)
        (base / "holding").mkdir(mode=0o700)
        (base / "data").mkdir()
        self.data = base / "data"
        self.settings = Settings(
            file=base / "stowage.yml", state=base / "state", keys=base / "keys",
            holding=(HoldingDisk(base / "holding", 4 << 30),), cycle_days=7, targets={}, policies={}, clients={},
            known_hosts=base / "known_hosts.d",
        )  # fmt: skip
        self.catalog = Catalog(base / "state" / "catalog.sqlite")
        self.targets = {}
        self.agent = agent
        self.made = 0
        self.client("web1", {"data": {"path": str(self.data)}})

    def client(self, name, sources, compress="zstd", part_size=4 << 30):
        """A client on this machine; sources: name -> options."""
        config = self.base / f"{name}.json"
        options = {
            one: {"include": [], "exclude": [], "one_file_system": True, "before": None, "after": None, **given}
            for one, given in sources.items()
        }
        declared = {
            one: {"type": "tree", "options": given, "encrypt": "none", "recipients": []}
            for one, given in options.items()
        }
        scratch, permits = self.base / "scratch", self.base / "permits"
        config.write_text(json.dumps({
            "schema": 1, "client": name, "sources": declared, "scratch": str(scratch), "permits": str(permits),
        }))  # fmt: skip
        config.chmod(0o600)
        policy = Policy("standard", compress=compress, part_size=part_size)
        made = {one: Source(name, one, "tree", policy, given) for one, given in options.items()}
        client = Client(
            name, made, transport="local", agent_python=sys.executable, agent=str(self.agent), agent_config=str(config)
        )
        self.settings = replace(self.settings, clients={**self.settings.clients, name: client})

    def dump(self, level, client="web1", source=None):
        """Dumps; the rows made. Each dump begins in a second of its own."""
        pause = self.made + 1.05 - time.time()
        if pause > 0:
            time.sleep(pause)
        with runlock.hold(self.settings):
            names = [source] if source else list(self.settings.clients[client].sources)
            past = history.gather(self.settings, self.catalog)
            planned = [
                bases.Planned(client, one, *bases.choose(past.get((client, one), ()), level)) for one in names
            ]
            run = self.catalog.begin_run("run")
            results = driver.run_dumps(self.settings, self.catalog, planned, run=run)
            self.catalog.end_run(run.id, "OK", {})
        assert all(result.ok for result in results), results
        rows = [self.catalog.dump(result.dump) for result in results]
        self.made = max(row.begun_ns for row in rows) / clock.NS
        return rows

    def directory(self, name):
        """A directory target with a copy of every dump."""
        from backupcore.hookspecs import TargetContext

        from backupcore.targets.directory import DirectoryOptions, DirectoryTarget

        path = self.base / name
        path.mkdir(mode=0o700)
        folder = self.base / f"{name}.folder"
        folder.mkdir(mode=0o700)
        target = DirectoryTarget(DirectoryOptions(path=path), TargetContext(name, "0" * 16, folder))
        return self._add(name, "directory", target)

    def bucket(self, name, endpoint):
        """A bucket with a copy of every dump."""
        import boto3
        from backupcore.hookspecs import TargetContext

        from backupcore.targets.s3 import S3Options, S3Target

        secret = self.base / "s3.json"
        secret.write_text(json.dumps({"access_key": "a", "secret_key": "b"}))
        secret.chmod(0o600)
        boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
        ).create_bucket(Bucket=name)
        options = S3Options(bucket=name, region="us-east-1", endpoint=endpoint, credentials=secret)
        folder = self.base / f"{name}.folder"
        folder.mkdir(mode=0o700)
        return self._add(name, "s3", S3Target(options, TargetContext(name, "0" * 16, folder)))

    def _add(self, name, kind, target):
        self.targets[name] = target
        settings = {**self.settings.targets, name: TargetSettings(name, kind, {})}
        self.settings = replace(self.settings, targets=settings)
        for row in self.catalog.dumps():
            self.copy(row, name)
        return target

    def copy(self, row, name):
        """A copy of one dump on a target."""
        folder = Path(row.holding)
        for file in sorted(folder.iterdir()):
            self.targets[name].put(f"{row.client}/{row.source}/{row.id}/{file.name}", file)
        self.catalog.put_copy(CopyRow(row.id, name, "verified"))

    def images(self, only=None):
        return Images(self.settings, self.catalog, self.targets.__getitem__, only)

    def restore(self, *words, at=None, only=None, to=None, options=None, connect=None):
        """Restores to a new folder; (report, folder)."""
        target = to or self.base / f"out{len(list(self.base.glob('out*')))}"
        wanted = request.resolve(self.settings, self.catalog, words, at, only)
        connect = connect or (lambda: transport.connect_extract(self.settings, str(target), self.agent))
        report = deliver.restore(self.images(only), wanted, options or Options(), connect)
        return report, target

    def cat(self, *words, at=None):
        return b"".join(deliver.cat(self.images(), request.resolve(self.settings, self.catalog, words, at)))


@pytest.fixture(scope="session")
def agent(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent") / "agent.pyz"
    path.write_bytes(build_agent(str(path), HALVES) or path.read_bytes())
    return path


@pytest.fixture
def world(tmp_path, agent):
    made = World(tmp_path, agent)
    yield made
    made.catalog.close()


@pytest.fixture(scope="session")
def s3_endpoint():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def write(path: Path, data: bytes, age: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=((time.time_ns() - age * clock.NS,) * 2))


def same(world, out, ignore=()):
    found = lab.differences(lab.snapshot(world.data), lab.snapshot(Path(str(out) + str(world.data))), ignore)
    assert not found, "\n".join(found)


@needs_root
def test_a_hostile_tree_comes_back_at_each_level_and_moment_from_each_place(world, s3_endpoint):
    world.data.rmdir()
    lab.make_hostile_tree(world.data)
    moments = []

    def dump(level):
        seen = lab.snapshot(world.data)
        (row,) = world.dump(level)
        assert lab.snapshot(world.data) == seen
        assert row.level == level
        moments.append((row, seen))

    dump(0)
    lab.change_hostile_tree(world.data, 1)
    dump(1)
    lab.change_hostile_tree(world.data, 2)
    dump(2)
    lab.quiet_edit(os.fsencode(world.data) + b"/swap/edited")
    shutil.rmtree(world.data / "deep")
    dump(3)
    shutil.rmtree(os.fsencode(world.data) + b"/swap")
    (world.data / "swap").write_bytes(b"a file")
    dump(1)
    world.directory("nas")
    world.bucket("cloud", s3_endpoint)
    for row, seen in moments:
        for place in ("holding", "nas", "cloud"):
            report, out = world.restore("web1:/", at=row.begun_ns, only=place)
            assert (report.failed, report.not_kept) == ([], [])
            found = lab.snapshot(Path(str(out) + str(world.data)))
            lines = lab.differences(seen, found)
            assert not lines, f"{row.id} from {place}:\n" + "\n".join(lines[:40])
            assert {use.place for use in report.read_from} == {place}
            shutil.rmtree(out)


@needs_root
def test_exact_and_overwrite_turn_any_moment_into_any_other(world):
    world.data.rmdir()
    lab.make_hostile_tree(world.data)
    moments = []
    for level, step in ((0, 1), (1, 2), (2, None)):
        seen = lab.snapshot(world.data)
        (row,) = world.dump(level)
        moments.append((row, seen))
        if step:
            lab.change_hostile_tree(world.data, step)
    out = world.base / "out"
    options = Options(existing="overwrite", exact=True)
    for number in (0, 2, 0, 1, 2, 1, 0):
        row, seen = moments[number]
        report, _out = world.restore("web1:/", at=row.begun_ns, to=out, options=options)
        assert report.failed == []
        # a name that is replaced keeps what hard links it had: contents, names and modes are what is compared
        lines = lab.differences(seen, lab.snapshot(Path(str(out) + str(world.data))))
        assert not lines, f"{row.id}:\n" + "\n".join(lines[:40])


def test_a_whole_full_comes_back(world):
    write(world.data / "a/b/c.txt", b"content")
    write(world.data / "big", os.urandom(9 << 20))
    (world.data / "link").symlink_to("a/b/c.txt")
    os.link(world.data / "big", world.data / "zbig")
    world.dump(0)
    report, out = world.restore("web1:/")
    assert (report.status, report.failed) == ("ok", [])
    same(world, out)
    assert (report.files, report.entries - report.folders) == (3, 4) and report.read_from[0].place == "holding"


def grow(world, count=400):
    """A tree whose image has many frames."""
    for number in range(count):
        write(world.data / f"d{number % 7}" / f"f{number:04}", os.urandom(100_000))
    write(world.data / "d3" / "wanted", os.urandom(10_240))


def test_one_small_file_of_a_big_image_costs_one_range_of_its_bucket(world, s3_endpoint):
    grow(world)
    world.client("web1", {"data": {"path": str(world.data)}}, part_size=8 << 20)
    (row,) = world.dump(0)
    target = world.bucket("one-file", s3_endpoint)
    world.catalog.set_holding(row.id, None)
    reads = []
    read = target.read

    def counted(name, offset=0, length=None):
        reads.append((name.rpartition("/")[2], length))
        return read(name, offset, length)

    target.read = counted
    report, out = world.restore(f"web1:{world.data}/d3/wanted")
    assert Path(f"{out}{world.data}/d3/wanted").read_bytes() == (world.data / "d3/wanted").read_bytes()
    names = sorted(name.replace(".zst", "") for name, _length in reads)
    assert names[0] == "frames.tsv" and names[2:] == ["manifest.json", "manifest.sig"] and len(names) == 4
    (length,) = [length for name, length in reads if name.startswith("image")]
    assert length < 6 << 20 and report.bytes_read < 7 << 20 < row.stored_size
    assert world.cat(f"web1:{world.data}/d3/wanted") == (world.data / "d3/wanted").read_bytes()


@needs_root
def test_parts_of_a_hostile_tree_come_back_as_they_were(world):
    world.data.rmdir()
    lab.make_hostile_tree(world.data)
    world.dump(0)
    lab.change_hostile_tree(world.data, 1)
    world.dump(1)
    seen = lab.snapshot(world.data)
    for path in sorted(name for name in os.listdir(os.fsencode(world.data))):
        word = f"web1:{world.data}/" + os.fsdecode(path.replace(b"\\", b"\\\\"))
        report, out = world.restore(word)
        assert report.failed == []
        found = lab.snapshot(Path(str(out) + str(world.data)))
        keep = {one: what for one, what in seen.items() if one == path or one.startswith(path + b"/")}
        del found[b"."]
        lines = lab.differences(keep, found, ignore=("links",))
        assert not lines, "\n".join(lines[:20])
        shutil.rmtree(out)


def test_scratch_folder_by_default_elsewhere_with_a_permit_only(world):
    write(world.data / "etc/conf", b"old")
    (row,) = world.dump(0)
    client = world.settings.clients["web1"]

    def connect():
        return transport.connect(world.settings, client)

    report, _out = world.restore("web1:/", connect=connect)
    assert report.destination == f"{world.base}/scratch/{row.id}"
    assert Path(f"{report.destination}{world.data}/etc/conf").read_bytes() == b"old"
    assert report.next and report.destination in report.next[0]
    write(world.data / "etc/conf", b"spoiled")
    in_place = Options(destination="/", existing="overwrite")
    with pytest.raises(AgentRefused, match="permit"):
        world.restore("web1:/", connect=connect, options=in_place)
    permits = world.base / "permits"
    permits.mkdir(mode=0o700)
    permit = {
        "schema": 1, "id": "p1", "dump": row.id, "paths": [str(world.data / "etc")], "destination": "/",
        "expires": time.time() + 600,
    }  # fmt: skip
    (permits / "p1").write_text(json.dumps(permit))
    (permits / "p1").chmod(0o600)
    with pytest.raises(AgentRefused, match="p2"):
        world.restore("web1:/", connect=connect, options=replace(in_place, permit="p2"))
    assert (world.data / "etc/conf").read_bytes() == b"spoiled"
    report, _out = world.restore(f"web1:{world.data}/etc", connect=connect, options=replace(in_place, permit="p1"))
    assert report.failed == [] and (world.data / "etc/conf").read_bytes() == b"old"


def test_what_exists_is_refused_kept_or_replaced(world):
    write(world.data / "a", b"then")
    write(world.data / "b", b"then")
    world.dump(0)
    out = world.base / "out"
    place = Path(f"{out}{world.data}")
    rules = ("refuse", 1, 0, b"now"), ("keep", 0, 1, b"now"), ("overwrite", 0, 0, b"then")
    for existing, failed, skipped, content in rules:
        shutil.rmtree(out, ignore_errors=True)
        write(place / "a", b"now")
        report, _out = world.restore("web1:/", to=out, options=Options(existing=existing))
        assert (report.failed_count, report.skipped) == (failed, skipped)
        assert (place / "a").read_bytes() == content and (place / "b").read_bytes() == b"then"
        assert report.exit_status == bool(failed)


def test_exact_keeps_what_was_never_dumped_and_takes_away_what_was_not_there(world):
    world.client("web1", {"data": {"path": str(world.data), "exclude": ["cache", "*.tmp"]}})
    write(world.data / "a", b"1")
    write(world.data / "cache/x", b"precious")
    write(world.data / "d/y.tmp", b"precious")
    world.dump(0)
    write(world.data / "d/z", b"2")
    world.dump(1)
    out = world.base / "out"
    place = Path(f"{out}{world.data}")
    shutil.copytree(world.data, place)
    write(place / "new", b"3")
    write(place / "d/newer/x", b"4")
    report, _out = world.restore("web1:/", to=out, options=Options(existing="overwrite", exact=True))
    assert report.failed == []
    assert sorted(os.listdir(place)) == ["a", "cache", "d"] and sorted(os.listdir(place / "d")) == ["y.tmp", "z"]
    assert (place / "cache/x").read_bytes() == b"precious"


def test_a_damaged_image_gives_all_but_the_files_in_its_wrong_frame(world):
    grow(world, 100)
    (row,) = world.dump(0)
    path = next(Path(row.holding).glob("image-0000*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report, out = world.restore("web1:/")
    assert report.exit_status == 1 and 0 < report.failed_count < 60
    place = Path(f"{out}{world.data}")
    lost = {name for name, _why in report.failed}
    for folder, _folders, files in os.walk(world.data):
        for name in files:
            full = Path(folder) / name
            back = place / full.relative_to(world.data)
            assert back.exists() != (str(full) in lost)
            if back.exists():
                assert back.read_bytes() == full.read_bytes()
    assert "--level 0" in " ".join(report.next)
    # another good copy, and nothing is lost
    world.directory("nas")
    target = world.base / "nas" / "web1" / "data" / row.id / path.name
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    report, out = world.restore("web1:/")
    assert report.failed == [] and report.status == "warn"
    same(world, out)


def test_an_agent_that_is_killed_ends_the_restore_with_an_error_and_it_can_be_done_again(world):
    grow(world, 300)
    world.dump(0)
    out = world.base / "out"
    begun = time.monotonic()

    def connect():
        agent = transport.connect_extract(world.settings, str(out), world.agent)
        send = agent.channel.send

        def cut(kind, *payloads):
            if kind == wire.FRAME and cut.left == 0:
                os.killpg(agent._process.pid, 9)
            cut.left -= kind == wire.FRAME
            send(kind, *payloads)

        cut.left = 4
        agent.channel.send = cut
        return agent

    with pytest.raises(StowageError) as caught:
        world.restore("web1:/", to=out, connect=connect)
    assert caught.value.exit_status == 1 and "\n" not in caught.value.message
    assert time.monotonic() - begun < 60
    # a second try over what lies there brings it all, and takes away what was half written
    report, _out = world.restore("web1:/", to=out, options=Options(existing="overwrite", exact=True))
    assert report.failed == []
    same(world, out)

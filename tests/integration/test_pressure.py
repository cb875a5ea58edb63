"""Nights with more to dump than the holding disk holds: copies free it while dumps go on, and nobody is lost.

Real small file systems: what is asked for is the room, so the trees are large and of few files. A source that is larger
than the disk is another story (test_direct.py): here each fits, but not beside the others.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import boto3
import pytest
import s3server
from botocore.config import Config
from cli_lab import Server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")
MIB = 1 << 20


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3")) as answer:
        yield answer


@pytest.fixture
def server(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    made = Server(base)
    made.mounted = []
    made.write(drill={"nightly": False}, verify={"night": 0}, dumps_at_once=3)
    yield made
    made.close()
    for point in made.mounted:
        subprocess.run(["umount", "-l", str(point)], check=False)


def mount(server, name, size, kind="tmpfs"):
    """A holding disk of its own file system."""
    point = server.base / name
    point.mkdir(exist_ok=True)
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=700", "tmpfs", point], check=True)
    else:
        image = server.base / f"{name}.img"
        with open(image, "wb") as stream:
            stream.truncate(size * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, point], check=True)
        point.chmod(0o700)
    server.mounted.append(point)
    return point


def remount(point, option):
    """Mounts anew what is mounted; while somebody writes there it may be busy for a moment."""
    for _try in range(200):
        done = subprocess.run(["mount", "-o", f"remount,{option}", str(point)], capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.05)
    raise AssertionError(done.stderr.decode())


def sources(server, count, size, policy=None, priorities=(), clients=3):
    """count sources of size MiB each, on some clients; all read the same tree."""
    tree = server.base / "tree"
    if not tree.is_dir():
        tree.mkdir()
        for number in range(4):
            with open(tree / f"f{number}", "wb") as stream:
                for _ in range(size // 4):
                    stream.write(os.urandom(MIB))
    for client in range(clients):
        mine = {}
        for number in range(client, count, clients):
            mine[f"s{number:02d}"] = {"path": str(tree)}
        agents = {name: dict(value) for name, value in mine.items()}
        for name, value in mine.items():
            value.update({"policy": policy} if policy else {})
            if priorities:
                value["priority"] = priorities[int(name[1:])]
        server.client(f"c{client}", mine, agent_sources=agents)


class Watch:
    """The most that lay on a disk, and what was waited for, while a run is at work."""

    def __init__(self, server, *disks):
        self.server, self.disks, self.most, self.whys, self.both = server, disks, [0] * len(disks), set(), False
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.look)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_exc):
        self.end.set()
        self.thread.join()

    def look(self):
        while not self.end.wait(0.05):
            for number, disk in enumerate(self.disks):
                found = os.statvfs(disk)
                used = (found.f_blocks - found.f_bfree) * found.f_frsize
                self.most[number] = max(self.most[number], used)
            try:
                now = json.loads((self.server.base / "state" / "status.json").read_bytes())
            except (OSError, ValueError):
                continue
            self.whys |= {one["why"] for one in now["dumps"] if one.get("why")}
            phases = {(bool(one.get("target")), one["phase"]) for one in now["dumps"]}
            self.both |= (True, "copying") in phases and (False, "dumping") in phases


def copies(server):
    """source -> {target: state} of its newest dump."""
    found = {}
    for one in server.json("list", "dumps", "--limit", "0")["dumps"]:
        found[one["source"]] = one["copies"]
    return found


def s3_target(cloud, bucket, server):
    client = boto3.client(
        "s3", endpoint_url=cloud["endpoint"], aws_access_key_id=cloud["access_key"], region_name="us-east-1",
        aws_secret_access_key=cloud["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket=bucket)
    keys = server.base / "cloud.json"
    keys.write_text(json.dumps({"access_key": cloud["access_key"], "secret_key": cloud["secret_key"]}))
    keys.chmod(0o600)
    return {"type": "s3", "bucket": bucket, "endpoint": cloud["endpoint"], "region": "us-east-1",
            "addressing": "path", "credentials": str(keys)}  # fmt: skip


def directory(server, name="nas"):
    (server.base / name).mkdir(exist_ok=True)
    return {"type": "directory", "path": str(server.base / name)}


def policy(*rules, **more):
    return {"standard": {"compress": "none", "copies": list(rules), **more}}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_gigabyte_goes_through_a_disk_of_200_mb(server, cloud):
    """Also with a kill in the middle of the second night."""
    disk = mount(server, "small", 200)
    server.write(
        holding=[{"path": str(disk), "use": "170 MiB"}], targets={"nas": directory(server), "cloud":
        s3_target(cloud, "pressure", server)}, policies=policy({"target": "nas"}, {"target": "cloud"}),
    )  # fmt: skip
    sources(server, 16, 64)
    with Watch(server, disk) as watch:
        out, err = server.stowage("run", "--level", "0")
    found = copies(server)
    assert len(found) == 16 and all(one == {"nas": "verified", "cloud": "verified"} for one in found.values()), found
    assert 100 * MIB < watch.most[0] <= 172 * MIB
    assert any("waits for room on the holding disk: copying c" in why for why in watch.whys), watch.whys
    assert watch.both, "no copy was made while a dump was"
    assert "waits for room on the holding disk" in err
    # copies stand oldest first, as when they were made after the dumps
    time.sleep(1.1)
    child = server.start("run", "--level", "0")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        if len(list((server.base / "nas").rglob("manifest.json"))) >= 20:
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    time.sleep(1.1)
    server.stowage("run", "--level", "0")
    found = copies(server)
    assert len(found) == 16 and all(one == {"nas": "verified", "cloud": "verified"} for one in found.values()), found
    every = server.json("list", "dumps", "--limit", "0")["dumps"]
    assert len(every) >= 36 and all(one["copies"] == {"nas": "verified", "cloud": "verified"} for one in every)
    assert not [path for path in (disk / ".incoming").rglob("*") if path.is_file()]
    out = server.base / "out"
    server.stowage("restore", "c1", "s07", "--from", "cloud", "--to", out)
    restored = next(out.rglob("f3"))
    assert restored.read_bytes() == (server.base / "tree" / "f3").read_bytes()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["down", "window"])
def test_where_nothing_frees_the_disk_what_fits_is_made_and_the_others_say_why(server, how):
    disk = mount(server, "small", 70)
    nas = directory(server)
    rule = {"target": "nas"}
    if how == "down":
        (server.base / "nas").rmdir()
        (server.base / "nas").write_text("no folder")
    else:
        now = time.localtime()
        first = (now.tm_hour + 3) % 24
        rule["window"] = f"{first:02d}:00-{(first + 1) % 24:02d}:00"
    server.write(
        holding=[{"path": str(disk), "use": "66 MiB"}], targets={"nas": nas}, policies=policy(rule, holding="required"),
    )  # fmt: skip
    # the important ones are the last of the plan
    sources(server, 6, 20, priorities=[0, 0, 0, 0, 2, 2], clients=6)
    begun = time.monotonic()
    out, _err = server.stowage("run", "--level", "0", status=1)
    assert time.monotonic() - begun < 240  # and not for hours
    made = {one["source"] for one in server.json("list", "dumps")["dumps"]}
    assert len(made) == 3 and {"s04", "s05"} <= made
    failed = [line for line in out.splitlines() if line.startswith("FAIL c")]
    assert len(failed) == 3
    word = "copies to nas fail" if how == "down" else "copies to nas wait for their window"
    hint = "-> stowage check" if how == "down" else "-> stowage stage --now"
    assert all("holding disk" in line and word in line and hint in line for line in failed), failed
    if how == "down":
        (server.base / "nas").unlink()
    server.base.joinpath("nas").mkdir(exist_ok=True)
    server.stowage("stage", "--now")
    server.stowage("run", "--level", "0", status=0 if how == "down" else 1)


@pytest.mark.timeout(300)
def test_a_disk_that_fills_fails_or_vanishes_costs_only_what_is_on_it(server):
    """Three disks: one filled by others' files, one read-only, one that is good."""
    good, full, gone = (mount(server, name, 100, "ext4") for name in ("good", "full", "gone"))
    (full / "others").write_bytes(os.urandom(MIB) * 70)
    disks = [{"path": str(one), "use": "-5 MiB"} for one in (full, gone, good)]
    server.write(
        holding=disks, targets={"nas": directory(server)}, policies=policy({"target": "nas"}, holding="required"),
    )  # fmt: skip
    sources(server, 6, 20)
    with Watch(server, good, gone) as watch:
        server.stowage("run", "--level", "0")
    assert all(one == {"nas": "verified"} for one in copies(server).values())
    assert min(watch.most) > 20 * MIB  # both were written
    lines = [one["message"] for one in server.json("check")["findings"] if one["name"] == "holding"]
    assert len(lines) == 3 and all("may still be used" in one or "nearly full" in one for one in lines), lines
    remount(gone, "ro")
    time.sleep(1.1)
    out, _err = server.stowage("run", "--level", "0")
    assert f"the holding disk {gone} is read-only" in out
    assert all(one == {"nas": "verified"} for one in copies(server).values())
    subprocess.run(["umount", str(gone)], check=True)
    time.sleep(1.1)
    out, _err = server.stowage("run", "--level", "0")
    assert f"the holding disk {gone} is not mounted" in out and not list(gone.iterdir())
    assert len(server.json("list", "dumps", "--limit", "0")["dumps"]) == 18
    assert all(one == {"nas": "verified"} for one in copies(server).values())


@pytest.mark.timeout(300)
def test_a_disk_that_goes_in_the_middle_of_a_night_sends_its_dumps_to_another(server):
    first, second = (mount(server, name, 200, "ext4") for name in ("first", "second"))
    disks = [{"path": str(one), "use": "-5 MiB"} for one in (first, second)]
    server.write(
        holding=disks, targets={"nas": directory(server)}, dumps_at_once=2,
        policies=policy({"target": "nas"}, holding="required"),
    )  # fmt: skip
    sources(server, 8, 40)
    child = server.start("run", "--level", "0")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(path.stat().st_size > MIB for path in incoming(first)):
        time.sleep(0.01)
    # as the kernel does when a disk fails under a file system
    remount(first, "abort")
    out, err = child.communicate(timeout=200)
    assert child.returncode == 0, (out, err)
    found = copies(server)
    assert len(found) == 8 and sum(one.get("nas") == "verified" for one in found.values()) >= 7, found
    assert f"the holding disk {first}" in out.decode()


def incoming(disk: Path):
    try:
        return [path for path in (disk / ".incoming").rglob("image-*") if path.is_file()]
    except OSError:
        return []

"""A dump whose line is cut goes on behind the last frame that came: the agent's side, against the real agent."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import random
import shutil
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest
from agent_peer import CROWD, Got, Peer, take

from backupcore import wire
from backupcore.agent import linux
from backupcore.agent import tree as agent_tree
from backupcore.errors import StowageError
from backupcore.image import codec, index
from backupcore.image.unpax import Reader

_SPEC = importlib.util.spec_from_file_location("lab_tree", Path(__file__).parents[3] / "lab" / "tree.py")
lab = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lab)
ONE = len(os.sched_getaffinity(0)) < 2


class SmallPeer(Peer):
    """Frames of 64 KiB, so that a small tree has many."""

    def hurry(self) -> "SmallPeer":
        super().hurry()
        with zipfile.ZipFile(self.pyz) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        for name, before, now in (
            ("outbox", b"FRAME_SIZE = 4 << 20", b"FRAME_SIZE = 64 << 10"),
            ("archive", b"WHOLE = 1 << 20", b"WHOLE = 16 << 10"),
            ("archive", b"LINES = 2048", b"LINES = 40"),
            ("crew", b"BATCH = 12 << 20", b"BATCH = 200 << 10"),
            ("crew", b"NAMES = 2048", b"NAMES = 64"),
            *CROWD,
        ):
            name = "backupcore/agent/%s.py" % name
            assert files[name].count(before) == 1, before
            files[name] = files[name].replace(before, now)
        with zipfile.ZipFile(self.pyz, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return self


class Line:
    """What a server has of one dump over several attempts: all messages up to the last frame that is kept."""

    def __init__(self, peer, base=None, **request):
        self.peer, self.base, self.more = peer, base, request
        self.kept, self.start, self.attempts, self.done, self.again = [], None, 0, None, []

    def frames(self):
        return [wire.unpack_frame_head(payload) for kind, payload in self.kept if kind == wire.FRAME]

    def points(self):
        """As the server asks: the newest, and the newest that lies in no file."""
        found, mark, last, word = [], None, None, codec.get(self.start["codec"])
        for kind, payload in self.kept:
            if kind == wire.MARK:
                mark = json.loads(payload)
            elif kind == wire.INDEX:
                last = index.parse(word.decompress(payload, 16 << 20).splitlines()[-1])
            elif kind == wire.FRAME:
                head = wire.unpack_frame_head(payload)
                if last is not None and (mark is None or mark["file"] is not None):
                    found.append({"frame": head.number + 1, "part": head.part + 1, "offset": head.offset + head.length,
                                  "path": os.fsdecode(last.path), "folder": last.is_dir,
                                  "mark": mark and mark["file"]})  # fmt: skip
                mark = None
        clean = [one for one in found if one["mark"] is None]
        newest = found[-1:] if found and found[-1]["mark"] is not None else []
        return newest + clean[-1:]

    def keep(self, frames):
        """Forgets what came behind so many frames."""
        kept, count = [], 0
        for kind, payload in self.kept:
            if count == frames:
                break
            kept.append((kind, payload))
            count += kind == wire.FRAME
        self.kept = kept

    def attempt(self, cut=None):
        """One connection; cut after so many messages, or when cut() says so, None: to the end. True when it came
        whole."""
        talk, points = self.peer.start(), self.points() if self.kept else []
        request = talk.request("s", self.base, marks=True, **self.more)
        if points:
            request["resume"] = {"identity": self.start["identity"], "points": points}
        try:
            talk.ask(request)
            _kind, start = talk.channel.expect(wire.START)
            assert start["marks"] is True
            self.start = self.start or start
            if start["resume"]:
                assert points
                for kind, payload in self.kept:
                    if kind == wire.LINKS:
                        talk.channel.send(wire.LINKS, payload)
                talk.channel.send(wire.END)
                talk.channel.flush()
            else:
                self.kept = []
            if self.base is not None:
                threading.Thread(target=talk._feed, args=(self.base.state,), daemon=True).start()
            if start["resume"]:
                while True:
                    kind, payload = talk.channel.receive()
                    if kind == wire.AGAIN:
                        break
                    assert kind in (wire.NOTE, wire.PROGRESS)
                self.again.append(json.loads(payload)["frame"])
                self.keep(self.again[-1])
            while not (cut() if callable(cut) else cut is not None and cut <= 0):
                kind, payload = talk.channel.receive()
                assert kind != wire.ERROR, payload
                cut = cut - 1 if isinstance(cut, int) else cut
                if kind == wire.DONE:
                    self.done = json.loads(payload)
                    return True
                if kind not in (wire.NOTE, wire.PROGRESS):
                    self.kept.append((kind, payload))
            return False
        finally:
            self.attempts += 1
            talk.process.stdout.close()
            talk.end()

    def whole(self) -> Got:
        """The dump as one."""
        passed = [(kind, payload) for kind, payload in self.kept if kind not in (wire.MARK, wire.LINKS)]
        rest = iter([(wire.START, self.start), *passed, (wire.DONE, self.done)])

        class Channel:
            def expect(self, *kinds):
                kind, payload = next(rest)
                assert kind in kinds
                return kind, payload

        return take(Channel())


def small_tree(tree):
    """Files of all sizes, hard links in both directions, holes, links, deep folders."""
    chance = random.Random(7)
    for number in range(14):
        folder = tree / f"d{number % 5}" / ("deep/" * (number % 3)) / f"f{number}"
        folder.mkdir(parents=True)
        for name in range(12):
            (folder / f"n{name}").write_bytes(chance.randbytes(chance.choice([0, 10, 700, 3000, 20_000])))
    (tree / "d1/big").write_bytes(chance.randbytes(500_000))
    (tree / "d3/zz big").write_bytes(chance.randbytes(300_001))
    with open(tree / "d2/holes", "wb") as file:
        for place in (0, 1 << 20, 9 << 20):
            file.seek(place)
            file.write(chance.randbytes(90_000))
        file.truncate(20 << 20)
    os.link(tree / "d1/big", tree / "d4/a name of big")
    for number in range(6):
        (tree / f"d0/first{number}").write_bytes(chance.randbytes(500))
        os.link(tree / f"d0/first{number}", tree / f"d{number % 5}/second{number}")
        os.link(tree / f"d0/first{number}", tree / f"third{number}")
    (tree / "d2/pointer").symlink_to("../d1/big")
    os.symlink("x", tree / "d0/link with names")
    os.link(tree / "d0/link with names", tree / "d4/link too", follow_symlinks=False)
    os.mkfifo(tree / "d3/pipe")
    time.sleep(0.15)


@pytest.fixture
def world(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    small_tree(tree)
    peer = SmallPeer(tmp_path / "agent").hurry()
    peer.declare("s", tree)
    return peer, tree


def places(got):
    """Every line's place in the archive holds its member, to the byte; what no line names is folders written again."""
    archive, end = got.archive(), 0
    for entry in got.entries():
        if entry.length:
            between = Reader(io.BytesIO(archive[end : entry.offset]).read, many=True)
            assert all(member.kind == "d" for member in between)
            end = entry.offset + entry.length
            reader = Reader(io.BytesIO(archive[entry.offset : end]).read, many=True)
            ((one, content),) = [(one, b"".join(bytes(piece) for piece in one.content())) for one in reader]
            assert (one.path, one.kind) == (entry.path, entry.kind)
            assert entry.kind != "f" or hashlib.sha256(content).digest() == entry.sha256
    assert not archive[end:].strip(b"\0")


def made(got, into, *before):
    places(got)
    into.mkdir()
    for one in (*before, got):
        one.unpack(into)
    found = lab.snapshot(into)
    shutil.rmtree(into)
    return found


@pytest.fixture(params=["alone", pytest.param("with processes", marks=pytest.mark.skipif(ONE, reason="one processor"))])
def hands(request):
    every = os.sched_getaffinity(0)
    if request.param == "alone":
        os.sched_setaffinity(0, {min(every)})
    yield request.param
    os.sched_setaffinity(0, every)


def test_a_full_cut_at_every_second_message_is_the_tree(world, tmp_path, hands):
    peer, tree = world
    plain = peer.dump()
    line = Line(peer)
    chance = random.Random(1)
    while not line.attempt(chance.randrange(5, 30)):
        assert line.attempts < 300
    got = line.whole()
    assert line.attempts > 4 and max(line.again) > 10
    assert lab.differences(lab.snapshot(tree), made(got, tmp_path / "out")) == []
    strip = [entry._replace(offset=0) for entry in plain.entries()]
    assert [entry._replace(offset=0) for entry in got.entries()] == strip
    # no byte of a file comes twice: the archives are as long, but for the ends of frames
    assert len(got.archive()) == len(plain.archive())


def test_an_incremental_cut_again_and_again_is_the_tree(world, tmp_path, hands):
    peer, tree = world
    base = peer.dump()
    chance = random.Random(5)
    for name in ("d0/first1", "d4/a name of big", "third3"):
        (tree / name).unlink()
    (tree / "d1/big").write_bytes(chance.randbytes(400_000))
    (tree / "d2/deep").rename(tree / "d2/renamed")
    for number in range(20):
        (tree / f"d{number % 5}/came{number}").write_bytes(chance.randbytes(30_000))
        os.link(tree / f"d{number % 5}/came{number}", tree / f"d{4 - number % 5}/link{number}")
    os.link(tree / "d0/first2", tree / "d4/zz one more name")
    time.sleep(0.15)
    line = Line(peer, base)
    while not line.attempt(chance.randrange(4, 16)):
        assert line.attempts < 300
    assert line.attempts > 3
    got = line.whole()
    assert lab.differences(lab.snapshot(tree), made(got, tmp_path / "out", base)) == []
    plain = peer.dump(base=base)
    assert {path: entry.kind for path, entry in got.rows().items()} == {
        path: entry.kind for path, entry in plain.rows().items()
    }


@pytest.mark.parametrize("change", [
    "content", "became a folder",
    *[pytest.param(one, marks=pytest.mark.slow) for one in ("metadata", "vanished", "replaced")],
])  # fmt: skip
def test_a_file_that_changed_is_begun_anew_and_no_other_byte_is_lost(world, tmp_path, change):
    peer, tree = world
    line = Line(peer)

    def inside():
        return line.kept and line.kept[-1][0] == wire.FRAME and any(
            one["mark"] and one["mark"]["path"] == "d3/zz big" for one in line.points()
        )

    assert not line.attempt(inside)
    there = line.frames()[-1].number + 1
    big = tree / "d3/zz big"
    if change == "content":
        data = bytearray(big.read_bytes())
        data[10] ^= 1
        status = big.stat()
        big.write_bytes(data)
        os.utime(big, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "metadata":
        big.chmod(0o640)
    else:
        big.unlink()
    if change == "replaced":
        big.write_bytes(b"another")
    elif change == "became a folder":
        big.mkdir()
        (big / "inside").write_text("inside")
    assert line.attempt()
    assert 0 < line.again[-1] < there
    got = line.whole()
    assert lab.differences(lab.snapshot(tree), made(got, tmp_path / "out")) == []


def test_another_tree_or_other_words_are_not_gone_on_with(world, tmp_path):
    peer, tree = world
    for change in ("exclude", "tree", "scripts"):
        peer.declare("s", tree)
        line = Line(peer)
        assert not line.attempt(20)
        if change == "exclude":
            peer.declare("s", tree, exclude=["*.tmp"])
        elif change == "scripts":
            peer.declare("s", tree, before="true")
        else:
            tree.rename(tmp_path / "older")
            shutil.copytree(tmp_path / "older", tree, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
        assert line.attempt()
        assert line.again == []
    assert line.start["identity"] is not None and peer.dump().start.get("identity") is None


@pytest.mark.parametrize("name", ["dm/uuid", "device/wwid", "../serial"])
def test_a_snapshot_at_the_same_path_is_told_by_its_disk(tmp_path, monkeypatch, name):
    """The file system, its id and the number of its device are the same: what is below sysfs is another's."""
    tree, number = tmp_path / "tree", os.stat(tmp_path).st_dev
    disk = tmp_path / "block" / "parent" / f"{os.major(number)}:{os.minor(number)}"
    tree.mkdir()
    disk.mkdir(parents=True)
    (disk / name).parent.mkdir(exist_ok=True)
    monkeypatch.setattr(linux, "_BLOCK", f"{disk.parent}/%d:%d/")
    nothing = agent_tree.identity({"path": str(tree)})
    (disk / name).write_bytes(b"LVM-1111\n")
    first = agent_tree.identity({"path": str(tree)})
    assert agent_tree.identity({"path": str(tree)}) == first != nothing
    (disk / name).write_bytes(b"LVM-2222\n")
    assert agent_tree.identity({"path": str(tree)}) != first


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_copy_of_a_file_system_that_is_mounted_instead_is_another_tree(tmp_path):
    """Both have one id, one root folder, and may get one number of a loop device."""
    place, found = tmp_path / "place", []
    place.mkdir()
    for name in ("one", "two", "one"):
        image = tmp_path / name
        if name == "one" and not found:
            with open(image, "wb") as file:
                file.truncate(8 << 20)
            subprocess.run(["mkfs.ext4", "-q", image], check=True)
        elif name == "two":
            shutil.copy(tmp_path / "one", image)
        subprocess.run(["mount", "-o", "loop,ro,noload", image, place], check=True)
        try:
            found.append(agent_tree.identity({"path": str(place)}))
        finally:
            subprocess.run(["umount", place], check=True)
    assert found[0] == found[2] != found[1]
    assert found[0].split(".")[:2] == found[1].split(".")[:2]  # it is not told by anything else


@pytest.mark.parametrize("resume", [
    7, {}, {"identity": "x", "points": []}, {"identity": "x", "points": [{"frame": 1}]},
    {"identity": "x", "points": [{"frame": 1, "part": 1, "offset": 5, "path": "../up", "folder": False, "mark": None}]},
])  # fmt: skip
def test_a_request_that_says_no_place_is_refused(world, resume):
    peer, _tree = world
    talk = peer.start()
    try:
        talk.ask(talk.request("s", None, marks=True, resume=resume))
        with pytest.raises(StowageError, match="where the dump goes on"):
            talk.channel.expect(wire.START)
    finally:
        talk.end()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_another_python_goes_on_too(world, tmp_path, version):
    pythons = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not pythons:
        pytest.skip(f"Python {version} is not here")
    peer, tree = world
    peer.python = str(pythons[-1])
    line, chance = Line(peer), random.Random(8)
    while not line.attempt(chance.randrange(8, 30)):
        assert line.attempts < 300
    assert line.attempts > 3
    assert lab.differences(lab.snapshot(tree), made(line.whole(), tmp_path / "out")) == []

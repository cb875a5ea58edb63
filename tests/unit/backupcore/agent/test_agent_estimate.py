"""An estimate is what the dump turns out to have: to the byte where nothing moves, near it where rules are rough."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from agent_peer import Peer
from test_agent_pythons import lab, python

from backupcore import wire
from backupcore.agent import estimate
from backupcore.agent.estimate import Estimate, Part
from backupcore.agent.patterns import Exclude, Include
from backupcore.agent.walk import Plan
from backupcore.errors import AgentRefused, RequestError

DAY = 86400 * 10**9


def ask(talk, source="s", since=(), seconds=60, **more):
    """One estimate of an agent that was greeted."""
    known = {"request": "estimate", "source": source, "seconds": seconds, "now_ns": time.time_ns(),
             "parts": [{"name": "", "since": list(since)}]}  # fmt: skip
    talk.channel.send_json(wire.REQUEST, {**known, **more})
    while True:
        kind, value = talk.channel.expect(wire.PROGRESS, wire.DONE)
        if kind == wire.DONE:
            return value


def told(peer, since=(), **more):
    talk = peer.start()
    try:
        assert talk.greet()["estimate"] is True
        return ask(talk, since=since, **more)
    finally:
        talk.end()


def counted(path, *parts, seconds=60.0, include=(), exclude=(), one_file_system=True):
    """The walk itself."""
    plan = Plan(os.fsencode(path), Include(include), Exclude(exclude), one_file_system)
    before = os.getcwd()
    try:
        return Estimate(plan, parts or [Part("", (), ())], seconds, {"entries": 0}).run()
    finally:
        os.chdir(before)


@pytest.fixture
def peer(tmp_path):
    return Peer(tmp_path / "agent")


def whole(answer, name=""):
    part = answer["parts"][name]
    return part["bytes"], part["entries"]


def ordinary(top):
    """Files of many sizes and names, links, holes, whole seconds, a socket, something excluded."""
    top.mkdir()
    for number in range(60):
        folder = top / f"d{number % 7}" / ("n" * (number * 4 % 150) or "n")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("f" * (1 + number * 3))).write_bytes(b"x" * number * 700)
        os.symlink("t" * (number * 4), folder / f"link{number}") if number else None
    for number in range(5):
        os.link(top / "d1/nnnn/ffff", top / f"d{number}" / "hard")
    os.utime(top / "d1/nnnn/ffff", (10**9, 10**9))
    with open(top / "holes", "wb") as file:
        file.seek(40 << 20)
        file.write(b"end")
    (top / "big").write_bytes(os.urandom(3 << 20))
    (top / "left.tmp").write_bytes(b"x" * 10000)
    (top / "cache").mkdir()
    (top / "cache" / "much").write_bytes(b"x" * 100000)
    os.mkfifo(top / "fifo")


def test_a_full_is_estimated_to_the_byte(tmp_path, peer):
    ordinary(tmp_path / "tree")
    peer.declare("s", tmp_path / "tree", exclude=["*.tmp", "cache/"])
    answer = told(peer)
    done = peer.dump().done
    assert answer["complete"] is True and answer["share"] == 1.0 and answer["used"] > 0
    assert whole(answer) == (done["archive_size"], done["entries"])


def test_the_hostile_tree_is_estimated_within_a_percent(tmp_path, peer):
    lab.make_hostile_tree(tmp_path / "tree")
    peer.declare("s", tmp_path / "tree")
    size, entries = whole(told(peer))
    done = peer.dump().done
    assert abs(size / done["archive_size"] - 1) < 0.01 and abs(entries - done["entries"]) <= 2


def test_two_levels_are_told_by_one_walk_as_the_dumps_then_have_them(tmp_path, peer):
    tree = tmp_path / "tree"
    ordinary(tree)
    peer.hurry().declare("s", tree, exclude=["*.tmp", "cache/"])
    time.sleep(2.2)  # else all of it is as young as the base
    first = time.time_ns()
    full = peer.dump()
    (tree / "d2" / "new").write_bytes(b"x" * 5000)
    (tree / "big").write_bytes(os.urandom(3 << 20))
    os.chmod(tree / "d1/nnnn/ffff", 0o600)  # of six names
    time.sleep(2.2)
    second = time.time_ns()
    level1 = peer.dump(base=full)
    (tree / "d3" / "later").write_bytes(b"y" * 70000)
    os.unlink(tree / "fifo")
    time.sleep(0.2)
    one, two = told(peer, [first, second])["parts"][""]["since"]
    for level, base, (size, entries) in ((1, full, one), (2, level1, two)):
        done = peer.dump(base=base, level=level).done
        assert size == done["archive_size"]
        assert entries == done["entries"] - done["gone"]


def test_nothing_changed_is_an_empty_archive(tmp_path, peer):
    ordinary(tmp_path / "tree")
    peer.declare("s", tmp_path / "tree")
    time.sleep(2.1)
    assert told(peer, [time.time_ns()])["parts"][""]["since"] == [[1024, 0]]


def test_a_time_in_the_future_is_no_change(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    os.utime(tmp_path / "f", (2**33, 2**33))
    time.sleep(2.1)
    assert counted(tmp_path, Part("", (), (time.time_ns(),)))["parts"][""]["since"] == [[1024, 0]]


def test_the_servers_clock_is_corrected_for(tmp_path, peer):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "old").write_bytes(b"x" * 5000)
    time.sleep(2.1)
    begun = time.time_ns()
    (tree / "new").write_bytes(b"x" * 100)
    peer.declare("s", tree)
    right = told(peer, [begun])["parts"][""]["since"]
    assert right[0][1] == 2  # the file and its folder
    for ahead in (-9 * DAY, 9 * DAY):  # of the server's clock
        assert told(peer, [begun + ahead], now_ns=time.time_ns() + ahead)["parts"][""]["since"] == right


def test_parts_are_counted_apart_in_one_walk(tmp_path):
    ordinary(tmp_path / "tree")
    names = ("d1", "d2", "d2x", "d3/" + "n" * 12)
    (tmp_path / "tree" / "d2x").mkdir()
    parts = [Part("s01", (b"d1", b"d3/" + b"n" * 12), (0,)), Part("s02", (b"d2",), (0, 1)), Part("rest", (), (0,))]
    found = counted(tmp_path / "tree", *parts)
    assert found["complete"]
    alone = {name: whole(counted(tmp_path / "tree" / name)) for name in names}
    # a part has its own end of the archive
    assert whole(found, "s02")[1] == alone["d2"][1]
    assert whole(found, "s01")[1] == alone["d1"][1] + alone["d3/" + "n" * 12][1]
    everything = whole(counted(tmp_path / "tree"))
    assert sum(whole(found, part.name)[1] for part in parts) == everything[1]
    assert [len(found["parts"][part.name]["since"]) for part in parts] == [1, 2, 1]


def test_parts_are_as_large_as_the_dumps_of_these_segments(tmp_path, peer):
    ordinary(tmp_path / "tree")
    peer.declare("s", tmp_path / "tree")
    named = ["d1", "d2/" + "n" * 36]
    parts = [{"name": "s01", "folders": named, "since": []}, {"name": "rest", "folders": [], "since": []}]
    found = told(peer, parts=parts)
    for name, rest in (("s01", False), ("rest", True)):
        done = peer.dump(segment={"name": name, "folders": named, "rest": rest}).done
        ways = 0 if rest else 2  # folders that lead to it come with it
        assert whole(found, name)[0] == done["archive_size"] - ways * 1536


def test_a_time_limit_ends_the_walk_and_tells_how_much_was_walked(tmp_path, monkeypatch):
    for number in range(100):
        folder = tmp_path / "tree" / f"{number:02d}"
        folder.mkdir(parents=True)
        for name in range(20):
            (folder / str(name)).write_bytes(b"x" * 1000)
    everything = whole(counted(tmp_path / "tree"))
    now = [0.0]

    def clock():
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr(estimate.time, "monotonic", clock)
    found = counted(tmp_path / "tree", seconds=1.0)
    assert found["complete"] is False and 0.2 < found["share"] < 0.7
    assert abs(whole(found)[0] / found["share"] / everything[0] - 1) < 0.1
    assert counted(tmp_path / "tree", seconds=0)["share"] is None  # of next to nothing nothing follows


def test_a_flat_folder_ends_in_time_too(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "CHUNK", 10)
    for name in range(100):
        (tmp_path / str(name)).touch()
    found = counted(tmp_path, seconds=0)
    assert found["complete"] is False and whole(found)[1] < 20


def test_one_file_system_and_what_cannot_be_read_are_counted_as_dumped(tmp_path, peer):
    tree = tmp_path / "tree"
    (tree / "mount").mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tree / "mount")], check=True)
    try:
        (tree / "mount" / "f").write_bytes(b"x" * 9000)
        for inside in (True, False):
            peer.declare("s", tree, one_file_system=inside)
            answer, done = told(peer), peer.dump().done
            assert whole(answer) == (done["archive_size"], done["entries"])
    finally:
        subprocess.run(["umount", str(tree / "mount")], check=True)


def test_files_that_vanish_while_they_are_looked_at_cost_nothing(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    real = os.lstat

    def lstat(path, **more):
        if path == b"b":
            raise FileNotFoundError(2, "gone")
        return real(path, **more)

    monkeypatch.setattr(os, "lstat", lstat)
    assert whole(counted(tmp_path))[1] == 3


def test_more_files_of_several_names_than_are_remembered_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "MOST_LINKS", 2)
    for number in range(20):
        (tmp_path / f"a{number}").write_bytes(b"x" * 10240)
        os.link(tmp_path / f"a{number}", tmp_path / f"b{number}")
    exact = 20 * 10240
    assert abs(whole(counted(tmp_path))[0] - 41 * 1536 - 1024 - exact) <= 512 * 40


def test_one_conversation_answers_several_and_then_dumps(tmp_path, peer):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "f").write_bytes(b"x" * 3000)
    (tmp_path / "mark").mkdir()
    peer.declare("s", tmp_path / "one", before=f"touch {tmp_path}/mark/ran")
    peer.declare("gone", tmp_path / "nowhere")
    talk = peer.start()
    talk.greet()
    assert ask(talk)["complete"]
    problem = ask(talk, "gone")
    assert list(problem) == ["problem"] and "nowhere cannot be read: no such file" in problem["problem"]
    assert whole(ask(talk))[1] == 2
    assert not (tmp_path / "mark" / "ran").exists()  # no script
    talk.channel.send_json(wire.REQUEST, talk.request("s", None))
    got = talk.take()
    talk.process.stdin.close()
    assert talk.process.wait(30) == 0 and not talk.process.stderr.read()
    talk.end()
    assert set(got.kinds()) == {".", "f"} and (tmp_path / "mark" / "ran").exists()


def test_the_heart_beats_in_each_of_several_estimates(tmp_path, peer, monkeypatch):
    (tmp_path / "tree").mkdir()
    for number in range(3000):
        (tmp_path / "tree" / str(number)).touch()
    peer.hurry().declare("s", tmp_path / "tree")
    talk = peer.start()
    talk.greet()
    for _ in range(20):
        assert whole(ask(talk))[1] == 3001
    talk.end()


def test_it_ends_when_the_line_does(tmp_path, peer):
    peer.hurry().declare("s", "/", one_file_system=False)
    talk = peer.start()
    talk.greet()
    request = {"request": "estimate", "source": "s", "seconds": 600, "now_ns": 1, "parts": [{"name": "", "since": []}]}
    talk.channel.send_json(wire.REQUEST, request)
    assert talk.channel.receive()[0] == wire.PROGRESS  # it is at work
    begun = time.monotonic()
    talk.end()
    assert time.monotonic() - begun < 60 and talk.process.returncode == 1


@pytest.mark.parametrize("wrong", [
    {"seconds": -1}, {"seconds": True}, {"seconds": "9"}, {"now_ns": None}, {"now_ns": -5}, {"parts": []},
    {"parts": {}}, {"parts": [{}]}, {"parts": [{"name": "", "since": [5, 3]}]}, {"parts": [{"name": 3, "since": []}]},
    {"parts": [{"name": "", "since": [1.5]}]}, {"parts": [{"name": "", "since": list(range(101))}]},
    {"parts": [{"name": "", "since": []}, {"name": "", "since": []}]},
    {"parts": [{"name": "", "since": [], "folders": [7]}]}, {"parts": [{"name": "", "since": [2**64]}]},
])  # fmt: skip
def test_a_request_that_is_none_is_refused(tmp_path, peer, wrong):
    peer.declare("s", tmp_path)
    talk = peer.start()
    talk.greet()
    with pytest.raises(RequestError):
        ask(talk, **wrong)
    talk.end()


def test_what_agent_json_does_not_declare_is_refused(tmp_path, peer):
    peer.declare("s", tmp_path)
    talk = peer.start()
    talk.greet()
    with pytest.raises(AgentRefused, match="declares no source passwords"):
        ask(talk, "passwords")
    talk.end()


def test_an_agent_that_only_unpacks_estimates_nothing(tmp_path, peer):
    talk = peer.start("extract", "--to", str(tmp_path))
    assert talk.greet()["estimate"] is False
    with pytest.raises(AgentRefused, match="started to unpack, not to estimate"):
        ask(talk)
    talk.end()


def test_a_half_that_knows_better_is_asked_and_may_fail():
    def own(options, since, seconds):
        return {"bytes": 10, "entries": len(since), "since": [[1, 1] for _ in since], "seconds": seconds}

    found = estimate._by_half(own, {}, [Part("", (), (1, 2))], 5.0)
    assert found["parts"][""]["entries"] == 2 and found["complete"]
    assert "no parts" in estimate._by_half(own, {}, [Part("", (), ()), Part("b", (b"x",), ())], 5.0)["problem"]
    failed = estimate._by_half(lambda *_: 1 / 0, {}, [Part("", (), ())], 5.0)
    assert failed == {"problem": "its estimate failed: ZeroDivisionError: division by zero"}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.8.18", "3.13.0"])
def test_other_pythons_say_the_same(tmp_path, version):
    ordinary(tmp_path / "tree")
    peer = Peer(tmp_path / "agent", python(version))
    peer.declare("s", tmp_path / "tree")
    done = peer.dump().done
    assert whole(told(peer, [1, 2])) == (done["archive_size"], done["entries"])


def test_memory_does_not_grow_with_the_tree(tmp_path, peer):
    """20,000 entries in folders of 200: the agent holds no more of them than of 2,000."""
    used = []
    for count in (10, 100):
        top = tmp_path / str(count)
        for number in range(count):
            folder = top / str(number // 20) / str(number)
            folder.mkdir(parents=True)
            for name in range(200):
                os.close(os.open(folder / f"{name:050d}", os.O_CREAT | os.O_WRONLY))
        peer.declare("s", top)
        talk = peer.start()
        talk.greet()
        assert whole(ask(talk, since=[1, 2, 3]))[1] > 200 * count
        with open(f"/proc/{talk.process.pid}/status") as status:
            used.append(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")))
        talk.end()
    assert used[1] < used[0] + 1500  # KiB

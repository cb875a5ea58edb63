"""Kill -9 at every step between accepting a dump and having all copies verified, and at random moments, of each process
that takes part: server, agent and its helpers, ssh, sshd. No committed dump is lost or torn, no process and no file is
left, what a cut dump leaves is gone on with or swept, and the next run is right.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import agent_file
import crash_world
import pytest
from cli_lab import Server
from crash_world import STEPS, Kill, look

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sshd's and agents as root")
SEED = int(os.environ.get("STOWAGE_KILL_SEED", "20261123"))
KILLS = int(os.environ.get("STOWAGE_KILLS", "500"))
GONE_WITHIN = 90.0  # an agent on which nothing is asked tells itself every 5 s whether the line is there
VICTIMS = ("server", "server", "server", "agent", "ssh", "sshd", "all")


CUT = ".cut"
BIG = 10 << 20  # bytes of each of the files of a slow client: some frames each


class World:
    """A server with a client on this machine, another behind an sshd, one behind a slow line, and a target."""

    def __init__(self, base: Path, far: bool, slow: bool = False):
        self.base, self.numbers, self.turn = base, random.Random(SEED), 0
        self.length = 0.0  # seconds that the last whole run took
        self.server = Server(base)
        agent_file.put(base / "agent.pyz", agent_file.HURRY)  # those whose line is lost notice it soon
        self.at = crash_world.Places(base / "state", base / "holding", base / "nas")
        self.at.target.mkdir()
        self.server.write(
            targets={"nas": {"type": "directory", "path": str(self.at.target)}},
            policies={"p": {"copies": [{"target": "nas"}], "keep_on_holding": 1, "resume": "next"}},
            drill={"nightly": False}, verify={"night": 0}, networks={"wan": "2.4 Mbit/s"},
        )  # fmt: skip
        self.trees = {"near": base / "near-tree", **({"far": base / "far-tree"} if far else {})}
        for name, tree in self.trees.items():
            (tree / "sub").mkdir(parents=True)
            for number in range(30):
                (tree / f"n{number}").write_bytes(self.numbers.randbytes(number * 100))
            said = f"echo {base}/script-of-{name}"
            source = {"path": str(tree), "policy": "p", "before": said, "after": said}
            self.server.client(name, {"one": source}, address="127.77.14.1" if name == "far" else None)
        self.went_on = set()
        if slow:  # a second or two on its way, and no scripts: what was cut may go on
            self.trees["slow"] = base / "slow-tree"
            (self.trees["slow"] / "sub").mkdir(parents=True)
            source = {"path": str(self.trees["slow"]), "policy": "p"}
            self.server.client("slow", {"one": source}, address="127.77.14.2", network="wan")
            self.change_slow(2)
        self.runner = crash_world.Runner(base / "runner", base / "stowage.yml")
        self.checked = set()

    def close(self):
        self.runner.close()
        self.server.close()

    def change(self):
        """Something new to dump."""
        self.turn += 1
        for tree in self.trees.values():
            for number in range(4):
                content = self.numbers.randbytes(self.numbers.randrange(20_000))
                (tree / "sub" / f"f{(self.turn + number) % 7}").write_bytes(content)

    def change_slow(self, count):
        """Other content in so many large files of the slow client. It compresses well: only the line is slow."""
        for number in self.numbers.sample((1, 2), count):
            block = self.numbers.randbytes(64 << 10)
            (self.trees["slow"] / f"big{number}").write_bytes(block * (BIG // len(block)))

    def cut_dumps(self, found):
        """Names of dumps on which one might go on, and that are none. At most one of a source has been set aside, and
        besides it there is at most the one that was coming in."""
        came = list(self.base.glob("holding/.incoming/*/*/*.came"))
        aside = list(self.base.glob(f"holding/.incoming/*/*/*{CUT}"))
        for paths, most in ((aside, 1), ([*came, *aside], 2)):
            units = {path.parent: set() for path in paths}
            for path in paths:
                units[path.parent].add(path.name.partition(".")[0])
            assert all(len(names) <= most for names in units.values()), units
        names = {path.name.partition(".")[0] for path in came}
        apart = {path.name.removesuffix(CUT) for path in aside}
        assert apart <= names and not apart & set(found.dumps), (apart, names)
        assert not [row.holding for row in found.dumps.values() if "/.incoming/" in (row.holding or "")]
        assert not [path for path in self.at.target.rglob("*") if path.name.partition(".")[0] in apart]
        return names - set(found.dumps)

    def ours(self):
        """Processes of runs, agents and scripts that live."""
        fixed = {self.runner.process.pid, *(one.process.pid for one in self.server.sshds.values())}
        found = crash_world.processes(f"{self.base}/")
        return [one for one in found if int(one.split()[0]) not in fixed]

    def nobody_left(self):
        """Waits for the end of all of them; those that did not end."""
        deadline = time.monotonic() + GONE_WITHIN
        while (left := self.ours()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def victims(self, who, child):
        """The processes to be killed."""
        if who == "server":
            return [child.pid]
        sessions = []
        for sshd in self.server.sshds.values():
            sessions += _children(sshd.process.pid)
        if who == "sshd":
            return sessions[:1]
        ours = [(int(one.split()[0]), one) for one in self.ours()]
        ssh = [pid for pid, line in ours if line.split()[1].rpartition("/")[2] == "ssh"]
        agents = [pid for pid, line in ours if " serve" in line and pid not in ssh and pid != child.pid]
        if who == "all":
            return [child.pid, *ssh, *agents, *sessions]
        found = ssh if who == "ssh" else agents
        return self.numbers.sample(found, 1) if found else []

    def judged(self, said):
        """After a kill: what the catalog says holds, and nobody is left."""
        left = self.nobody_left()
        assert not left, (SEED, said, left)
        found = look(self.at, self.checked)
        assert not found.faults, (SEED, said, found.faults)
        self.cut_dumps(found)
        self.went_on |= {row.id for row in found.dumps.values() if any("went on" in note for note in row.notes)}
        return found

    def next_run(self, before, said):
        """The next run is right: everything dumped, copied, nothing lost, nothing left."""
        begun = time.monotonic()
        child = self.runner.begin("run")
        assert child.wait() == 0, (SEED, said, child.out[-1500:], child.err[-1500:])
        self.length = time.monotonic() - begun
        after = self.judged(said)
        assert set(before.dumps) <= set(after.dumps), (SEED, said)
        states = {name: getattr(after.copies.get((name, "nas")), "state", "none") for name in after.dumps}
        assert set(states.values()) == {"verified"}, (SEED, said, states)
        assert crash_world.left_over(self.at, after) == [], (SEED, said)
        return after

    def opens(self, found):
        """The newest dump of each client and what it builds on, from the target, by GNU tar: equal to its tree."""
        for client, tree in self.trees.items():
            mine = [row for row in found.dumps.values() if row.client == client]
            chain = [max(mine, key=lambda row: row.counter)]
            while chain[0].base:
                chain.insert(0, found.dumps[chain[0].base])
            dest = self.base / "restored"
            dest.mkdir()
            for row in chain:
                parts = sorted((self.at.target / client / row.source / row.id).glob("image-*"))
                script = 'zstd -dcq "$@" | tar -xpG --numeric-owner -C "$0" -f -'
                subprocess.run(["sh", "-c", script, str(dest), *parts], check=True, env={**os.environ, "LC_ALL": "C"})
            subprocess.run(["diff", "-r", tree, dest], check=True)
            subprocess.run(["rm", "-rf", dest], check=True)


def _children(pid):
    """Processes below pid, the nearest first."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(one) for one in below] + [more for one in below for more in _children(int(one))]


@pytest.fixture
def near(tmp_path):
    made = World(tmp_path, far=False)
    yield made
    made.close()


@pytest.fixture
def both(tmp_path):
    made = World(tmp_path, far=True)
    yield made
    made.close()


@pytest.fixture
def three(tmp_path):
    made = World(tmp_path, far=True, slow=True)
    yield made
    made.close()


def killed_at_steps(world, kills):
    """Each of the kills, judged; those whose step did not come."""
    for _night in range(2):
        world.runner.run("run")
        world.change()
    missed = []
    for kill in kills:
        world.change()
        child = world.runner.begin("run", kill=kill)
        status = child.wait()
        if status != -signal.SIGKILL:
            missed.append(kill)
            assert status == 0, (kill, child.out, child.err)
        after = world.judged(kill)
        if status:
            after = world.next_run(after, kill)
    world.opens(after)
    return missed


@pytest.mark.timeout(280)
def test_a_run_killed_at_every_other_step_is_put_right_by_the_next(near):
    lot = random.Random(SEED)
    kills = [Kill(step, after=lot.random() < 0.5) for step in list(STEPS)[::2]]
    assert killed_at_steps(near, kills) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_before_and_after_each_step_is_put_right_by_the_next(near):
    kills = [Kill(step, after, when) for step in STEPS for after in (False, True) for when in (1, 2, 3)]
    missed = killed_at_steps(near, kills)
    # many are called once a run; some second and third calls were met
    assert {kill.when for kill in missed} <= {2, 3} and len(missed) < len(kills) * 2 / 3 - 10, len(missed)


def killed_at_random(world, kills, run_every):
    """Kills at random moments, of the server or whoever takes part; how many were hit, and how many cut dumps seen."""
    slow = "slow" in world.trees
    hit, cut, before = dict.fromkeys(VICTIMS, 0), set(), crash_world.Found({}, {}, [])
    for night in range(2):
        before = world.next_run(before, night)
        world.change()
    for kill in range(1, kills + 1):
        world.change()
        if slow and (kill % run_every == 1 or world.numbers.random() < 0.25):
            world.change_slow(2 if kill % run_every == 1 else 1)
        who = world.numbers.choice(VICTIMS)
        said = (kill, who)
        begun = time.monotonic()
        child = world.runner.begin("run")
        time.sleep(world.numbers.random() * world.length * (1.1 if who == "server" else 0.6))
        hit_now = 0
        for pid in world.victims(who, child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                hit_now += 1
        hit[who] += hit_now
        status = child.wait(120)
        if not hit_now:  # whole: so long does one take now
            world.length = min(world.length, time.monotonic() - begun)
        assert status in (0, 1, -signal.SIGKILL), (SEED, said, child.out, child.err)
        found = world.judged(said)
        cut |= world.cut_dumps(found)
        assert set(before.dumps) <= set(found.dumps), (SEED, said)
        before = found
        if kill % run_every == 0:
            known = set(world.went_on)
            before = world.next_run(found, said)
            if world.went_on - known and len(world.went_on) < 20:  # the run after takes what changed meanwhile
                before = world.next_run(before, said)
                world.opens(before)
    before = world.next_run(world.next_run(before, "the end"), "after it")
    world.opens(before)
    return hit, cut


@pytest.mark.timeout(280)
def test_kills_at_random_moments_lose_nothing_and_leave_nobody(both):
    assert sum(killed_at_random(both, 8, 4)[0].values()) >= 2


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_500_kills_at_random_moments_lose_nothing_and_leave_nobody(three):
    hit, cut = killed_at_random(three, KILLS, 4)
    print(f"hit: {hit}, in all {sum(hit.values())}; {len(cut)} cut dumps seen, {len(three.went_on)} gone on with")
    assert all(hit.values()) and sum(hit.values()) > KILLS * 0.6, hit
    assert len(cut) > KILLS / 50 and len(three.went_on) > KILLS / 50

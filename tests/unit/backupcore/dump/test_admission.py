"""Which dump begins next, by a clock that the test sets: limits, order, slow clients, second tries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from backupcore import clock
from backupcore.dump import admission, again
from backupcore.dump.admission import Admission
from backupcore.dump.again import Patience
from backupcore.dump.budget import Budget, key_of
from backupcore.errors import AccessDenied, ClientUnreachable, LineLost
from backupcore.hours import parse_rates
from backupcore.schedule.bases import Claim, Planned
from backupcore.settings import Client, Network, Settings, Source, Timing

MB = 10**6


class World:
    """Clients, a queue, and a clock."""

    def __init__(self, at_once=4, networks=None):
        self.clients, self.planned, self.at_once = {}, [], at_once
        self.networks = {
            name: Network(name, parse_rates(rate) if rate else None, dumps)
            for name, (rate, dumps) in (networks or {}).items()
        }
        self.seconds = 0.0
        self.moved = {}

    def client(self, name, *sources, spindles=(), priority=1, takes=0.0, begin=0, **values):
        made = {
            one: Source(name, one, "tree", None, {}, Timing(priority=priority), (), "auto",
                        spindle=dict(spindles).get(one, ""))
            for one in sources or ("data",)
        }  # fmt: skip
        self.clients[name] = Client(name, made, **values)
        self.planned += [Planned(name, one, 0, None, "", begin, seconds=takes) for one in made]

    def open(self, patience=Patience()):
        settings = Settings(
            file=Path("x"), state=Path("x"), keys=Path("x"), holding=(), cycle_days=7, targets={}, policies={},
            clients=self.clients, dumps_at_once=self.at_once, networks=self.networks,
        )  # fmt: skip
        ranks = {
            key_of(one): (-self.clients[one.client].sources[one.source].timing.priority, place)
            for place, one in enumerate(self.planned)
        }
        self.queue = Admission(
            settings, self.planned, ranks, None, patience, lambda: int(self.seconds * clock.NS), lambda: self.seconds
        )
        return self

    def begin(self):
        """All that begin now."""
        found = []
        while (turn := self.queue.next()).planned is not None:
            found.append(turn.planned)
        self.wait = turn.wait
        return found

    def names(self):
        return [f"{one.client}:{one.source}" for one in self.begin()]

    def end(self, one):
        self.queue.ended(one)

    def fail(self, one, error, reached=False):
        """A dump fails; the seconds until its next try, None for never."""
        found = self.queue.failed(one, error, reached)
        self.end(one)
        return None if found is None else found.next - self.seconds

    def go(self, seconds, **rates):
        """Time passes, dumps move; rates: client -> bytes a second."""
        for _ in range(int(seconds)):
            self.seconds += 1
            for one in [each.planned for each in self.queue._at_work.values()]:
                if one.client in rates:
                    self.moved[one] = self.moved.get(one, 0) + rates[one.client]
                    self.queue.moved(one, "dumping", self.moved[one])
            self.queue._measure(self.seconds)


def test_no_more_at_once_than_allowed_in_all_of_a_client_and_of_a_source():
    world = World(at_once=3)
    world.client("a", "x", "y", "z")
    world.client("b", dumps_at_once=1)
    world.client("c")
    first = world.open().begin()
    assert sorted(one.client for one in first) == ["a", "b", "c"]  # one of each before a second of any
    world.end(first[1])
    assert world.names() == ["a:y"] and world.wait is None or world.wait == admission.WINDOW / 2
    narrow = World(at_once=9)
    narrow.client("a", "x", "y", "z")
    narrow.client("b", "x", "y", "z", dumps_at_once=3)
    narrow.client("c", "x", "y", dumps_at_once=1)
    assert sorted(narrow.open().names()) == ["a:x", "a:y", "b:x", "b:y", "b:z", "c:x"]


def test_sources_of_one_spindle_are_dumped_one_after_the_other():
    world = World(at_once=9)
    disks = {"x": "sda", "y": "sda", "z": "sdb"}
    world.client("a", "x", "y", "z", "free", spindles=disks, dumps_at_once=4)
    world.client("b", "x", spindles={"x": "sda"})  # another machine's disk
    begun = world.open().begin()
    assert sorted(f"{one.client}:{one.source}" for one in begun) == ["a:free", "a:x", "a:z", "b:x"]
    world.end(next(one for one in begun if one.source == "z"))
    assert world.names() == []
    world.end(next(one for one in begun if one.client == "a" and one.source == "x"))
    assert world.names() == ["a:y"]


def test_a_network_takes_so_many_dumps_and_others_go_on():
    world = World(at_once=9, networks={"wan": (None, 2)})
    for name in ("w1", "w2", "w3"):
        world.client(name, network="wan")
    world.client("lan")
    begun = world.open().begin()
    assert [one.client for one in begun] == ["w1", "w2", "lan"]
    world.end(begun[0])
    assert world.names() == ["w3:data"]


def test_priority_first_then_what_takes_longest_until_it_is_through():
    world = World(at_once=1)
    world.client("short", takes=10)
    world.client("long", takes=500)
    world.client("many", "a", "b", "c", "d", takes=300)  # two at once: 600 s
    world.client("wanted", takes=1, priority=2)
    world.client("low", takes=9999, priority=0)
    world.open()
    order = []
    while begun := world.begin():
        order += [one.client for one in begun]
        for one in begun:
            world.end(one)
    # when one of many is done, what is left of it takes 450 s
    assert order == ["wanted", "many", "long", "many", "many", "many", "short", "low"]


def test_nothing_begins_before_its_time_and_that_is_waited_for():
    world = World()
    world.client("late", begin=100 * clock.NS)
    world.client("now")
    assert world.open().names() == ["now:data"] and world.wait == 100
    world.seconds = 99.5
    assert world.names() == [] and world.wait == 0.5
    world.seconds = 100.0
    assert world.names() == ["late:data"] and world.queue.is_over()


def test_slow_dumps_hold_no_slot_that_others_could_use_and_their_number_is_bounded():
    world = World(at_once=2)
    for name in ("s1", "s2", "s3", "s4", "s5", "s6"):
        world.client(name)
    assert world.open().names() == ["s1:data", "s2:data"]
    world.go(5)
    assert world.names() == [] and world.wait == admission.WINDOW / 2  # nobody knows yet
    crawl = dict.fromkeys(world.clients, 50_000)
    world.go(6, **crawl)
    assert world.names() == ["s3:data", "s4:data"]
    world.go(60, **crawl)
    assert world.names() == []  # twice as many at most
    fast = World(at_once=2)
    for name in ("f1", "f2", "f3"):
        fast.client(name)
    fast.open().begin()
    fast.go(60, f1=20 * MB, f2=20 * MB)
    assert fast.names() == []
    fast.go(11, f1=20 * MB, f2=1000)
    assert fast.names() == ["f3:data"]


def test_a_dump_that_waits_for_this_server_is_not_slow():
    world = World(at_once=1)
    world.client("a")
    world.client("b")
    (one,) = world.open().begin()
    for phase in ("waiting", "finishing"):
        world.queue.moved(one, phase, 10)
        world.go(60)
        assert world.names() == [], phase
    world.queue.moved(one, "dumping", 10)
    world.go(5)
    assert world.names() == []  # what it waited does not count
    world.go(6)
    assert world.names() == ["b:data"]


def test_a_network_that_is_full_leaves_slots_to_others_and_gets_no_more():
    world = World(at_once=2, networks={"wan": ("40 Mbit/s", None)})
    for name in ("w1", "w2", "w3"):
        world.client(name, network="wan")
    world.client("lan", "a", "b")
    assert world.open().names() == ["w1:data", "w2:data"]
    world.go(11, w1=2.5 * MB, w2=2.5 * MB)
    assert world.names() == ["lan:a", "lan:b"]  # no third one on the line, which is as full as it may be
    spare = World(at_once=2, networks={"wan": ("40 Mbit/s", None)})
    for name in ("w1", "w2", "w3"):
        spare.client(name, network="wan")
    spare.open().begin()
    spare.go(11, w1=0.5 * MB, w2=0.5 * MB)
    assert spare.names() == ["w3:data"]  # the line has room


def test_a_client_that_is_down_is_tried_again_while_others_go_on_by_one_dump_with_growing_pauses():
    world = World(at_once=9)
    world.client("down", "a", "b", "c")
    world.client("other")
    begun = world.open().begin()
    down = [one for one in begun if one.client == "down"]
    assert len(down) == 2 and len(begun) == 3
    pauses = []
    assert world.fail(down[0], ClientUnreachable("x")) == again.FIRST
    assert world.fail(down[1], ClientUnreachable("x")) == again.FIRST  # it was under way: no longer pause for it
    for _ in range(8):
        assert world.names() == []
        pauses.append(world.wait)
        world.seconds += world.wait
        (one,) = world.begin()
        assert one.client == "down"
        world.fail(one, ClientUnreachable("x"))
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]
    world.seconds += 600
    (one,) = world.begin()
    world.queue.moved(one, "dumping", 1)  # it is back: the others need not wait
    assert [each.client for each in world.begin()] == ["down"]
    world.end(one)
    assert [each.client for each in world.begin()] == ["down"] and world.queue.is_over()


def test_what_cannot_mend_itself_is_told_at_once_for_all_of_the_client():
    world = World(at_once=1)
    world.client("denied", "a", "b")
    world.client("other")
    (one,) = world.open().begin()
    assert world.fail(one, AccessDenied("no")) is None
    left = []
    while begun := world.begin():
        left += [(each.client, world.queue.again.verdict(each)) for each in begun]
        for each in begun:
            world.end(each)
    assert [(client, error and error.message) for client, error in left] == [("denied", "no"), ("other", None)]


def test_a_run_by_hand_gives_up_when_nothing_else_is_left():
    world = World(at_once=2)
    world.client("down", "a", "b")
    world.client("here")
    one, here = world.open().begin()
    assert world.fail(one, ClientUnreachable("x")) == again.FIRST  # while here is at work that costs nothing
    world.seconds += 5
    world.end(here)
    gone = world.begin()
    assert sorted(each.source for each in gone) == ["a", "b"]
    assert {world.queue.again.verdict(each).message for each in gone} == {"x"}
    alone = World()
    alone.client("down")
    (one,) = alone.open().begin()
    assert alone.fail(one, ClientUnreachable("x")) is None and alone.queue.is_over()


def test_the_last_try_of_a_long_pause_is_made_when_the_others_are_through():
    world = World()
    world.client("down")
    world.client("here")
    one, here = world.open().begin()
    world.fail(one, ClientUnreachable("x"))
    for pause in (15, 30, 60, 120, 240):
        world.seconds += pause
        (one,) = world.begin()
        world.fail(one, ClientUnreachable("x"))
    world.seconds += 100
    world.end(here)
    (one,) = world.begin()
    assert world.queue.again.verdict(one) is None  # 100 s ago it did not answer; now it may
    assert world.fail(one, ClientUnreachable("x")) is None
    assert world.queue.again.verdict(one).message == "x (tried 7 times in 9 min)"


def test_the_night_waits_as_long_as_it_is_told_and_for_roaming_clients_longer():
    world = World()
    world.client("down")
    world.client("laptop", presence="roaming")
    world.client("asked")
    for one in world.open(Patience(1800, 3600, {"asked": 7200})).begin():
        world.fail(one, ClientUnreachable("x"))
    ended, steps = {}, 0
    while not world.queue.is_over():
        while begun := world.begin():
            for one in begun:
                if world.queue.again.verdict(one) is not None:
                    ended[one.client] = world.seconds
                    world.end(one)
                elif world.fail(one, ClientUnreachable("x")) is None:
                    ended[one.client] = world.seconds
        if not world.queue.is_over():
            world.seconds += world.wait
        steps += 1
        assert steps < 1000 and (world.wait is None or world.wait > 0)
    assert 1800 <= ended["down"] < 1800 + 700
    assert 3600 <= ended["laptop"] < 3600 + 700
    assert 7200 <= ended["asked"] < 7200 + 60
    # somebody waits for it: it is asked often
    found = world.queue.again._tries["asked"]
    assert found.tries > 7200 / again.WAITED - 3


def test_a_client_that_comes_up_in_time_is_served():
    world = World()
    world.client("late", "a", "b")
    for one in world.open(Patience(1800)).begin():
        world.fail(one, ClientUnreachable("x"))
    while world.seconds < 1000:
        while begun := world.begin():
            for one in begun:
                world.fail(one, ClientUnreachable("x"))
        world.seconds += world.wait
    served = []
    while begun := world.begin():
        for one in begun:
            assert world.queue.again.verdict(one) is None
            world.queue.moved(one, "dumping", 1)
            served.append(one.source)
    assert sorted(served) == ["a", "b"] and world.queue.is_over()


def test_a_dump_that_is_cut_goes_on_soon_while_it_comes_further_and_not_for_ever():
    world = World()
    world.client("far")
    (one,) = world.open().begin()
    for step in (40, 80, 120):
        world.queue.moved(one, "dumping", step * MB)
        assert world.fail(one, LineLost("cut"), reached=True) == again.SOON
        world.seconds += again.SOON
        (one,) = world.begin()
    world.queue.moved(one, "dumping", 121 * MB - MB)  # no further than before
    assert world.fail(one, LineLost("cut"), reached=True) == again.SOON * 2
    world.seconds += 10
    (one,) = world.begin()
    assert world.fail(one, LineLost("cut"), reached=True) == again.SOON * 4
    world.seconds += again.PROGRESS
    (one,) = world.begin()
    assert world.fail(one, LineLost("cut"), reached=True) is None  # by hand nobody waits any longer
    assert world.queue.is_over()
    crawl = World()  # a client that sends a little more each time
    crawl.client("far")
    (one,) = crawl.open().begin()
    tries = 0
    while True:
        tries += 1
        crawl.queue.moved(one, "dumping", tries * 2 * MB)
        pause = crawl.fail(one, LineLost("cut"), reached=True)
        if pause is None:
            break
        crawl.seconds += pause
        (one,) = crawl.begin()
    assert tries == again.MOST


def test_a_cut_costs_the_other_dumps_of_its_client_nothing():
    world = World()
    world.client("far", "a", "b", "c")
    one, two = world.open().begin()
    world.fail(one, LineLost("cut"), reached=True)
    assert world.names() == ["far:c"]
    world.end(two)
    assert world.names() == [] and world.wait == again.FIRST


def test_what_gave_its_room_to_others_comes_before_a_wait_for_clients():
    world = World()
    world.client("gave")
    world.client("down")
    gave, down = world.open(Patience(1800)).begin()
    world.queue.put_last(gave)
    world.end(gave)
    assert world.names() == []  # down is at work
    world.fail(down, ClientUnreachable("x"))
    assert world.names() == ["gave:data"]


def test_a_night_that_only_waits_for_clients_ends_when_others_wait_for_it():
    world, others = World(), []
    world.client("down")
    world.client("asked")
    for one in world.open(Patience(1800, 3600, {"asked": 7200}, lambda: bool(others))).begin():
        world.fail(one, ClientUnreachable("x"))
    assert world.names() == [] and world.wait > 0
    others.append("another run")
    (one,) = world.begin()
    assert (one.client, world.queue.again.verdict(one).message) == ("down", "x")
    world.end(one)
    assert world.names() == [] and not world.queue.is_over()  # who was named is waited for all the same


def test_who_is_silent_for_minutes_is_asked_no_more_often_than_that():
    world = World()
    world.client("silent")
    world.client("other")
    silent, _other = world.open().begin()
    world.seconds += 300
    assert world.fail(silent, LineLost("sent nothing for 300 s"), reached=True) == 300
    world.seconds += 300
    (silent,) = world.begin()
    world.seconds += 900
    assert world.fail(silent, LineLost("sent nothing for 900 s"), reached=True) == again.LONGEST


def test_beside_a_slow_dump_others_begin_before_those_of_its_own_line():
    """Also where nobody knows yet how much of the line it uses, since it is still connecting."""
    world = World(at_once=1, networks={"wan": ("16 Mbit/s", 0)})
    world.client("w1", network="wan", takes=900)
    world.client("w2", network="wan", takes=800)
    world.client("lan", takes=5)
    assert world.open().names() == ["w1:data"]
    world.go(admission.WINDOW + 1)
    assert world.names() == ["lan:data"]


class Limited(World):
    """A night with hard limits. takes: bytes that each client's dump is expected to bring."""

    def __init__(self, limit, **takes):
        super().__init__()
        for name, (level, count) in takes.items():
            self.client(name)
            self.planned[-1] = replace(self.planned[-1], level=level, claim=Claim({"bytes": count}, most=9 * count))
        self.budget = Budget({"bytes": limit}, clock=lambda: self.seconds)

    def open(self, patience=Patience()):
        super().open(patience)
        self.queue._budget = self.budget
        return self

    def end(self, one, stored=None):
        self.budget.done(one, stored)
        super().end(one)


def test_an_incremental_that_waits_for_another_try_holds_up_no_full_of_a_night_with_limits():
    world = Limited(100, away=(1, 10), here=(0, 50)).open()
    (away,) = world.begin()
    assert away.client == "away" and world.fail(away, ClientUnreachable("down")) == again.FIRST
    (here,) = world.begin()
    assert here.client == "here" and not world.budget.given_up
    world.end(here, 50)
    world.seconds += again.FIRST
    assert world.names() == ["away:data"]


def test_what_waits_for_another_try_keeps_its_room_only_while_others_are_at_work():
    world = Limited(100, away=(0, 80), small=(0, 20), big=(0, 60)).open()
    away, small = world.begin()
    assert world.fail(away, ClientUnreachable("down")) == again.FIRST
    assert world.names() == []  # big waits: it may be back before small is through
    world.end(small, 20)
    (big,) = world.begin()
    assert big.client == "big" and not world.budget.given_up
    world.seconds += again.FIRST
    assert world.names() == []
    world.end(big, 60)
    assert world.names() == [] and world.queue.is_over()
    (given,) = world.budget.given_up
    assert given.planned.client == "away" and "has 20 B left, no room for 80 B" in given.why


def test_a_dump_that_is_cut_gives_its_room_back_and_takes_it_again():
    world = Limited(100, far=(0, 80), other=(0, 60)).open()
    (far,) = world.begin()
    world.queue.moved(far, "dumping", 70)
    world.budget.grown(far, 70)
    world.fail(far, LineLost("cut"), reached=True)
    world.seconds += again.FIRST
    assert world.names() == ["far:data"]

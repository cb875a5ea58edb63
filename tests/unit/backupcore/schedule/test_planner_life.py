"""The planner over many nights: new clients, outages, broken nights, wishes, limits."""

import dataclasses

import pytest

from backupcore.schedule.memory import Memory, remember
from backupcore.schedule.planner import plan
from backupcore.schedule.records import BYTES, Base, Done, Limit, Rules, Unit, View, Wish

GB = 1e9
START = 740_005


class Fleet:
    """Sources of one size whose dumps never fail, unless told; nights are planned one after the other."""

    def __init__(self, count, size=10 * GB, change=0.01, **wish):
        self.wishes = {f"c{n}:s": Wish(**wish) for n in range(count)}
        self.since = dict.fromkeys(self.wishes, START)
        self.sizes = dict.fromkeys(self.wishes, size)
        self.change = change
        self.bases = {name: {} for name in self.wishes}
        self.memory = Memory()
        self.night = START
        self.limits = {}
        self.rules = Rules()
        self.use = {}
        self.loads = {}

    def view(self, away=()):
        units = []
        for name, wish in self.wishes.items():
            bases, chain = [], 0
            for level, night in sorted(self.bases[name].items()):
                chain += 1
                bases.append(Base(level, night, chain))
            levels = {}
            here = name not in away
            if bases and here:
                for level in range(1, min(9, bases[-1].level + 1) + 1):
                    base = [base for base in bases if base.level < level][-1]
                    levels[level] = self.sizes[name] * min(1, self.change * (self.night - base.night))
            full = self.bases[name].get(0)
            size = self.sizes[name] if here else None
            client = name.split(":")[0]
            units.append(
                Unit(name, client, wish, self.since[name], here, size, levels, tuple(bases), full, "", self.use)
            )
        return View(self.night, self.night % 7, tuple(units), self.limits, {}, self.rules)

    def run(self, away=(), share=1.0, recorded=True):
        """One night; share: of its dumps come about; recorded: the memory gets to know."""
        view = self.view(away)
        made = plan(view, self.memory)
        ran = round(len(made.choices) * share)
        done = [Done(c.unit, c.level, c.bytes, place < ran) for place, c in enumerate(made.choices)]
        self.loads[self.night] = sum(one.bytes for one in done if one.ok)
        for one in done:
            if one.ok:
                kept = {level: night for level, night in self.bases[one.unit].items() if level < one.level}
                self.bases[one.unit] = {**kept, one.level: self.night}
        if recorded:
            self.memory = remember(self.memory, view, made, done)
        self.night += 1
        return made

    def nights(self, count, **how):
        return [self.run(**how) for _ in range(count)]

    def age(self):
        """Nights since the oldest full."""
        return max(self.night - bases[0] for bases in self.bases.values())


def fulls(made):
    return [choice.unit for choice in made.choices if choice.level == 0]


def test_first_fulls_are_spread_and_those_that_wait_are_named():
    fleet = Fleet(70)
    made = fleet.run()
    assert len(fulls(made)) == 10
    assert {one.what for one in made.given_up} == {"first"}
    assert len(made.given_up) == 60
    assert {one.until for one in made.given_up} == set(range(START + 1, START + 7))
    rest = fleet.nights(6)
    assert [len(fulls(one)) for one in rest] == [10] * 6
    assert not rest[-1].given_up


def test_all_first_fulls_on_the_first_night_where_that_is_asked_for():
    fleet = Fleet(70)
    fleet.rules = Rules(first_nights=1)
    assert len(fulls(fleet.run())) == 70


def test_first_fulls_need_fewer_nights_where_the_limit_is_wide():
    fleet = Fleet(70)
    fleet.limits = {BYTES: Limit(400 * GB)}
    nights = fleet.nights(3)
    assert len({name for made in nights for name in fulls(made)}) == 70
    assert max(fleet.loads.values()) <= 400 * GB


def test_first_fulls_of_high_priority_come_first():
    fleet = Fleet(70)
    for number in range(50, 60):
        name = f"c{number}:s"
        fleet.wishes[name] = dataclasses.replace(fleet.wishes[name], priority=9)
    assert set(fulls(fleet.run())) == {f"c{number}:s" for number in range(50, 60)}


def test_a_steady_fleet_has_even_nights_within_the_cycle():
    fleet = Fleet(70)
    fleet.nights(7)
    for _ in range(21):
        fleet.run()
        assert fleet.age() <= 7
    loads = [load for night, load in fleet.loads.items() if night >= START + 7]
    assert max(loads) <= 1.02 * min(loads)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.0])
def test_a_night_that_failed_half_way_is_corrected_without_a_jump(share):
    fleet = Fleet(70)
    fleet.nights(14)
    usual = fleet.loads[fleet.night - 1]
    fleet.run(share=share)  # the fulls are the last to run: half of them fail, or all
    assert fleet.age() == 8
    after = fleet.nights(7)
    loads = [fleet.loads[made.night] for made in after]
    assert max(loads) <= 1.15 * usual
    told = [one.why for one in after[0].given_up]
    assert told and all("when that night broke off" in why for why in told)
    fleet.nights(7)
    assert fleet.age() <= 7


def test_fulls_of_one_client_that_failed_are_made_within_its_grace():
    fleet = Fleet(14, grace=2)
    fleet.nights(14)
    late = next(name for name, bases in fleet.bases.items() if bases[0] == fleet.night - 7)
    view, made = fleet.view(), plan(fleet.view(), fleet.memory)
    done = [Done(one.unit, one.level, one.bytes, one.unit != late) for one in made.choices]
    for one in done:
        if one.ok:
            kept = {level: night for level, night in fleet.bases[one.unit].items() if level < one.level}
            fleet.bases[one.unit] = {**kept, one.level: fleet.night}
    fleet.memory = remember(fleet.memory, view, made, done)
    failed = fleet.night
    fleet.night += 1
    fleet.nights(3)
    assert failed < fleet.bases[late][0] <= failed + 3


@pytest.mark.parametrize("nights", [0, 14])
@pytest.mark.parametrize("away", [False, True])
def test_a_second_run_of_the_night_makes_the_fulls_that_failed(nights, away):
    fleet = Fleet(14)
    fleet.rules = Rules(first_nights=1)
    fleet.nights(nights)
    wanted = {one.unit for one in plan(fleet.view(), fleet.memory).choices if one.level == 0}
    assert wanted
    view = fleet.view(away=wanted if away else ())
    made = plan(view, fleet.memory)
    failed = [Done(one.unit, one.level, one.bytes, one.unit not in wanted) for one in made.choices]
    again = plan(fleet.view(), remember(fleet.memory, view, made, failed))
    assert {one.unit for one in again.choices if one.level == 0} >= wanted


@pytest.mark.parametrize("down", [1, 3])
def test_nights_nobody_planned_are_made_up_for_over_the_grace(down):
    fleet = Fleet(70)
    fleet.nights(14)
    usual = fleet.loads[fleet.night - 1]
    fleet.night += down
    first = fleet.run()
    told = [choice.reason for choice in first.choices if choice.level == 0] + [one.why for one in first.given_up]
    assert sum("server was down" in why for why in told) == 10 * down
    fleet.nights(7)
    assert max(load for night, load in fleet.loads.items() if night >= first.night) <= 1.7 * usual
    fleet.nights(7)
    assert fleet.age() <= 7


def test_a_night_whose_memory_was_lost_is_planned_again():
    fleet = Fleet(70)
    fleet.nights(14)
    usual = fleet.loads[fleet.night - 1]
    fleet.run(recorded=False)
    fleet.nights(7)
    assert fleet.age() <= 7
    assert max(fleet.loads.values()) <= 1.05 * usual
    fleet.memory = Memory()
    fleet.nights(14)
    assert fleet.age() <= 7
    assert max(fleet.loads.values()) <= 1.05 * usual


def test_a_client_that_was_away_gets_its_full_within_the_grace():
    fleet = Fleet(14, grace=2)
    fleet.nights(14)
    fleet.nights(9, away={"c3:s"})
    back = fleet.night
    made = fleet.nights(3)
    assert fleet.bases["c3:s"][0] in range(back, back + 3)
    assert any("c3:s" in fulls(one) for one in made)


def test_a_client_that_comes_seldom_gets_its_full_early_enough():
    fleet = Fleet(14)
    gap = 0
    for n in range(90):
        fleet.run(away={"c3:s"} if n % 5 not in (1, 2) else ())
        if n % 5 in (1, 2) and n > 20:
            gap = max(gap, fleet.night - fleet.bases["c3:s"][0])
    assert gap <= 11  # its cycle, the nights it is away, its grace


def test_a_shorter_cycle_is_reached_without_a_flood():
    fleet = Fleet(70, cycle=14)
    fleet.nights(28)
    usual = 50 * GB
    for name, wish in fleet.wishes.items():
        fleet.wishes[name] = dataclasses.replace(wish, cycle=7)
    fleet.nights(7)
    assert max(fleet.loads[night] for night in range(fleet.night - 7, fleet.night)) <= 3.2 * usual
    assert fleet.age() <= 7


def test_removed_and_added_sources_change_the_plan_at_once():
    fleet = Fleet(70)
    fleet.nights(14)
    for number in range(35):
        for table in (fleet.wishes, fleet.bases, fleet.sizes, fleet.since):
            del table[f"c{number}:s"]
    fleet.wishes["new:s"] = Wish()
    fleet.bases["new:s"], fleet.sizes["new:s"], fleet.since["new:s"] = {}, 10 * GB, fleet.night
    made = fleet.nights(7)
    assert any("new:s" in fulls(one) for one in made)
    assert {choice.unit for choice in made[-1].choices} == set(fleet.wishes)


def test_a_hard_limit_delays_fulls_and_says_so_but_never_incrementals():
    fleet = Fleet(70)
    fleet.nights(14)
    fleet.limits = {BYTES: Limit(60 * GB)}
    for _ in range(10):
        made = fleet.run()
        assert fleet.loads[made.night] <= 60 * GB
        assert len(made.choices) == 70
        late = [one for one in made.given_up if one.what == "full"]
    assert late and "limit" in late[0].why


def test_a_soft_limit_gives_way_to_what_is_due():
    fleet = Fleet(70)
    fleet.nights(14)
    fleet.limits = {BYTES: Limit(60 * GB, hard=False)}
    fleet.nights(14)
    assert fleet.age() <= 7


def test_under_a_hard_limit_the_high_priority_stays_within_its_cycle():
    fleet = Fleet(70)
    fleet.wishes["c5:s"] = dataclasses.replace(fleet.wishes["c5:s"], priority=5)
    fleet.nights(14)
    fleet.limits = {BYTES: Limit(50 * GB)}
    for _ in range(30):
        fleet.run()
        assert fleet.night - fleet.bases["c5:s"][0] <= 7


def test_late_fulls_do_not_starve_under_a_tight_limit():
    fleet = Fleet(70)
    fleet.nights(14)
    fleet.limits = {BYTES: Limit(60 * GB)}
    fleet.nights(40)
    assert fleet.age() <= 16  # five fulls a night: a round of all takes 14


def test_a_level_gets_deeper_before_a_full_is_delayed_or_an_incremental_dropped():
    fleet = Fleet(40, cycle=28, max_chain=3, change=0.05)
    fleet.nights(56)
    fleet.limits = {BYTES: Limit(sum(list(fleet.loads.values())[-28:]) / 28)}
    made = fleet.nights(14)
    given = {one.what for plan_ in made for one in plan_.given_up}
    assert "level" in given and "incremental" not in given
    assert all(len(plan_.choices) == 40 for plan_ in made)
    assert all(load <= fleet.limits[BYTES].amount for night, load in fleet.loads.items() if night >= made[0].night)


def test_another_resource_is_smoothed_where_it_is_limited():
    fleet = Fleet(70)
    fleet.use = {"target:cloud": (1.0, 0.0)}
    fleet.nights(7)
    fleet.limits = {"target:cloud": Limit(100 * GB)}
    for _ in range(14):
        made = fleet.run()
        assert len(fulls(made)) <= 10
        assert made.outlook[0].load["target:cloud"] == pytest.approx(len(fulls(made)) * 10 * GB)
        assert all(night.load["target:cloud"] <= 100 * GB * 1.001 for night in made.outlook)
    assert fleet.age() <= 7


def test_a_night_without_room_is_prepared_for():
    fleet = Fleet(70)
    fleet.nights(14)
    closed = fleet.night + 3
    for _ in range(6):
        view = fleet.view()
        limits = {closed: {BYTES: Limit(12 * GB)}}
        view = dataclasses.replace(view, coming=limits)
        made = plan(view, fleet.memory)
        fleet.view = lambda away=(), view=view: view
        fleet.run()
        del fleet.view
        if view.night == closed:
            assert not [one for one in made.given_up if one.what == "full"]
        assert fleet.age() <= 7


def test_days_hold_and_the_full_comes_on_the_last_of_them():
    fleet = Fleet(7, days=frozenset({1, 4}))
    for _ in range(35):
        made = fleet.run()
        assert bool(made.choices) == (made.night % 7 in (1, 4))
    assert fleet.age() <= 7


def test_an_own_schedule_is_followed_and_forecast():
    fleet = Fleet(7)
    fleet.nights(7)
    name = "c3:s"
    later = (fleet.night + 4, fleet.night + 11)
    fleet.wishes[name] = Wish(own=True, own_fulls=later)
    made = fleet.run()
    assert name not in {choice.unit for choice in made.choices}
    assert name not in {one.unit for one in made.given_up}
    with_full = {night.night: night.load[BYTES] for night in made.outlook}
    assert with_full[later[0]] > 10 * GB
    fleet.wishes[name] = Wish(own=True, own_fulls=later, forced=1)
    assert {choice.unit: choice.level for choice in fleet.run().choices}[name] == 1
    fleet.wishes[name] = Wish(own=True, own_fulls=later, forced=0)
    assert {choice.unit: choice.level for choice in fleet.run().choices}[name] == 0


def test_who_is_skipped_is_in_no_forecast():
    fleet = Fleet(2)
    fleet.use = {"seconds": (1e-8, 2e-8)}
    fleet.nights(7)
    for own in (False, True):
        fleet.wishes = dict.fromkeys(fleet.wishes, Wish(strategy="skip", own=own, own_fulls=(fleet.night + 3,)))
        made = plan(fleet.view(), Memory())
        assert not made.choices and not [name for night in made.outlook for name in night.fulls]
        assert not any(night.load.get(BYTES) or night.load.get("seconds") for night in made.outlook)


@pytest.mark.parametrize("strategy, level", [("full", {0}), ("incremental", set(range(1, 10))), ("skip", set())])
def test_strategies(strategy, level):
    fleet = Fleet(3, strategy=strategy)
    first = fleet.nights(7)
    assert bool(first[0].choices) == (strategy != "skip")
    got = {choice.level for _ in range(15) for choice in fleet.run().choices}
    assert got <= level and bool(got) == bool(level)


def test_a_forced_level_is_given_with_its_reason():
    fleet = Fleet(3)
    fleet.nights(8)
    fleet.wishes = {name: dataclasses.replace(wish, forced=level) for (name, wish), level in
                    zip(fleet.wishes.items(), (0, 1, 5))}  # fmt: skip
    made = fleet.run()
    assert [(choice.unit, choice.level) for choice in sorted(made.choices, key=lambda one: one.unit)] == [
        ("c0:s", 0), ("c1:s", 1), ("c2:s", 5),
    ]  # fmt: skip
    assert all("asked for" in choice.reason for choice in made.choices)


def test_a_broken_base_is_a_full_tonight_with_the_reason():
    fleet = Fleet(14)
    fleet.nights(10)
    view = fleet.view()
    units = [
        dataclasses.replace(unit, bases=(), levels={}, broken="x.1 is damaged") if unit.id == "c2:s" else unit
        for unit in view.units
    ]
    made = plan(dataclasses.replace(view, units=tuple(units)), fleet.memory)
    choice = next(choice for choice in made.choices if choice.unit == "c2:s")
    assert choice.level == 0 and "x.1 is damaged" in choice.reason


def test_a_lost_target_is_made_up_for_without_a_flood():
    fleet = Fleet(70)
    fleet.nights(10)
    view = fleet.view()
    units = [dataclasses.replace(unit, bases=(), levels={}, broken="lost") for unit in view.units]
    made = plan(dataclasses.replace(view, units=tuple(units)), fleet.memory)
    assert 10 <= len(made.choices) <= 12
    assert len(made.given_up) == 70 - len(made.choices)


def test_after_a_rebuild_all_fulls_are_made_at_once_where_there_is_room():
    fleet = Fleet(70)
    fleet.nights(10)
    fleet.rules = Rules(first_nights=1)
    view = fleet.view()
    units = [dataclasses.replace(unit, bases=(), levels={}, broken="lost") for unit in view.units]
    made = plan(dataclasses.replace(view, units=tuple(units)), fleet.memory)
    assert [choice.level for choice in made.choices] == [0] * 70 and not made.given_up


def test_a_full_of_the_future_is_no_reason_to_wait():
    fleet = Fleet(3)
    fleet.nights(7)
    fleet.bases["c1:s"] = {0: fleet.night + 400}
    assert "c1:s" in fulls(fleet.run())


def test_fulls_that_nobody_moves_stand_in_the_outlook_with_all_they_take():
    use = {"seconds": (1e-6, 1e-6)}
    always = Unit("a:daily", "a", Wish(strategy="full", days=frozenset({0, 2})), 0, True, full=5e9, use=use)
    own = Unit(
        "a:own", "a", Wish(own=True, own_fulls=(12,)), 0, True, full=2e9, bases=(Base(0, 9, 1),), last_full=9, use=use
    )
    made = plan(View(night=10, weekday=6, units=(always, own)), Memory())
    told = {one.night - 10: one for one in made.outlook}
    assert [told[k].fulls for k in range(4)] == [(), ("a:daily",), ("a:own",), ("a:daily",)]
    assert told[1].load["seconds"] == pytest.approx(5000, rel=0.05) and told[1].load[BYTES] >= 5e9
    assert told[2].load["seconds"] == pytest.approx(2000, rel=0.05)


def test_a_source_of_fulls_only_that_was_asked_for_is_in_the_outlook_of_each_night():
    fleet = Fleet(3)
    fleet.wishes["c1:s"] = Wish(strategy="full", forced=0)
    fleet.nights(3)
    made = fleet.run()
    assert all("c1:s" in night.fulls for night in made.outlook)
    assert min(night.load[BYTES] for night in made.outlook) >= fleet.sizes["c1:s"]


def test_a_source_that_leaves_fulls_only_behind_is_planned_anew():
    fleet = Fleet(3, cycle=14)
    fleet.wishes["c1:s"] = Wish(cycle=14, strategy="full")
    fleet.nights(10)
    fleet.wishes["c1:s"] = Wish(cycle=14)
    assert "c1:s" not in fulls(fleet.run())

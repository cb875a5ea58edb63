"""The replay: what a planner is shown, what becomes of its choices, what is written down."""

import pytest

from backupcore.schedule import metrics, simulate
from backupcore.schedule.model import FAR, Model
from backupcore.schedule.records import BYTES, Choice, Plan

GB = 10**9


def scenario(**other):
    return {
        "format": "stowage-sched/1", "name": "three", "days": 12, "warmup": 4, "cycle": 4, "grace": 2, "max_level": 2,
        "max_chain": None, "limit": None, "outages": [],
        "clients": [{"id": "a", "avail": "1" * 12}, {"id": "b", "avail": "110111001111"}],
        "sources": [
            {"id": "s", "client": "a", "size": 8 * GB, "change": 0.1, "overhead": 1000},
            {"id": "t", "client": "b", "size": 5 * GB, "change": 0.02, "growth": GB / 10, "cycle": 3, "priority": 2},
            {"id": "u", "client": "a", "size": 3 * GB, "change": 0.5, "hot": 0.3, "add": 2, "remove": 9},
        ], **other,
    }  # fmt: skip


class Watcher:
    """A planner for tests: a full when it is due, else the deepest level; keeps what it was shown."""

    def __init__(self):
        self.views, self.done = [], []

    def plan(self, view, memory):
        self.views.append(view)
        choices = []
        for unit in view.units:
            if unit.reachable:
                due = unit.last_full is None or view.night - unit.last_full >= unit.wish.cycle
                level = 0 if due else max(unit.levels)
                choices.append(Choice(unit.id, level, unit.full if due else unit.levels[level], "test"))
        return Plan(view.night, tuple(choices), (), (), ())

    def remember(self, memory, view, plan, done):
        self.done.append(done)
        return memory + 1

    def planner(self):
        return simulate.Planner(self.plan, self.remember, lambda: 0)


def watch(given, **options):
    watcher = Watcher()
    return watcher, simulate.replay(given, watcher.planner(), **options)


def test_the_result_is_legal_and_weighs_what_the_model_says():
    given = scenario()
    _, result = watch(given)
    figures = metrics.score(given, result)
    assert (figures["errors"], figures["missed"], figures["late_hard"]) == (0, 0, 0)
    assert list(result) == ["scenario", "planner", "plan_seconds_max", "nights"]
    assert len(result["nights"]) == 12
    assert set(result["nights"][0][0]) == {"source", "level", "bytes", "ok"}
    assert result["nights"][0][0] == {"source": "s", "level": 0, "bytes": 8 * GB + 1000, "ok": True}
    assert result["nights"][1][0]["bytes"] == round(0.8 * GB + 1000)


def test_a_planner_sees_the_night_and_nothing_of_the_future():
    watcher, _ = watch(scenario(limit=[None] * 5 + [30 * GB] * 7))
    first, third, fourth = watcher.views[0], watcher.views[2], watcher.views[3]
    assert [unit.id for unit in first.units] == ["s", "t"]
    assert first.units[0].full == 8 * GB + 1000 and first.units[0].levels == {} and first.units[0].last_full is None
    assert first.units[1].wish.cycle == 3 and first.units[1].wish.priority == 2 and first.units[1].wish.grace == 2
    assert first.rules.server_grace == 2 and not first.limits and not first.coming
    away = third.units[1]
    assert (away.reachable, away.full, away.levels) == (False, None, {}) and away.last_full == 0
    new = third.units[2]
    assert (new.id, new.since, new.last_full) == ("u", 2, None)
    assert sorted(fourth.units[0].levels) == [1, 2]  # max_level
    assert [(base.level, base.night, base.chain) for base in fourth.units[0].bases] == [(0, 0, 1), (1, 1, 2), (2, 2, 3)]
    assert watcher.views[5].limits[BYTES].amount == 30 * GB and watcher.views[5].limits[BYTES].hard
    assert [view.weekday for view in watcher.views] == [night % 7 for night in range(12)]
    assert [unit.id for unit in watcher.views[9].units] == ["s", "t"]


def test_the_levels_shown_are_what_those_dumps_would_weigh():
    given = scenario(max_level=9)
    watcher, _ = watch(given)
    model = Model(given)
    unit = watcher.views[3].units[0]
    for level in (1, 2, 3):
        assert unit.levels[level] == model.incremental(0, level - 1, 3)
    assert 4 not in unit.levels


def test_nobody_plans_while_the_server_is_down():
    watcher, result = watch(scenario(outages=[5, 6]))
    assert [view.night for view in watcher.views] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert result["nights"][5] == [] == result["nights"][6]


def test_a_dump_over_the_limit_fails_and_is_no_base():
    watcher, result = watch(scenario(limit=9 * GB))
    assert [(row["source"], row["ok"]) for row in result["nights"][0]] == [("s", True), ("t", False)]
    assert watcher.done[0][1].ok is False and watcher.done[0][1].bytes == 0
    assert result["nights"][1][1]["level"] == 0 and result["nights"][1][1]["ok"]
    assert metrics.score(scenario(limit=9 * GB), result)["errors"] == 0


def test_a_night_that_breaks_off_runs_only_its_first_dumps():
    given = scenario()
    watcher, result = watch(given, cuts={0: 0.5, 1: 0.0})
    assert [row["ok"] for row in result["nights"][0]] == [True, False]
    assert [row["ok"] for row in result["nights"][1]] == [False, False]
    assert watcher.views[1].units[1].last_full is None
    figures = metrics.score(given, result)
    assert figures["errors"] == 0 and figures["missed"] == 1


def test_wrong_estimates_are_seeded_and_change_no_true_byte():
    given = scenario()
    exact, result = watch(given)
    wrong, same = watch(given, errors=0.2, seed=1)
    again, _ = watch(given, errors=0.2, seed=1)
    other, _ = watch(given, errors=0.2, seed=2)
    assert wrong.views == again.views != other.views
    assert same["nights"] == result["nights"]  # this planner does not look at sizes
    shares = []
    for view, truth in zip(wrong.views, exact.views):
        for unit, true in zip(view.units, truth.units):
            if true.full is not None:
                shares.append(unit.full / true.full)
                shares += [unit.levels[level] / size for level, size in true.levels.items()]
    assert 0.8 <= min(shares) < 0.85 and 1.15 < max(shares) <= 1.2
    assert len(set(shares)) == len(shares)


def test_parts_are_planned_one_by_one():
    given = scenario(format="stowage-sched/2")
    given["sources"][0]["parts"] = [{"share": 0.75, "change": 0.1}, {"share": 0.25, "change": 0.02}]
    watcher, result = watch(given)
    assert [unit.id for unit in watcher.views[0].units] == ["s#0", "s#1", "t"]
    assert [row.get("part") for row in result["nights"][0]] == [0, 1, None]
    assert result["nights"][0][0]["bytes"] == 6 * GB + 1000
    assert metrics.score(given, result)["errors"] == 0


def test_progress_is_told():
    told = []
    watch(scenario(), progress=lambda done, days: told.append((done, days)))
    assert told == [(night, 12) for night in range(1, 13)]


@pytest.mark.parametrize(
    "choices", [[("nobody", 0)], [("s", 0), ("s", 0)], [("s", 1)]], ids=["unknown", "twice", "no base"]
)
def test_a_planner_that_plans_nonsense_is_a_bug(choices):
    def plan(view, memory):
        return Plan(view.night, tuple(Choice(unit, level, 1, "") for unit, level in choices), (), (), ())

    with pytest.raises(RuntimeError, match="the planner chose"):
        simulate.replay(scenario(), simulate.Planner(plan, lambda *_: None, lambda: None))


def test_deadlines_follow_absences():
    given = scenario()
    model = Model(given)
    assert model.deadline(0, 0) == 4
    assert model.deadline(1, 3) == 10  # due on 6, away; back on 8, two nights of grace
    assert model.deadline(0, 8) == FAR
    assert model.next_reachable(1, 6) == 8 and model.next_reachable(2, 9) is None

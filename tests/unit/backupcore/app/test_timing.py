"""When sources are dumped: what is said where, whose word counts, and what is wrong with it."""

from __future__ import annotations

import pytest

from backupcore.app import config, drivers
from backupcore.errors import ConfigError
from backupcore.settings import NightLimit, Timing

DRIVERS = drivers.load()
HEAD = "holding: [{path: /h, use: 1 GB}]\ntargets: {cloud: {type: directory, path: /c}}\n"


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "stowage.yml").write_text(HEAD + text)
        return config.load(tmp_path / "stowage.yml", DRIVERS)

    return read


@pytest.fixture
def wrong(read, tmp_path):
    def wrong(text):
        with pytest.raises(ConfigError) as caught:
            read(text)
        return caught.value.message.replace(f"{tmp_path}/", "")

    return wrong


def source(made, name="etc"):
    return made.settings.clients["web1"].sources[name].timing


def one(text="{path: /etc}"):
    return f"clients:\n  web1:\n    sources:\n      etc: {text}\n"


def test_nothing_said_is_the_default(read):
    assert source(read(one())) == Timing()
    planning = read(one()).settings.planning
    assert (planning.estimate, planning.estimate_time, planning.limits) == ("auto", 600.0, {})
    assert (planning.first_nights, planning.server_grace) == (None, None)


def test_the_nearest_word_counts(read):
    text = ("cycle: {days: 14, grace: 5}\npolicies:\n  p: {cycle: 10, priority: low, grace: 1}\n"
            "clients:\n  web1:\n    cycle: 9\n    priority: high\n    sources:\n"
            "      etc: {path: /etc, policy: p, cycle: {days: 8}}\n      home: {path: /home, policy: p}\n"
            "      var: /var\n")  # fmt: skip
    made = read(text)
    etc, home, var = (source(made, name) for name in ("etc", "home", "var"))
    assert (etc.cycle, home.cycle, var.cycle) == (8, 9, 9)
    assert (etc.priority, home.priority, var.priority) == (2, 2, 2)
    assert (etc.grace, var.grace) == (1, 5)
    assert source(read("cycle: {days: 14}\n" + one())).cycle == 14


@pytest.mark.parametrize("cycle, chain", [(1, None), (7, None), (8, 4), (28, 4)])
def test_long_cycles_have_short_chains_unless_said(read, cycle, chain):
    assert source(read(f"cycle: {{days: {cycle}}}\n" + one())).max_chain == chain
    assert source(read(f"cycle: {{days: {cycle}}}\n" + one("{path: /etc, max_chain: 7}"))).max_chain == 7


def test_part_of_a_day_is_rounded_to_the_safe_side(read):
    assert source(read("cycle: {days: 7.9}\n" + one())).cycle == 7
    assert source(read("cycle: {days: 0.01}\n" + one())).cycle == 1


def test_everything_that_a_source_may_say(read):
    text = one("{path: /etc, strategy: incremental, priority: 7, days: mon-fri, earliest: '22:00', max_chain: 2}")
    found = source(read(text))
    assert (found.strategy, found.priority, found.max_chain) == ("incremental", 7, 2)
    assert (found.days, found.earliest) == ({0, 1, 2, 3, 4}, 22 * 60)
    # YAML itself makes a number of 22:00, 22 * 60
    assert source(read(one("{path: /etc, earliest: 22:00}"))).earliest == 22 * 60
    assert source(read(one("{path: /etc, days: [sat, sun]}"))).days == {5, 6}
    own = source(read(one("{path: /etc, schedule: {full: 'sun 20:00', incremental: 'mon-sat 21:00'}}")))
    assert (own.full, own.incremental, own.own) == ("sun 20:00", "mon-sat 21:00", True)
    assert not source(read(one("{path: /etc, schedule: {incremental: hourly}}"))).own
    # a strategy that says the same as the schedule, or that takes a source out, contradicts nothing
    assert source(read(one("{path: /etc, strategy: full, schedule: {full: 'sun 20:00'}}"))).strategy == "full"
    assert source(read(one("{path: /etc, strategy: skip, schedule: {full: 'sun 20:00'}}"))).strategy == "skip"
    assert source(read(one("{path: /etc, strategy: incremental, schedule: {incremental: hourly}}"))).full is None


@pytest.mark.parametrize("text, nights", [
    ("first_nights: 3", 3), ("first_nights: all", 1), ("first_night: all", 1),
])  # fmt: skip
def test_how_first_fulls_spread(read, text, nights):
    assert read(f"cycle: {{days: 7, {text}, server_grace: 2}}\n").settings.planning.first_nights == nights


def test_limits_hard_and_soft(read):
    text = ("dumps_at_once: 2\nlimits:\n  bytes: 500 GiB soft\n  window: 8 h\n  holding: 1 TB hard\n"
            "  targets: {cloud: 20 Mbit/s x 8 h soft}\n")  # fmt: skip
    assert dict(read(text).settings.planning.limits) == {
        "bytes": NightLimit(500 * 2**30, False), "seconds": NightLimit(2 * 8 * 3600), "holding": NightLimit(10**12),
        "target:cloud": NightLimit(20e6 / 8 * 8 * 3600, False),
    }  # fmt: skip
    assert read("limits: {targets: {cloud: 50 GiB}}\n").settings.planning.limits["target:cloud"].amount == 50 * 2**30
    rate = read("limits: {targets: {cloud: 2 MiB/s * 1 h}}\n").settings.planning.limits["target:cloud"]
    assert rate == NightLimit(7200 << 20)


@pytest.mark.parametrize("text, told", [
    ("cycle: {first_night: some}", "first_night"),
    ("cycle: {first_nights: 0}", "number of nights"),
    ("cycle: {first_nights: 3, first_night: all}", "say the same"),
    ("limits: {bytes: lots}", "is no size"),
    ("limits: {bytes: 0}", "more than nothing"),
    ("limits: {bytes: 5 GiB firm}", "is no size"),
    ("limits: {window: 0 h}", "longer than nothing"),
    ("limits: {targets: {clod: 5 GiB}}", 'did you mean "cloud"'),
    ("limits: {targets: {cloud: 20 Mbit/s}}", "is no size"),
    ("planning: {estimate: guess}", "is none of auto, walk, history"),
    (one("{path: /etc, days: weekdays}"), "mon-fri"),
    (one("{path: /etc, earliest: 22}"), "write '22:00'"),
    (one("{path: /etc, earliest: '25:00'}"), "write '22:00'"),
    (one("{path: /etc, earliest: 2200}"), "earliest: 2200 is no time of day: write '22:00'"),
    (one("{path: /etc, strategy: incremental, schedule: {full: 'sun 20:00'}}"),
     "web1.sources.etc.strategy: incremental contradicts schedule.full: keep one"),
    (one("{path: /etc, strategy: full, schedule: {full: 'sun 20:00', incremental: hourly}}"),
     "web1.sources.etc.strategy: full contradicts schedule.incremental: keep one"),
    (one("{path: /etc, strategy: incremental, policy: p}") + "policies: {p: {schedule: {full: 'sun 20:00'}}}\n",
     "web1.sources.etc.strategy: incremental contradicts schedule.full of policies.p: keep one"),
    (one("{path: /etc, policy: p}") + "policies: {p: {strategy: incremental, schedule: {full: 'sun 20:00'}}}\n",
     "policies.p.strategy: incremental contradicts schedule.full: keep one"),
    (one("{path: /etc, priority: urgent}"), "low, normal, high"),
    (one("{path: /etc, strategy: none}"), "is none of standard, full, incremental, skip"),
    (one("{path: /etc, cycle: weekly}"), "number of days"),
    (one("{path: /etc, cycle: 0}"), "number of days"),
    (one("{path: /etc, max_chain: 0}"), "at least 1"),
    (one("{path: /etc, schedule: {}}"), "neither full nor incremental"),
    (one("{path: /etc, schedule: {full: weekly}}"), "is no schedule"),
    (one("{path: /etc, schedule: {full: 20:00}}"), "in quotes"),
    (one("{path: /etc, schedule: {fulls: 'sun 20:00'}}"), 'did you mean "full"'),
    (one("{path: /etc, cycel: 5}"), 'did you mean "cycle"'),
    ("policies: {p: {prioritiy: low}}", 'did you mean "priority"'),
])  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(wrong, text, told):
    message = wrong(text if text.endswith("\n") else text + "\n")
    assert told in message and "stowage.yml:" in message


def test_days_that_cannot_meet_the_rpo_are_worth_a_warning(read):
    (warning,) = read(one("{path: /etc, days: mon-fri}")).warnings
    assert "leaves 3 days" in warning and "26 h" in warning and "stowage.yml:" in warning
    assert not read("policies: {p: {rpo: 80 h}}\n" + one("{path: /etc, days: mon-fri, policy: p}")).warnings
    assert "leaves 7 days" in read(one("{path: /etc, days: sun}")).warnings[0]
    assert not read(one("{path: /etc, days: daily}")).warnings
    assert not read(one("{path: /etc, days: sun, strategy: skip}")).warnings


@pytest.mark.parametrize("schedule, days", [
    ("{full: 'sun 20:00'}", "7 days"), ("{full: 'sun 20:00', incremental: 'mon-fri 21:00'}", "1.96 days"),
    ("{full: 'sun 20:00', incremental: 'mon-sat 21:00'}", None), ("{full: 'sun 20:00', incremental: hourly}", None),
    ("{incremental: hourly}", None),
])  # fmt: skip
def test_a_schedule_that_cannot_meet_the_rpo_is_worth_a_warning(read, schedule, days):
    warnings = read(one(f"{{path: /etc, schedule: {schedule}}}")).warnings
    assert [f"leaves {days}" in warning for warning in warnings] == [True] * bool(days)

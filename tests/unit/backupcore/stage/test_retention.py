"""What keep means: small cases by hand, random ones against a second reading of the same words."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zoneinfo import ZoneInfo

from backupcore import clock, ids
from backupcore.catalog import units
from backupcore.catalog.records import HOLDING, CopyRow, DumpRow
from backupcore.restore import shares
from backupcore.stage import locks
from backupcore.stage.retention import GOOD, Rule, decide

NS = 10**9
BEGIN = datetime(2025, 12, 20, 22, tzinfo=timezone.utc)
UTC = timezone.utc


def moment(night, minutes=0):
    return int((BEGIN + timedelta(days=night, minutes=minutes)).timestamp()) * NS


class Past:
    """A source's dumps and copies, made a night at a time."""

    def __init__(self):
        self.rows, self.copies, self.number = [], {}, 0

    def dump(self, night, level=0, segment="", minutes=0, on=("nas",), state="verified", **more):
        self.number += 1
        unit = [row for row in self.rows if row.segment == segment and row.level < level]
        if level and not unit:
            level = 0
        parsed = ids.parse_segment(segment)
        folders = () if parsed is None else (
            tuple(f"d{n}" for n in range(1, parsed.count)) if parsed.rest else (f"d{parsed.number}",)
        )  # fmt: skip
        row = DumpRow(
            f"d{self.number:03d}-L{level}", "c", "s", segment, "tree", "/x", level, self.number,
            moment(night, minutes), moment(night, minutes + 1), unit[-1].id if level else None, None, f"r{night}",
            "zstd", 1, 1, 1, 1, None, "", options={"folders": list(folders)},
        )  # fmt: skip
        row = replace(row, **more)
        self.rows.append(row)
        self.copies[row.id] = {target: CopyRow(row.id, target, state) for target in on}
        return row

    def nights(self, count, cycle=7, **more):
        return [self.dump(night, 0 if night % cycle == 0 else 1, **more) for night in range(count)]

    def decide(self, rules, now=None, **more):
        now_ns = moment(400) if now is None else now
        more.setdefault("zone", UTC)
        return decide(self.rows, self.copies, rules, now_ns=now_ns, **more)

    def goes(self, rules, **more):
        return {(one.dump.id, one.copy.target) for one in self.decide(rules, **more) if not one.stays}

    def left(self, rules, **more):
        """The names of what stays on nas."""
        return {one.dump.id for one in self.decide(rules, **more) if one.stays and one.copy.target == "nas"}


def rule(**keep):
    more = {name: keep.pop(name) for name in ("min_copies", "self_contained", "fulls") if name in keep}
    return Rule(keep, **more)


def ids_of(rows):
    return {row.id for row in rows}


def test_without_keep_nothing_ever_goes():
    past = Past()
    past.nights(60)
    assert past.goes({"nas": Rule()}) == set()
    assert {one.reason for one in past.decide({"nas": Rule()})} == {"no keep: for ever"}


def test_the_last_ones_and_what_they_hang_on():
    past = Past()
    made = past.nights(20)
    assert past.left({"nas": rule(last=2)}) == {made[14].id, made[18].id, made[19].id}
    why = {one.dump.id: one.reason for one in past.decide({"nas": rule(last=2)})}
    assert why[made[14].id] == "the last good full"
    assert why[made[0].id] == "past its keep"


def test_a_base_stays_as_long_as_a_kept_dump_needs_it():
    past = Past()
    made = past.nights(16)  # fulls at 0, 7, 14
    assert past.left({"nas": rule(last=3)}) == {made[13].id, made[7].id, made[14].id, made[15].id}
    why = {one.dump.id: one.reason for one in past.decide({"nas": rule(last=3)})}
    assert why[made[7].id] == f"{made[13].id} needs it"


def test_rules_add_up():
    past = Past()
    made = past.nights(40, cycle=1)
    found = past.left({"nas": rule(last=1, daily=3, weekly=2, monthly=2, yearly=2)})
    # nights from Dec 20 on: Jan 28 (a Wednesday) is the last; Jan 25 ends a week, Dec 31 a month and a year
    assert found == {made[39].id, made[38].id, made[37].id, made[36].id, made[11].id}


def test_days_count_from_the_newest_on():
    past = Past()
    made = past.nights(30, cycle=1)
    assert past.left({"nas": rule(days=4)}, now=moment(29, 60)) == ids_of(made[25:])
    assert past.left({"nas": rule(days=4)}, now=moment(3000)) == ids_of(made[25:])
    assert past.left({"nas": rule(days=4)}, now=moment(20, -600)) == ids_of(made[16:])


def test_days_begin_where_the_server_is():
    past = Past()
    early, late = past.dump(0, minutes=60), past.dump(0, minutes=119 + 60)  # 23:00 and 00:59 UTC
    assert past.left({"nas": rule(daily=2)}, zone=UTC) == {early.id, late.id}
    assert past.left({"nas": rule(daily=2)}, zone=ZoneInfo("America/New_York")) == {late.id}


def test_a_clock_that_ran_ahead_for_a_night_costs_no_days():
    past = Past()
    made = past.nights(4, cycle=1)
    wrong = past.dump(404, run=f"{clock.stamp(moment(404))}-aaaa")
    # as dump/source.py dates them: a second behind the last one, until the clock has caught up
    later = [
        past.dump(404, begun_ns=moment(404) + n * NS, run=f"{clock.stamp(moment(4 + n))}-aaaa") for n in range(1, 6)
    ]  # fmt: skip
    now = moment(9, 60)
    assert ids_of(later[1:]) <= past.left({"nas": rule(daily=4)}, now=now)
    assert ids_of([wrong, *later]) <= past.left({"nas": rule(daily=6)}, now=now)
    assert made[0].id not in past.left({"nas": rule(daily=4)}, now=now)


def test_a_week_keeps_its_last_though_the_clock_goes_back_into_it_for_good():
    past = Past()
    saturday = 5 - datetime.fromtimestamp(moment(0) / NS, UTC).weekday() + 7
    last = past.dump(saturday, run=f"{clock.stamp(moment(saturday))}-aaaa")
    rules, there = {"nas": rule(weekly=3)}, []
    for number, day in enumerate((2, 4, 6, 9, 12)):  # from the Monday on, by a clock that is a week behind
        made = moment(saturday + day - 7)
        begun = max(made, moment(saturday) + (number + 1) * NS)
        there.append(past.dump(saturday, begun_ns=begun, run=f"{clock.stamp(made)}-aaaa"))
        past.goes(rules, now=moment(saturday + 20))
        for _time in range(2):  # what has gone tells nothing any more
            gone = {dump for dump, _target in past.goes(rules, now=moment(saturday + 20))}
            past.rows[:] = [row for row in past.rows if row.id not in gone]
        assert last.id in ids_of(past.rows)


def test_the_last_full_of_a_segment_stays_where_another_segment_went_elsewhere():
    past = Past()
    for number in (1, 2, 3):
        past.dump(1, 0, f"s{number}of3-bbbb", number)
    for number in (1, 2):
        past.dump(2, 0, f"s{number}of2-aaaa", number)
    fulls = [past.dump(3, 0, f"s{number}of3-bbbb", number) for number in (1, 2)]
    change = past.dump(3, 1, "s3of3-bbbb", 3, on=("cloud",))
    gone = past.goes({"nas": rule(last=1), "cloud": rule(last=1)})
    assert not gone & {(row.id, "nas") for row in fulls} and (change.id, "cloud") not in gone


def test_two_targets_each_keep_their_own():
    past = Past()
    made = past.nights(15, cycle=1, on=("nas", "cloud"))
    gone = past.goes({"nas": rule(last=2), "cloud": rule(last=5)})
    assert gone == {(row.id, "nas") for row in made[:13]} | {(row.id, "cloud") for row in made[:10]}


def test_a_chain_may_lie_on_two_targets():
    past = Past()
    full = past.dump(0, on=("cloud",))
    change = past.dump(1, 1, on=("nas",))
    for night in range(2, 9):
        past.dump(night, 0, on=("cloud",))
    rules = {"nas": rule(last=1, fulls=False), "cloud": rule(last=2)}
    assert (full.id, "cloud") not in past.goes(rules)
    assert (change.id, "nas") not in past.goes(rules)


def test_self_contained_asks_for_the_chain_on_the_very_target():
    past = Past()
    full = past.dump(0, on=("nas", "cloud"))
    past.dump(1, 1, on=("nas",))
    past.dump(2, 0, on=("nas",))
    rules = {"nas": rule(last=2), "cloud": Rule()}
    assert past.goes(rules) == {(full.id, "nas")}
    assert past.goes({**rules, "nas": rule(last=2, self_contained=True)}) == set()


def test_a_damaged_copy_keeps_nothing():
    past = Past()
    made = past.nights(4, cycle=1, on=("nas", "cloud"))
    past.copies[made[3].id]["cloud"] = CopyRow(made[3].id, "cloud", "damaged")
    gone = past.goes({"nas": rule(last=1), "cloud": rule(last=1)})
    # cloud promises its damaged one and, as long as it is not healed, the one before
    assert gone == {(row.id, target) for row in made[:2] for target in ("nas", "cloud")} | {(made[2].id, "nas")}


def test_who_promises_and_has_it_damaged_keeps_it_elsewhere():
    past = Past()
    made = past.nights(4, cycle=1, on=("nas", "cloud"))
    past.copies[made[0].id]["cloud"] = CopyRow(made[0].id, "cloud", "damaged")
    gone = past.goes({"nas": rule(last=1), "cloud": Rule()})
    assert gone == {(made[1].id, "nas"), (made[2].id, "nas")}


def test_min_copies_are_left_of_what_somebody_keeps():
    past = Past()
    made = past.nights(3, cycle=1, on=("nas", "cloud"))
    assert past.goes({"nas": rule(last=1, min_copies=2), "cloud": rule(last=2)}) == {
        (made[0].id, "nas"), (made[0].id, "cloud"),
    }  # fmt: skip


def test_the_last_good_full_stays_when_a_newer_one_is_damaged():
    past = Past()
    old, bad = past.dump(0), past.dump(1, damaged=True, state="damaged")
    found = {one.dump.id: one for one in past.decide({"nas": rule(last=1)})}
    assert found[old.id].stays and found[bad.id].stays


def test_a_source_that_left_keeps_everything_and_says_so():
    past = Past()
    past.nights(9)
    assert past.goes(None) == set()
    assert {one.reason for one in past.decide(None)} == {"its source is no longer in the configuration"}


def test_a_target_that_left_the_policy_keeps_what_it_has():
    past = Past()
    past.nights(9, on=("nas", "old"))
    assert {target for _dump, target in past.goes({"nas": rule(last=1)})} == {"nas"}


def test_holds_locks_and_holding_images_stay():
    past = Past()
    made = past.nights(9, cycle=1)
    past.rows[3] = replace(made[3], holding="/srv/holding/x")
    rules = {"nas": rule(last=1)}
    found = past.left(rules, holds={made[1].id}, locks={(made[2].id, "nas"): moment(500), (made[4].id, "nas"): 5})
    assert found == {made[1].id, made[2].id, made[3].id, made[8].id}
    assert past.goes(rules, held=True) == set()


def test_a_held_incremental_holds_its_base():
    past = Past()
    made = past.nights(20)
    assert past.left({"nas": rule(last=1)}, holds={made[3].id}) >= {made[0].id, made[3].id}


def test_what_only_lies_on_the_holding_disk_keeps_its_base():
    past = Past()
    full = past.dump(0)
    past.dump(1, 1, on=(), holding="/srv/holding/x")
    for night in range(2, 5):
        past.dump(night)
    assert full.id in past.left({"nas": rule(last=1)})


SEGMENTS = ("s1of2-aaaa", "s2of2-aaaa")


def test_a_restore_point_is_a_moment_of_all_segments():
    past = Past()
    made = {}
    for night in range(12):
        for number, name in enumerate(SEGMENTS):
            full = night % 4 == number * 2
            made[night, number] = past.dump(night, 0 if full or not night else 1, name, minutes=number)
    left = past.left({"nas": rule(last=2)})
    assert {made[11, 0].id, made[11, 1].id, made[10, 0].id, made[10, 1].id} <= left
    assert {made[8, 0].id, made[10, 1].id} <= left  # the fulls below
    assert made[7, 0].id not in left and made[3, 1].id not in left
    assert len(left) == 5


def test_the_old_way_goes_when_no_point_shows_it():
    past = Past()
    whole = past.nights(3)
    parts = [past.dump(night, 0 if night == 3 else 1, name, number)
             for night in range(3, 8) for number, name in enumerate(SEGMENTS)]  # fmt: skip
    left = past.left({"nas": rule(last=2)})
    assert not left & ids_of(whole)
    assert ids_of(parts[-4:]) <= left
    assert past.left({"nas": rule(last=6)}) >= {whole[2].id, whole[0].id}


def test_segments_that_are_not_complete_yet_stay():
    past = Past()
    past.nights(3, cycle=1)
    first = past.dump(3, 0, SEGMENTS[0])
    later = [past.dump(night) for night in range(4, 8)]
    assert past.left({"nas": rule(last=1)}) == {first.id, later[-1].id}


def test_interim_dumps_go_when_a_full_has_followed_everywhere():
    past = Past()
    interim = [past.dump(night, 0, ids.INTERIM) for night in range(3)]
    past.dump(3, on=("nas",))
    rules = {"nas": rule(last=1), "cloud": rule(last=1)}
    assert past.goes(rules) == set()
    past.copies[past.rows[-1].id]["cloud"] = CopyRow(past.rows[-1].id, "cloud", "done")
    assert past.goes(rules) == set()
    past.copies[past.rows[-1].id]["cloud"] = CopyRow(past.rows[-1].id, "cloud", "verified")
    assert past.goes(rules) == {(row.id, "nas") for row in interim}


def test_what_staging_has_under_way_is_left_alone():
    past = Past()
    for night, state in enumerate(("wanted", "copying", "failed", "expired")):
        past.dump(night, state=state)
    past.dump(9)
    assert [one.copy.state for one in past.decide({"nas": rule(last=1)})] == ["verified"]


def test_what_another_target_still_waits_for_stays_once():
    past = Past()
    made = past.nights(4, cycle=2, on=("nas", "disk"))
    past.copies[made[1].id]["far"] = CopyRow(made[1].id, "far", "wanted")
    rules = {"nas": rule(last=1), "disk": rule(last=1), "far": Rule()}
    assert past.goes(rules) == {(made[0].id, "disk"), (made[1].id, "disk")}
    told = {one.reason for one in past.decide(rules) if one.dump.id == made[1].id and one.stays}
    assert told == {"a copy on far is still to be made of it"}
    assert len(past.goes({"nas": rule(last=1), "disk": rule(last=1)})) == 4  # nobody asks for it there any more


def test_where_no_point_can_be_made_out_everything_stays():
    past = Past()
    past.dump(0, on=())
    lost = [past.dump(night, 1) for night in range(1, 4)]
    assert past.left({"nas": rule(last=1)}) == ids_of(lost)


# random ones

KEEPS = st.fixed_dictionaries(
    {},
    optional={
        "last": st.integers(1, 6), "days": st.integers(1, 20), "daily": st.integers(1, 8), "weekly": st.integers(1, 4),
        "monthly": st.integers(1, 3), "yearly": st.integers(1, 2),
    },
)  # fmt: skip
RULES = st.builds(Rule, KEEPS, st.integers(1, 2), st.booleans(), st.just(True))
STATES = st.sampled_from(["verified"] * 12 + ["done", "damaged", "failed", "expired", ""])
CUTS = {1: ("s1of2-aaaa", "s2of2-aaaa"), 2: ("s1of3-bbbb", "s2of3-bbbb", "s3of3-bbbb")}


@st.composite
def pasts(draw, targets=("nas", "cloud")):
    """A source that may be cut on the way, dumped in most nights, with copies in any state."""
    past = Past()
    takes = {target: draw(st.sampled_from(["all", "all", "full", "incremental"])) for target in targets}
    segments, night = ("",), 0
    for _ in range(draw(st.integers(1, 25))):
        night += draw(st.sampled_from([1, 1, 1, 1, 2, 9]))
        if draw(st.integers(0, 9)) == 0:
            segments = CUTS[draw(st.sampled_from([1, 2]))]
        for number, name in enumerate(segments):
            if draw(st.integers(0, 11)) == 0:
                continue
            level = draw(st.sampled_from([0, 1, 1, 1, 2, 2]))
            row = past.dump(night, level, name, minutes=number, on=())
            for target in targets:
                state = draw(STATES)
                if state and takes[target] in ("all", "incremental" if row.level else "full"):
                    past.copies[row.id][target] = CopyRow(row.id, target, state)
            if draw(st.integers(0, 30)) == 0:
                past.rows[-1] = replace(past.rows[-1], holding="/srv/holding/x")
    return past


def chain(rows, name):
    """All links, the full first; None when one is missing."""
    found = []
    while name is not None:
        if name not in rows:
            return None
        found.append(rows[name])
        name = rows[name].base
    return tuple(found[::-1])


def good(past, copies, only=None):
    """The dumps that can be read somewhere, or on one target."""
    return {
        row.id: row for row in past.rows
        if only is None and row.holding or any(
            copy.state in GOOD and only in (None, target) for target, copy in copies[row.id].items()
        )
    }  # fmt: skip


def shown(past, copies, target, when):
    """The newest dumps that a restore takes for a moment, by those on target, with whatever they build on."""
    everywhere, here = good(past, copies), good(past, copies, target)

    def chain_at(rows):
        for row in sorted(rows, key=lambda row: -row.counter):
            if row.begun_ns <= when and chain(everywhere, row.id):
                return chain(everywhere, row.id), None
        return (), None

    usable = [row for row in past.rows if row.id in here and chain(everywhere, row.id)]
    found, _parts, _passed = shares.at(usable, when, chain_at)
    return frozenset(row.id for row in found)


def promised(past, target, keep, now_ns):
    """moment -> what a restore shows then, of all moments that keep asks for."""
    moments = sorted({max(row.begun_ns for row in past.rows if row.run == one.run) for one in past.rows})
    seen, found = [], {}
    for when in moments:
        view = shown(past, past.copies, target, when)
        if view and view not in seen:
            found[when] = view
            seen.append(view)
    asked = set(list(found)[-keep.get("last", 0):]) if keep.get("last") else set()
    asked |= set(list(found)[-1:])
    if keep.get("days") and found:
        last = min(now_ns, max(found)) // (86400 * NS)
        asked |= {when for when in found if when // (86400 * NS) >= last - keep["days"]}
    for name, form in (("daily", "%Y %j"), ("weekly", "%G %V"), ("monthly", "%Y %m"), ("yearly", "%Y")):
        last_of = {datetime.fromtimestamp(when // NS, UTC).strftime(form): when for when in found}
        asked |= set(sorted(last_of.values())[::-1][: keep.get(name, 0)])
    return {when: found[when] for when in asked}


def after(past, gone):
    return {
        name: {target: copy for target, copy in of_one.items() if (name, target) not in gone}
        for name, of_one in past.copies.items()
    }


RANDOM = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@RANDOM
@given(pasts(), st.fixed_dictionaries({"nas": RULES, "cloud": RULES}), st.integers(0, 300), st.data())
def test_every_promise_is_kept(past, rules, now, data):
    now_ns = moment(now)
    names = [row.id for row in past.rows]
    holds = set(data.draw(st.lists(st.sampled_from(names), max_size=2))) if names else set()
    locks = {(name, "nas"): moment(now + 5) for name in names[:: data.draw(st.integers(2, 30))]}
    decisions = past.decide(rules, now=now_ns, holds=holds, locks=locks)
    gone = {(one.dump.id, one.copy.target) for one in decisions if not one.stays}
    left = after(past, gone)
    for target, one in rules.items():
        if not one.keep:
            assert not any(where == target for _name, where in gone)
        for when, view in promised(past, target, one.keep, now_ns).items():
            assert shown(past, left, target, when) == view
            if one.self_contained and view <= set(good(past, past.copies, target)):
                assert view <= set(good(past, left, target))
    before, still = good(past, past.copies), good(past, left)
    for name, where in {(name, where) for name, of_one in left.items() for where in of_one}:
        if left[name][where].state in GOOD and chain(before, name):
            assert chain(still, name), "a copy that stays must not lose what it builds on"
            verified = [sum(copy.state == "verified" for copy in one[name].values()) for one in (past.copies, left)]
            least = max(rules[target].min_copies for target in past.copies[name])
            assert verified[1] >= min(verified[0], least)
    for row in past.rows:
        if row.holding and chain(before, row.id):
            assert chain(still, row.id)
    assert not {name for name, _where in gone} & holds
    assert not gone & set(locks)
    # the last good full of each unit of the source
    best = units.in_force(units.newest_of(row for row in before.values() if chain(before, row.id)))
    for name in best:
        fulls = [row for row in before.values() if row.segment == name and row.level == 0]
        assert fulls[-1].id in still
    again = decide(past.rows, left, rules, now_ns=now_ns, zone=UTC, holds=holds, locks=locks)
    assert all(one.stays for one in again), "what is decided is decided once"


@RANDOM
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=20), KEEPS)
def test_nothing_stays_longer_than_asked(steps, keep):
    past, night = Past(), 0
    for step, level in steps:
        night += step
        past.dump(night, level)
    if not keep:
        return
    everywhere = {row.id: row for row in past.rows}
    needed = set()
    for view in promised(past, "nas", keep, moment(400)).values():
        needed |= view
    needed.add([row for row in past.rows if row.level == 0][-1].id)
    for name in list(needed):
        needed |= ids_of(chain(everywhere, name))
    assert past.left({"nas": Rule(keep)}) == needed


@settings(max_examples=15, deadline=None)
@given(KEEPS.filter(bool), st.integers(2, 9), st.sampled_from([0, 20, 45]))
def test_pruned_every_night_it_has_what_an_unpruned_history_would_promise(keep, cycle, cut_at):
    whole, now, copies = Past(), 0, {}
    for night in range(70):
        segments = CUTS[1] if cut_at and night >= cut_at else ("",)
        for number, name in enumerate(segments):
            level = 0 if night % cycle == 0 else min(2, night % 3)
            row = whole.dump(night, level, name, minutes=number)
            copies[row.id] = dict(whole.copies[row.id])
        now = moment(night, 60)
        rows = [row for row in whole.rows if copies[row.id]]
        for one in decide(rows, copies, {"nas": Rule(keep)}, now_ns=now, zone=UTC):
            if not one.stays:
                del copies[one.dump.id][one.copy.target]
    for when, view in promised(whole, "nas", keep, now).items():
        assert shown(whole, copies, "nas", when) == view


SECONDS = st.sampled_from([0.0, 86400.0, 30 * 86400.0, 365 * 86400.0])


@RANDOM
@given(pasts(), st.fixed_dictionaries({"nas": SECONDS, "cloud": SECONDS}))
def test_a_chain_is_locked_as_long_as_what_ends_it(past, seconds):
    found = locks.dates(past.rows, past.copies, seconds, moment(400))
    rows = {row.id: row for row in past.rows}
    asked = {}
    for row in past.rows:
        for target, copy in past.copies[row.id].items():
            if not seconds.get(target) or copy.state not in (*GOOD, "damaged"):
                continue
            until, name = row.begun_ns + int(seconds[target]) * NS, row.id
            while name in rows:
                good = {one for one, copy in past.copies[name].items() if copy.state in GOOD}
                for place in {target} & good or {one for one in good if seconds.get(one)}:
                    asked.setdefault((name, place), set()).add(until)
                name = rows[name].base
    assert found == {place: max(dates) for place, dates in asked.items()}
    # as long as a lock lasts, what it is based on lasts somewhere, where it can be locked at all
    for (name, _target), until in found.items():
        dates = [date for (dump, _place), date in found.items() if dump == rows[name].base]
        assert not dates or max(dates) >= until
    # and nothing that is locked goes, nor what it is based on
    now_ns = moment(300)
    gone = {(one.dump.id, one.copy.target) for one in past.decide(
        {name: Rule({"last": 1}) for name in seconds}, now=now_ns, locks=found) if not one.stays}  # fmt: skip
    assert not gone & {place for place, until in found.items() if until > now_ns}


def test_a_damaged_holding_image_keeps_nothing():
    past = Past()
    full = past.dump(0)
    past.copies[full.id][HOLDING] = CopyRow(full.id, HOLDING, "damaged")
    later = past.dump(1)
    assert past.left({"nas": rule(last=1)}) == {later.id}

"""What `check` says of copies that do not do what they seem to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from stage_world import World

from backupcore import clock, text
from backupcore import settings as s
from backupcore.app import check_copies, check_targets, config, drivers
from backupcore.stage.release import release

SUNDAY = frozenset({6})
HEAD = """\
holding: [{path: /srv/holding, use: 500 GiB}]
targets: {nas: {type: directory, path: /mnt/nas}}
"""
TAIL = "clients: {web1: {sources: {etc: {path: /etc}}}}\n"


def source(*rules, least=None, **timing):
    return s.Source("web1", "etc", "tree", s.Policy("p", copies=rules), {}, s.Timing(**timing), min_copies=least)


def told(*rules, **more):
    return list(check_copies.of_source(source(*rules, **more)))


@pytest.fixture(scope="module")
def known():
    return drivers.load()


@pytest.fixture
def engine(tmp_path, known):
    def engine(text):
        file = tmp_path / "stowage.yml"
        file.write_text(text)
        made = config.load(file, known)
        return SimpleNamespace(configuration=made, settings=made.settings)

    return engine


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.catalog.close()


def test_a_copy_of_everything_is_nothing_to_say():
    assert told(s.CopyRule("nas")) == []
    assert told(s.CopyRule("nas"), s.CopyRule("cloud", "full", every="week")) == []


@pytest.mark.parametrize("timing", [{"full": "sun 20:00"}, {"strategy": "full"}, {"days": SUNDAY}])
def test_fulls_of_a_night_are_sure_where_nobody_moves_them(timing):
    assert told(s.CopyRule("nas"), s.CopyRule("cloud", "full", made_on=SUNDAY), **timing) == []


def test_the_planner_moves_fulls_so_that_a_night_s_may_never_come():
    (one,) = told(s.CopyRule("nas"), s.CopyRule("cloud", "full", made_on=SUNDAY))
    assert "the planner decides in which nights fulls are made" in one and "every: week" in one
    assert told(s.CopyRule("nas"), s.CopyRule("cloud", made_on=SUNDAY)) == []


def test_a_night_on_which_it_is_never_dumped():
    (one,) = told(s.CopyRule("nas"), s.CopyRule("cloud", made_on=SUNDAY), days=frozenset(range(5)))
    assert one == "made_on sun of cloud: no night of its days (mon-fri) is one of them"


def test_dumps_that_no_target_takes():
    others = "the others stay on the holding disk, and nothing removes them"
    they = "they stay on the holding disk, and nothing removes them"
    assert told(s.CopyRule("cloud", "full")) == [f"none of its incrementals go to a target: {they}"]
    assert told(s.CopyRule("cloud", every="week")) == [
        f"only some of its {kind}s go to a target: {others}" for kind in ("full", "incremental")
    ]
    assert told(s.CopyRule("cloud", "full"), strategy="full") == []
    assert told() == ["no copy is asked for: its images stay on the holding disk, and nowhere else"]
    assert list(check_copies.of_source(source(), targets=False)) == []


def test_what_stays_on_the_holding_disks_is_told_with_its_growth(world):
    world.policy(s.CopyRule("nas", "full"))
    for name in ("web1", "web2"):
        world.dump(name), world.dump(name, level=1)
    world.dump("web1", level=1)
    sized = [row for row in world.catalog.dumps() if row.level]
    engine = SimpleNamespace(settings=world.settings, catalog=world.catalog)
    ((message, hint),) = check_copies.stranded(engine)
    size = text.size(sum(row.stored_size for row in sized))
    assert message.startswith(f"3 images on the holding disks go to no target, and nothing removes them: {size}, ")
    one = sized[0].stored_size
    assert f"(web1:etc {text.size(2 * one)}, web2:etc {text.size(one)})" in message
    assert hint == "stowage policy explain web1 etc"
    assert {dump.level for dump in _removed(world)} == {0}
    world.policy(s.CopyRule("nas"))
    assert list(check_copies.stranded(SimpleNamespace(settings=world.settings, catalog=world.catalog))) == []


def test_growth_is_that_of_thirty_days(world, monkeypatch):
    world.policy(s.CopyRule("nas", "full"))
    world.dump()
    late = [world.dump(level=1) for _ in range(40)][-1]
    monkeypatch.setattr(clock, "now_ns", lambda: late.begun_ns + 1)
    engine = SimpleNamespace(settings=world.settings, catalog=world.catalog)
    ((message, _hint),) = check_copies.stranded(engine)
    assert f"{text.size(40 * late.stored_size)}, {text.size(30 * late.stored_size)} of it in 30 days" in message


def _removed(world):
    world.stage()
    names = release(world.settings, world.catalog).dumps
    return [row for row in world.catalog.dumps() if row.id in names]


def test_more_copies_are_waited_for_than_there_are():
    assert told(s.CopyRule("nas"), least=1) == []
    assert "min_copies is 2, and it has 1" in told(s.CopyRule("nas"), least=2)[0]


def test_many_sources_with_one_trouble_are_one_line(engine):
    text = HEAD + "policies: {standard: {copies: [{target: nas, dumps: full}]}}\n"
    text += "clients: {web1: {sources: {a: /a, b: /b, c: /c, d: /d, e: {path: /e, strategy: skip}}}}\n"
    world = engine(text)
    ((message, hint),) = check_copies.wrong(world)
    assert message.startswith("web1:a, web1:b, web1:c and 1 more: ")
    assert hint == "stowage policy explain web1 a"


def test_what_is_built_in_is_said_where_it_holds(engine):
    assert "the last of 14 days, 8 weeks and 12 months stay" in check_copies.default(engine(HEAD + TAIL))
    rule = engine(HEAD + TAIL).settings.source("web1", "etc").rule("nas")
    assert rule.keep == {"daily": 14, "weekly": 8, "monthly": 12}
    assert check_copies.default(engine(HEAD + "copies: [{target: nas}]\n" + TAIL)) is None
    written = engine(HEAD + "policies: {standard: {copies: [{target: nas}]}}\n" + TAIL)
    assert check_copies.default(written) is None
    assert written.settings.source("web1", "etc").rule("nas").keep == {}  # who writes copies says how long


def test_a_lock_on_a_target_that_cannot(engine):
    world = engine(HEAD + "copies: [{target: nas, lock: 30 days}]\n" + TAIL)
    ((message, _hint),) = check_copies.locks(world, "nas", False)
    assert message.startswith("it cannot lock, and ") and message.endswith("stowage.yml:3 asks for it")
    assert list(check_copies.locks(world, "nas", True)) == []
    assert list(check_copies.locks(engine(HEAD + TAIL), "nas", False)) == []


def test_a_place_that_is_away_passed_nothing(world):
    seen = SimpleNamespace(ok=False, warning=False, name="write", message="/mnt/nas is not there", hint="mount it")
    place = SimpleNamespace(probe=lambda: [seen], capabilities=SimpleNamespace(lock=False))
    place.stat = lambda _name: None
    engine = SimpleNamespace(settings=world.settings, server_id="0123456789abcdef", target=lambda _name: place)
    assert [one.message for one in check_targets.look(engine, "nas")] == ["write: /mnt/nas is not there"]
    seen.ok = True
    assert [one.message for one in check_targets.look(engine, "nas")] == ["1 checks passed"]


def test_dumps_that_are_dated_in_the_future_are_told_with_what_becomes_of_their_locks(world, monkeypatch):
    first, last = world.dump(), world.dump()
    monkeypatch.setattr(clock, "now_ns", lambda: last.begun_ns + clock.NS)
    assert list(check_copies.ahead(world)) == []
    monkeypatch.setattr(clock, "now_ns", lambda: first.begun_ns)
    ((told, hint),) = check_copies.ahead(world)
    assert told.startswith(f"1 dumps are dated in the future, up to {clock.local(last.begun_ns)}: the clock ran ahead")
    assert "their locks" not in told and "clock" in hint
    world.policy(s.CopyRule("nas", lock=86400.0))
    ((told, _hint),) = check_copies.ahead(world)
    assert told.endswith("their locks run from when they were copied, those that were set before stay")

"""`stowage policy explain` from the command line: what holds, from where, and where the next dumps go."""

from __future__ import annotations

import json
from datetime import date

import pytest
from stage_world import World

from backupcore import clock, hours
from backupcore.settings import CopyRule

CONFIG = """\
state: {base}/state
keys: {{folder: {base}/keys}}
holding: [{{path: {base}/holding, use: 1 GB}}]
targets:
  nas: {{type: directory, path: {base}/nas}}
  disk: {{type: directory, path: {base}/disk}}
copies: [{{target: nas}}]
policies:
  standard:
    copies:
      - {{target: disk, dumps: full, every: week, window: "22:00-06:00", after: nas, rate: 2 Mbit/s,
          keep: {{last: 2}}}}
    min_copies: 1
clients:
  web1:
    sources:
      etc:
        path: /etc
        copies: [{{target: nas, priority: high}}]
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    world = World(tmp_path)
    (tmp_path / "stowage.yml").write_text(CONFIG.format(base=tmp_path))
    world.policy(CopyRule("nas"))
    world.dumps = [world.dump(), world.dump(level=1)]
    world.stage()
    world.catalog.close()
    monkeypatch.setattr(clock, "now_ns", lambda: world.dumps[-1].begun_ns + 20 * 3600 * clock.NS)
    return world


def explained(stowage):
    status, out, err = stowage("--json", "policy", "explain", "web1", "etc")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_every_setting_has_its_place(stowage, world):
    data = explained(stowage)
    said = {one["key"]: (one["value"], one["from"]) for one in data["settings"]}
    file, lines = str(world.root / "stowage.yml"), CONFIG.splitlines()

    def line(word):
        return f"{file}:{1 + next(number for number, one in enumerate(lines) if word in one)}"

    assert said["copies.nas.priority"] == ("2", line("priority: high"))
    assert said["copies.nas.dumps"] == ("all", "default")
    assert said["copies.disk.window"] == ("22:00-06:00", line("22:00-06:00"))
    assert said["copies.disk.rate"] == ("2 Mbit/s", line("2 Mbit/s"))
    assert said["copies.disk.keep"] == ("last 2", line("last: 2"))
    assert said["min_copies"] == ("1", line("min_copies"))
    assert said["rpo"] == ("26 h 00", "default") and said["policy"] == ("standard", "default")


def test_each_coming_dump_says_where_it_goes_and_why_not(stowage, world):
    data = explained(stowage)
    assert data["coming"]
    for one in data["coming"]:
        nas, disk = one["targets"]["nas"], one["targets"]["disk"]
        assert nas == {"goes": True, "why": "once it is made", "from": nas["from"]}
        if one["dump"] == "incremental":
            assert (disk["goes"], disk["why"]) == (False, "dumps: full")
    weeks = {hours.wall(world.dumps[0].begun_ns).isocalendar()[:2]}
    fulls = [one for one in data["coming"] if one["dump"] == "full"]
    assert len(fulls) == 2
    for one in fulls:
        week, disk = date.fromisoformat(one["night"]).isocalendar()[:2], one["targets"]["disk"]
        if week in weeks:
            assert (disk["goes"], disk["why"]) == (False, "this week has one")
        else:
            assert disk["goes"] and disk["why"].endswith(" 22:00, after nas")
        weeks.add(week)
    assert {one["targets"]["disk"]["goes"] for one in fulls} == {True, False}


def test_what_is_copied_now_and_what_is_promised(stowage, world):
    data = explained(stowage)
    nas, disk = data["targets"]
    assert (nas["due"]["copies"], disk["due"]["copies"]) == (0, 1)
    assert disk["due"]["oldest"] == clock.iso(world.dumps[0].begun_ns)
    assert nas["promise"] == 26 * 3600 + 12 * 3600 and disk["keep"] == "last 2"
    assert (nas["age"], nas["kept"]) == (20 * 3600, None)  # no run of a server knows these targets yet
    assert (disk["age"], data["without"]) == (None, [])
    assert data["holding"].startswith("an image leaves the holding disk when 1 of its copies is verified and 1 newer")


def test_people_get_tables(stowage):
    status, out, err = stowage("policy", "explain", "web1", "etc")
    assert (status, err) == (0, "")
    assert out.startswith("web1:etc, policy standard\n")
    assert "no: dumps: full" in out and "copies to make now" in out


def test_a_target_that_gets_nothing_says_where_that_is_written(stowage, world):
    file = world.root / "stowage.yml"
    file.write_text(file.read_text().replace("{target: nas, priority: high}", "{target: disk, dumps: none}"))
    line = 1 + next(number for number, one in enumerate(file.read_text().splitlines()) if "dumps: none" in one)
    assert explained(stowage)["without"] == [{"target": "disk", "from": f"{file}:{line}"}]
    assert f"nothing goes to disk: dumps: none, {file}:{line}" in stowage("policy", "explain", "web1", "etc")[1]


def test_an_unknown_source_is_named(stowage):
    status, _out, err = stowage("policy", "explain", "web1", "etcc")
    assert status == 2 and "etcc" in err


def test_words_for_windows_and_rates():
    for given in ("22:00-06:00", {"sat,sun": "any", "mon-fri": "22:00-06:00"}, "12:00-13:00, 22:00-24:00"):
        windows = hours.parse_windows(given)
        told = hours.shown_windows(windows)
        again = [part.rpartition(" ") for part in told.split("; ")] if isinstance(given, dict) else None
        parsed = hours.parse_windows({days: spans for days, _space, spans in again} if again else told)
        assert parsed == windows
    assert hours.shown_windows(None) == "any time"
    assert hours.shown_rates(hours.parse_rates("20 Mbit/s")) == "20 Mbit/s"
    told = hours.shown_rates(hours.parse_rates({"mon-fri 08:00-18:00": "2 Mbit/s", "else": "unlimited"}))
    assert told == "mon-fri 08:00-18:00 2 Mbit/s, else unlimited"

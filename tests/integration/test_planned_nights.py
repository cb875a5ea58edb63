"""Nights with real agents behind real sshd's, the server's clock moved from night to night."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import timedelta

import planned
import pytest

from backupcore import clock, hours
from backupcore.dump import runlock

HOUR = 3600 * clock.NS
DAY = 24 * HOUR


@pytest.fixture
def server(tmp_path):
    yield from planned.server(tmp_path)


@pytest.fixture
def moved(monkeypatch):
    """A clock that can be moved: moved(hours) adds to it."""
    return planned.moved(monkeypatch)


def trees(tmp_path, *names, files=60):
    """Folders of some megabytes that do not compress."""
    made = {}
    for name in names:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(files):
            (folder / f"f{number}").write_bytes(os.urandom(20_000))
        made[name] = folder
    time.sleep(2.2)  # what changed just now would be dumped once more the next night
    return made


def levels(server):
    """client:source -> the levels of its dumps, oldest first."""
    found = {}
    rows = server.json("list", "dumps", "--limit", 0)["dumps"]
    for row in sorted(rows, key=lambda row: row["dump"]):
        found.setdefault(f"{row['client']}:{row['source']}", []).append(row["level"])
    return found


@pytest.mark.slow
def test_four_cycles(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", "c", "d")
    server.write(cycle={"days": 3})
    server.client("web1", {"a": made["a"], "b": made["b"]}, address="127.9.0.1")
    server.client("web2", {"c": made["c"], "d": made["d"]}, address="127.9.0.2")
    server.stowage("run")
    assert set(sum(levels(server).values(), [])) == {0}  # a few megabytes are no flood
    sizes = []
    for night in range(12):
        for folder in made.values():
            (folder / f"f{night}").write_bytes(os.urandom(20_000))
        moved(24)
        plan = server.json("plan")
        assert [one["night"] for one in plan["forecast"]] == sorted(one["night"] for one in plan["forecast"])
        answer = server.json("run")
        assert answer["headline"].startswith("OK") and answer["plan"]["night"] == plan["night"]
        done = {f"{one['client']}:{one['source']}": one["level"] for one in answer["sources"]}
        assert done == {f"{one['client']}:{one['source']}": one["level"] for one in plan["sources"]}
        sizes.append(answer["bytes"])
    for dumps in levels(server).values():
        fulls = [night for night, level in enumerate(dumps) if level == 0]
        assert all(later - one <= 3 for one, later in zip(fulls, fulls[1:])) and len(dumps) - fulls[-1] <= 3
        assert 4 <= len(fulls) <= 6
    late = sizes[6:]
    assert max(late) < 2 * sum(late) / len(late), sizes  # four fulls in one night would be near 3 times the mean
    # what was made of levels can be restored, from the last night and from one in the middle
    out = tmp_path / "out"
    server.stowage("restore", "web1", "a", "--to", out)
    back = out / str(made["a"])[1:]
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in made["a"].iterdir()}  # fmt: skip
    assert "by its past dumps" in server.stowage("plan", "--why", "web1:a")[0]


def test_a_client_that_is_away_costs_the_others_nothing_and_gets_its_full_when_it_is_back(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", files=10)
    server.write(cycle={"days": 3, "grace": 1}, policies={"standard": {"rpo": "20 days"}})
    server.client("web1", {"a": made["a"]}, address="127.9.0.1")
    server.client("nb1", {"b": made["b"]}, address="127.9.0.2", presence="roaming")
    server.stowage("run")
    server.sshds["nb1"].stop()
    for _night in range(4):
        moved(24)
        answer = server.json("run")
        assert answer["away"] == ["nb1"]
    assert {(one["source"], one["nights"]) for one in answer["plan"]["late"]} == {("b", 1)}
    out, _err = server.stowage("report")
    assert "fulls that are late" in out and "nb1:b 1 night (its client is away)" in out
    plan = server.json("plan")
    assert plan["absent"] == ["nb1"] and plan["sources"][-1]["client"] == "nb1"
    assert "could not be reached" in server.stowage("plan", "--why", "nb1:b")[0]
    server.client("nb1", {"b": made["b"]}, address="127.9.0.2", presence="roaming")
    for _night in range(2):
        moved(24)
        assert server.json("run")["away"] == []
    assert 0 in levels(server)["nb1:b"][1:]
    assert server.json("plan")["absent"] == []


def test_a_night_that_is_killed_is_taken_up_again(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", files=10)
    server.write(dumps_at_once=1)
    for name, folder in made.items():
        server.client(f"c{name}", {name: {"path": str(folder), "before": "sleep 1"}})
    process = server.start("run")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((server.base / "holding").glob("c*/*/*/manifest.json")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = json.loads((server.base / "state" / "planner.json").read_text())
    assert len(kept["runs"]) == 1 and (server.base / "state" / "planner.json").stat().st_mode & 0o777 == 0o600
    before = levels(server)
    server.stowage("run")
    after = levels(server)
    assert after["cb:b"][-1] == 0  # the full that was not made
    assert after["ca:a"][: len(before.get("ca:a", []))] == before.get("ca:a", [])
    server.stowage("run")
    assert levels(server)["cb:b"] == [*after["cb:b"], 1] and levels(server)["ca:a"][-1] == 1


def test_own_schedules_run_when_they_are_due_and_the_night_waits_for_them(server, tmp_path, moved):
    made = trees(tmp_path, "hourly", "weekly", "plain", files=5)
    server.client("web1", {
        "hourly": {"path": str(made["hourly"])}, "weekly": {"path": str(made["weekly"])}, "plain": str(made["plain"]),
    })  # fmt: skip
    file = server.base / "clients.d" / "web1.yml"
    text = file.read_text()
    assert text.count("path:") == 3
    import yaml

    content = yaml.safe_load(text)
    sources = content["clients"]["web1"]["sources"]
    sources["hourly"]["schedule"] = {"incremental": "hourly"}
    sources["weekly"]["schedule"] = {"full": "sun 20:00", "incremental": "mon-sat 20:00"}
    file.write_text(yaml.safe_dump(content))
    assert "nothing is due" not in server.stowage("run", "--due")[0]  # the weekly one was never dumped
    server.stowage("run")
    moved(1)
    answer = server.json("run", "--due")
    assert {(one["source"], one["level"]) for one in answer["sources"]} == {("hourly", 9)}
    assert server.stowage("run", "--due")[0].startswith("nothing is due")
    found = levels(server)
    assert found["web1:weekly"][0] == 0 and found["web1:hourly"] == [0, 9] and found["web1:plain"] == [0]
    moved(23)
    answer = server.json("run")
    assert {one["source"] for one in answer["sources"] if one["dump"]} == {"hourly", "weekly", "plain"}
    hourly = levels(server)["web1:hourly"]
    assert hourly[-1] < 9
    # the report of the night is not that of the hour
    moved(1)
    server.stowage("run", "--due")
    assert server.json("report")["run"]["id"] == answer["run"]["id"]
    assert "web1" in server.json("check")["ready"]  # the agent's file says nothing of schedules


def test_a_forced_level_is_made_by_the_next_run(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", files=5)
    server.client("web1", {"a": made["a"], "b": made["b"]})
    server.stowage("run")
    moved(24)
    out, _err = server.stowage("plan", "--force", "web1:a", "--force", "b=2")
    assert "web1:a: the next run makes a full" in out and "web1:b: the next run makes level 2" in out
    server.stowage("plan", "--force", "b=none")
    server.stowage("run")
    assert levels(server)["web1:a"] == [0, 0]
    moved(24)
    server.stowage("run")
    assert levels(server)["web1:a"][-1] > 0
    for words, told in ((["nothing"], 'unknown source "nothing"'), (["a=10"], "is no level"), (["a=x"], "is no level")):
        assert told in server.stowage("plan", "--force", *words, status=2)[1]


def test_limits_hold_and_the_report_says_what_was_given_up(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", "c", files=50)
    server.client("web1", {name: str(folder) for name, folder in made.items()})
    server.write(cycle={"days": 2, "grace": 0})
    server.stowage("run")
    server.write(limits={"bytes": "1200 kB"})  # one full is a megabyte
    given, notes = [], []
    for night in range(5):
        for folder in made.values():
            (folder / f"f{night}").write_bytes(os.urandom(20_000))
        moved(24)
        answer = server.json("run")
        assert answer["bytes"] <= 1_200_000
        given += answer["plan"]["given_up"]
        notes += answer["notes"]
    fulls = [one for one in given if one["what"] == "full"]
    assert fulls and all("limit" in one["why"] for one in fulls)
    assert any("its full waits until" in note and "-> stowage plan --why web1:" in note for note in notes)
    assert "####" in server.stowage("plan")[0]
    known = json.loads(json.dumps(answer["plan"]["given_up"]))
    assert all(set(one) >= {"client", "source", "segment", "what", "why", "until"} for one in known)
    assert server.json("plan")["gave_up"] == known


def test_soft_limits_stay_soft(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", files=50)
    server.client("web1", {name: str(folder) for name, folder in made.items()})
    server.write(cycle={"days": 1, "grace": 0}, limits={"bytes": "1200 kB soft"})
    for _night in range(3):
        answer = server.json("run")
        assert answer["bytes"] > 2_000_000 and answer["headline"].startswith("OK")  # both are due, and late otherwise
        assert answer["plan"]["given_up"] == []
        moved(24)


def test_a_limit_of_a_target_holds_for_what_goes_there(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", "c", files=50)
    (tmp_path / "nas").mkdir()
    server.write(
        targets={"nas": {"type": "directory", "path": str(tmp_path / "nas")}}, cycle={"days": 2, "grace": 0},
        policies={"standard": {"copies": [{"target": "nas", "dumps": "full"}]}},
    )  # fmt: skip
    server.client("web1", {name: str(folder) for name, folder in made.items()})
    server.stowage("run")
    server.write(limits={"targets": {"nas": "1100 kB"}})
    given = []
    for night in range(4):
        for folder in made.values():  # more than was ever expected of an incremental, and none of the target's business
            for number in range(12):
                (folder / f"f{night}-{number}").write_bytes(os.urandom(20_000))
        moved(24)
        answer = server.json("run")
        fulls = [one["bytes"] for one in answer["sources"] if one["level"] == 0 and one["dump"]]
        assert sum(fulls) <= 1_100_000 and len([one for one in answer["sources"] if one["dump"]]) == 3
        given += answer["plan"]["given_up"]
    assert any(one["what"] == "full" and "nas" in one["why"] for one in given)


def test_a_dump_that_outgrows_a_hard_limit_is_ended_named_and_made_when_there_is_room(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", files=20)
    server.write(policies={"standard": {"rpo": "20 days"}})
    server.client("web1", {name: str(folder) for name, folder in made.items()})
    server.stowage("run")
    server.write(limits={"bytes": "1 MB"})
    for _night in range(3):  # what is learnt: they hardly change
        (made["a"] / "f1").write_bytes(os.urandom(20_000))
        moved(24)
        assert server.json("run")["bytes"] < 1_000_000
    (made["a"] / "large").write_bytes(os.urandom(3_000_000))
    time.sleep(2.2)
    moved(24)
    answer = server.json("run")
    assert answer["bytes"] <= 1_000_000 and answer["status"] == "warn"
    assert [one["source"] for one in answer["sources"] if one["dump"]] == ["b"]
    (given,) = [one for one in answer["plan"]["given_up"] if one["source"] == "a"]
    assert given["what"] == "incremental"
    assert "ended when the limit of tonight's bytes was reached: 3" in given["why"]
    out, _err = server.stowage("report")
    line = next(line for line in out.splitlines() if "web1:a is not dumped until" in line)
    assert "WARN" in line and given["why"] in line and line.endswith("-> stowage plan --why web1:a")
    assert "Given up by the last run: is not dumped until" in server.stowage("plan", "--why", "web1:a")[0]
    assert not list((server.base / "holding").glob(".incoming/*/*/*"))
    # the next night knows how large it is, and does not fetch in vain
    moved(24)
    answer = server.json("run")
    (given,) = [one for one in answer["plan"]["given_up"] if one["source"] == "a"]
    assert "ended" not in given["why"] and "limit" in given["why"]
    server.write(limits={"bytes": "10 MB"})
    moved(24)
    answer = server.json("run")
    assert answer["plan"]["given_up"] == [] and answer["bytes"] > 3_000_000
    assert {one["source"] for one in answer["sources"] if one["dump"]} == {"a", "b"}
    assert "ended" not in json.loads((server.base / "state" / "planner.json").read_text())


def test_estimates_are_asked_for_only_where_they_are_wanted(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", files=20)
    server.write(planning={})
    server.client("web1", {"a": made["a"], "b": made["b"]}, address="127.9.0.1")
    plan = server.json("plan")
    assert {one["estimate"] for one in plan["sources"]} == {"default"}
    server.write(planning={"estimate": "history"})  # holds for nights: who asks is answered
    assert {one["estimate"] for one in server.json("plan", "--estimate", "new")["sources"]} == {"walk"}
    server.write(planning={})
    plan = server.json("plan", "--estimate", "new")
    assert {one["estimate"] for one in plan["sources"]} == {"walk"}
    assert all(200_000 < one["bytes"] < 600_000 for one in plan["sources"])
    assert plan["first_fulls"] == {"sources": 2, "nights": 1}
    server.stowage("run")
    server.sshds["web1"].stop()
    plan = server.json("plan")  # nobody is asked
    assert {one["estimate"] for one in plan["sources"]} == {"history"} and plan["absent"] == []
    assert server.json("plan", "--estimate")["absent"] == ["web1"]
    assert not list((server.base / "state" / "forced").glob("*"))


def test_what_nobody_knows_the_size_of_is_tried_under_a_hard_limit(server, tmp_path, moved):
    small, large = trees(tmp_path, "a", files=10), trees(tmp_path, "b", files=100)
    server.write(policies={"standard": {"rpo": "20 days"}}, limits={"bytes": "1 MB"})
    server.client("web1", {"a": str(small["a"]), "b": str(large["b"])})
    answer = server.json("run")
    assert [one["source"] for one in answer["sources"] if one["dump"]] == ["a"] and answer["bytes"] < 1_000_000
    (given,) = answer["plan"]["given_up"]
    assert (given["source"], given["what"]) == ("b", "first") and "was reached: " in given["why"]
    moved(24)
    answer = server.json("run")  # it is known now to be no smaller than that
    (given,) = answer["plan"]["given_up"]
    assert given["source"] == "b" and "ended" not in given["why"]
    server.write(limits={"bytes": "3 MB"})
    moved(24)
    server.stowage("run")
    assert levels(server)["web1:b"] == [0]


@pytest.mark.slow
def test_nothing_begins_that_would_not_end_in_a_hard_window(server, tmp_path, moved):
    made = trees(tmp_path, "a", "b", "c", "d", files=3)
    server.write(policies={"standard": {"rpo": "20 days"}})
    server.client("web1", {name: {"path": str(folder), "before": "sleep 3"} for name, folder in made.items()})
    for _night in range(2):
        server.stowage("run")
        moved(24)
    server.write(limits={"window": "5 s"})
    seen = set()
    for _night in range(2):
        answer = server.json("run")
        done = [one for one in answer["sources"] if one["dump"]]
        assert len(done) == 2 and all(one["seconds"] > 3 for one in done)  # two at once, whatever is configured
        seen |= {one["source"] for one in done}
        given = {one["source"]: one["why"] for one in answer["plan"]["given_up"] if one["what"] == "incremental"}
        assert set(given) == set(made) - {one["source"] for one in done}
        assert all("of dumps is used up" in why or "the window has" in why for why in given.values())
        moved(24)
    assert seen == set(made)  # those that had nothing come first the next night


def test_a_copy_waits_for_its_window_and_begins_by_itself_when_that_opens(
    server, tmp_path, moved, monkeypatch
):
    made = trees(tmp_path, "a", files=5)
    begin = hours.wall(clock.now_ns() + 2 * HOUR)
    begin = begin.replace(minute=0, second=0, microsecond=0)
    window = f"{begin:%H:%M}-{(begin + timedelta(hours=2)):%H:%M}"
    server.write(targets={"nas": {"type": "directory", "path": str(tmp_path / "nas")}},
                 policies={"standard": {"copies": [{"target": "nas", "window": window, "rate": "9 MB/s"}]}})  # fmt:skip
    server.client("web1", {"a": made["a"]})
    answer = server.json("run")
    assert answer["headline"].startswith("OK") and answer["targets"][0]["waiting"] == ["web1:a"]
    assert [(one["ok"], one["waits"]) for one in answer["copies"]] == [(False, True)]
    out, _err = server.stowage("stage")
    assert f"wait web1:a nas: waits for its window: {begin:%a %H:%M}" in out and "0 failed; 1 wait" in out
    assert server.json("stage")["copies"][0]["opens"] == clock.iso(int(begin.timestamp()) * clock.NS)
    assert server.stowage("run", "--due")[0].startswith("nothing is due")
    assert [one["state"] for one in server.json("list", "copies")["copies"]] == ["wanted"]
    moved(2)
    with monkeypatch.context() as patched:
        patched.setattr(runlock, "is_waited_for", lambda _settings: True)  # a night that waits goes first
        (one,) = server.json("run", "--due")["copies"]
        assert one["waits"] and one["message"] == "goes on in the run that waited for its end"
    answer = server.json("run", "--due")
    assert [(one["ok"], one["waits"]) for one in answer["copies"]] == [(True, False)]
    assert [one["state"] for one in server.json("list", "copies")["copies"]] == ["verified"]
    assert server.stowage("run", "--due")[0].startswith("nothing is due")
    moved(22)
    server.stowage("run")
    out, _err = server.stowage("stage", "--now")
    assert "OK   1 copies made" in out

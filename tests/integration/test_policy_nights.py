"""Nights under copy rules: the first full of each week goes to a second target, from the copy on the first one."""

from __future__ import annotations

import os
from datetime import timedelta

import planned
import pytest

from backupcore import clock, hours

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")


@pytest.fixture
def server(tmp_path):
    yield from planned.server(tmp_path)


@pytest.fixture
def moved(monkeypatch):
    return planned.moved(monkeypatch)


def week():
    """The ISO week of the night that is now."""
    return (hours.wall(clock.now_ns()) - timedelta(hours=12)).isocalendar()[:2]


def there(server, name):
    """The names of the dumps on a target."""
    return {path.parent.name for path in (server.base / name).rglob("manifest.json")}


def test_the_first_full_of_each_week_goes_to_the_cloud_from_the_nas(server, tmp_path, moved):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom(300_000))
    for name in ("nas", "cloud"):
        (server.base / name).mkdir(exist_ok=True)
    cloud = {"target": "cloud", "dumps": "full", "every": "week", "after": "nas"}
    server.write(
        targets={name: {"type": "directory", "path": str(server.base / name)} for name in ("nas", "cloud")},
        copies=[{"target": "nas"}, cloud], cycle={"days": 3}, drill={"nightly": False},
        policies={"standard": {"min_copies": 1, "keep_on_holding": 0}},
    )  # fmt: skip
    server.client("web1", {"data": str(tree)})
    made = []
    for night in range(15):
        (tree / f"night{night}").write_bytes(os.urandom(20_000))
        answer = server.json("run")
        (one,) = answer["sources"]
        made.append((one["dump"], one["level"], week()))
        assert answer["headline"].startswith("OK"), answer["headline"]
        moved(24)
    firsts = {}
    for name, level, of in made:
        if level == 0:
            firsts.setdefault(of, name)
    assert len(firsts) >= 2 and len([1 for _name, level, _week in made if level == 0]) > len(firsts)
    assert there(server, "nas") == {name for name, _level, _week in made}
    assert there(server, "cloud") == set(firsts.values())
    assert all(one["holding"] is None for one in server.json("list", "dumps", "--limit", 0)["dumps"])
    # another look makes no other choice
    assert server.json("stage")["copies"] == []
    out = tmp_path / "out"
    newest = max(firsts.values())
    server.stowage("restore", "web1", "data", "--at", newest, "--from", "cloud", "--to", out)
    assert (out / str(tree)[1:] / "big").read_bytes() == (tree / "big").read_bytes()


def test_a_broken_promise_is_in_report_status_check_and_explain(server, tmp_path, moved):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    (server.base / "nas").mkdir(exist_ok=True)
    (server.base / "cloud").mkdir(exist_ok=True)
    targets = {name: {"type": "directory", "path": str(server.base / name)} for name in ("nas", "cloud")}
    server.write(
        targets=targets, copies=[{"target": "nas"}, {"target": "cloud", "dumps": "full", "every": "week"}],
        cycle={"days": 3, "grace": 1}, drill={"nightly": False},
    )  # fmt: skip
    server.client("web1", {"data": str(tree)})
    server.stowage("run")
    report = server.json("report")
    assert report["promises"] == {"kept": 2, "broken": []}
    server.write(policies={"standard": {"strategy": "incremental"}})
    for night in range(3):
        moved(24 * 5)
        (tree / f"file{night}").write_text("y")
        headline = server.json("run")["headline"]
    # 3 and 1 days for a full, a week for `every`, half a day: fulls have not come for 15 days
    assert headline.startswith("WARN") and "warning" in headline
    report = server.json("report")
    (broken,) = report["promises"]["broken"]
    assert (broken["target"], broken["source"], broken["promise"]) == ("cloud", "data", int(11.5 * 86400))
    assert server.json("status")["headline"] == report["headline"]
    assert "the newest copy on cloud is 15 days old, promised is 11" in server.stowage("report")[0]
    told = [one["message"] for one in server.json("check")["findings"] if one["name"] == "copies"]
    assert any("the newest copy on cloud is 15 days old" in one for one in told)
    cloud = server.json("policy", "explain", "web1", "data")["targets"][1]
    assert (cloud["target"], cloud["kept"]) == ("cloud", False)

"""A night of 300 clients, each behind an sshd of its own, on the machine that backs them up."""

from __future__ import annotations

import os

import fleet
import pytest

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.slow, pytest.mark.timeout(1800)]

CLIENTS, DOWN, HOSTILE = 300, 15, 6


@pytest.fixture(scope="module")
def told():
    # long enough for those that are only slow on a busy machine; one of the hostile never ends by itself
    times = '{"timeouts": {"connect": 15, "silence": 60, "dump": 120}}'
    words = ["--clients", CLIENTS, "--rounds", 2, "--down", DOWN, "--hostile", HOSTILE, "--config", times]
    return fleet.run(*map(str, words), limit=1700)


def results(told):
    return {one["client"]: one for one in told["bad_night"]["answer"]["sources"]}


def test_a_good_night_is_whole_and_lasts_like_the_logins_alone(told):
    for night in told["nights"]:
        assert night["status"] == 0 and len(night["answer"]["copies"]) == CLIENTS
        assert all(one["ok"] for one in night["answer"]["copies"])
        assert night["answer"]["headline"].startswith(f"OK   {CLIENTS} clients")
    # nothing is judged by the clock here, where other tests run beside: make bench does that
    night, bare = (told[name][1]["cpu"] for name in ("nights", "bare"))
    assert not bare or sum(night.values()) < 4 * sum(bare.values()), (night, bare)


def test_a_bad_night_names_every_failure_and_dumps_and_stages_the_rest(told):
    found = results(told)
    bad = set(told["down"]) | {name for name in told["hostile"] if found[name]["status"] == "FAIL"}
    assert len(told["down"]) == DOWN and len(told["hostile"]) == HOSTILE and len(bad) >= DOWN + 5
    for name, one in found.items():
        assert (one["status"] == "FAIL") == (name in bad), one
        assert name not in bad or (name in one["message"] and one["hint"] and one["code"])
    whole = set(found) - bad
    assert len(found) == CLIENTS and {found[name]["status"] for name in whole} <= {"OK", "WARN"}
    copied = {one["client"] for one in told["bad_night"]["answer"]["copies"] if one["ok"]}
    assert whole - set(told["hostile"]) <= copied


def test_the_server_stays_below_its_memory(told):
    assert not told["killed"]
    for night in (*told["nights"], told["bad_night"]):
        assert night["largest"] < fleet.LIMIT and (not told["limited"] or night["peak"] < fleet.LIMIT)


def test_catalog_holding_disk_and_targets_agree(told):
    assert told["left"] == []
    catalog = told["catalog"]
    assert catalog["integrity"] == [["ok"]] and catalog["running"] == 0
    assert all(folder is None or os.path.basename(folder) == name for name, folder in catalog["dumps"].items())
    assert {dump for dump, _target, _state in catalog["copies"]} <= set(catalog["dumps"])
    good = {one["client"] for one in told["bad_night"]["answer"]["sources"]} - set(told["hostile"]) - set(told["down"])
    assert {(name, "ok") for name in good} <= {(one["client"], one["status"]) for one in told["verify"]["results"]}
    assert {one["dump"] for one in told["verify"]["results"]} <= set(catalog["dumps"])

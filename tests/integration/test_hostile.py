"""A night with clients that lie in every way there is: each costs its own dump, and nothing else."""

from __future__ import annotations

import os

import fleet
import hostile
import pytest
import spoiled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

GOOD, DOWN = 6, 2
# in CI a little less: these last as long as a dump may, or until they were tried again
LONG = ["drip", "state-of-rows-for-ever", "links-for-ever", "marks-of-4-mib", "goes-on-behind-garbage",
        "sealed-key-of-another-part", "sealed-states-for-ever"]  # fmt: skip
KINDS = [kind for kind in spoiled.CODES if kind not in LONG]
TIMES = '{"timeouts": {"connect": 5, "silence": 6, "dump": 12}}'


def night(kinds, use="2 GB"):
    """What a fleet with some good clients, some that are down and one of each kind tells. use: of its holding disk."""
    words = ["--clients", GOOD + DOWN + len(kinds), "--rounds", 0, "--down", DOWN, "--hostile", len(kinds), "--config",
             TIMES, "--use", use, "--kinds", *kinds]  # fmt: skip
    return fleet.run(*map(str, words), limit=280)


@pytest.fixture(scope="module")
def told():
    return night(KINDS)


def results(told):
    return {one["client"]: one for one in told["bad_night"]["answer"]["sources"]}


def good(told):
    return sorted(set(results(told)) - set(told["down"]) - set(told["hostile"]))


def test_every_lie_ends_its_own_dump_and_is_told_with_its_client(told):
    wrong = {}
    for name, kind in told["hostile"].items():
        one, codes = results(told)[name], spoiled.CODES[kind] or {"", "warning"}
        named = one["status"] != "FAIL" or (name in one["message"] and one["hint"]) or kind.startswith("error-")
        if one["code"] not in codes or not named or len(one["message"]) > 3000 or not one["message"].isprintable():
            wrong[kind] = one
    assert not wrong
    assert len(told["hostile"]) == len(KINDS)


def test_clients_that_are_down_are_named_with_the_reason(told):
    for name in told["down"]:
        one = results(told)[name]
        assert one["code"] == "client-unreachable" and name in one["message"] and one["hint"], one


def test_all_others_are_dumped_and_staged_whole(told):
    assert len(good(told)) == GOOD and told["bad_night"]["status"] == 1
    assert {results(told)[name]["status"] for name in good(told)} == {"OK"}
    copies = {(one["client"], one["target"]): one for one in told["bad_night"]["answer"]["copies"]}
    verified = {one["client"]: one["status"] for one in told["verify"]["results"]}
    for name in good(told):
        assert copies[name, "nas"]["ok"] and verified[name] == "ok"


def test_what_lied_inside_is_found_when_it_is_read(told):
    verified = {told["hostile"].get(one["client"]): one for one in told["verify"]["results"]}
    for kind in (
        "climb", "frame-longer-than-it-says", "index-of-empty-lines", "sizes-of-files", "places-of-files"
    ):  # fmt: skip
        assert verified[kind]["status"] == "wrong" and verified[kind]["message"], kind


def test_memory_stays_flat(told):
    assert not told["killed"] and told["bad_night"]["largest"] < 250 << 20, told["bad_night"]
    assert not told["limited"] or told["bad_night"]["peak"] < fleet.LIMIT


def test_nothing_of_it_is_left(told):
    assert told["left"] == []
    assert told["catalog"]["integrity"] == [["ok"]] and told["catalog"]["running"] == 0


def test_names_that_climb_write_nowhere(told):
    assert told["owned"] == []
    assert told["climbed"][1].strip(), "the restore of names that climb said nothing"


def test_no_terminal_obeys_what_they_said(told):
    for out, err in (*told["words"], told["climbed"]):
        for text in (out, err):
            assert not set(text) & set("\x1b\x07\x9b\r"), text
            assert "Traceback" not in text
    assert any("owned" in out for out, _err in told["words"])


@pytest.mark.slow
def test_the_slowest_of_all_are_ended_too_and_so_is_what_chance_makes():
    told = night([*LONG, *["fuzzed"] * 40])
    for name, kind in told["hostile"].items():
        one = results(told)[name]
        assert one["code"] in hostile.AGENTS[kind][1], one
    assert {results(told)[name]["status"] for name in good(told)} == {"OK"} and told["left"] == []
    assert not told["killed"] and told["bad_night"]["largest"] < 250 << 20


@pytest.mark.slow
def test_dumps_without_end_on_a_disk_with_little_room_cost_nobody_else_his_dump():
    endless = [kind for kind in hostile.AGENTS if kind.endswith("-for-ever") and kind != "hello-for-ever"]
    told = night([*endless, *endless], use="16 MB")
    for name, kind in told["hostile"].items():
        # the time or the room, whichever is over first
        assert results(told)[name]["code"] in hostile.AGENTS[kind][1] | {"holding-full"}, results(told)[name]
    assert len(good(told)) == GOOD
    assert {results(told)[name]["status"] for name in good(told)} == {"OK"}
    copied = {one["client"] for one in told["bad_night"]["answer"]["copies"] if one["ok"]}
    assert set(good(told)) <= copied
    assert told["left"] == [] and told["catalog"]["running"] == 0
    assert not told["killed"] and told["bad_night"]["largest"] < 250 << 20

"""What a scenario may hold: every wrong key is named, nothing else than a clear error comes of hostile input."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.errors import RequestError
from backupcore.schedule import scenario

GOOD = {
    "format": "stowage-sched/2", "name": "small", "family": "x", "seed": 1, "days": 3, "warmup": 1, "cycle": 2,
    "grace": 1, "limit": None, "max_level": 9, "max_chain": None, "outages": [],
    "clients": [{"id": "a", "avail": "101"}],
    "sources": [
        {"id": "s", "client": "a", "size": 100, "growth": -1, "change": 0.1, "week": [1, 1, 1, 1, 1, 0, 0], "hot": 0.5,
         "overhead": 1, "add": 0, "remove": None, "priority": 1, "cycle": None},
        {"id": "t", "client": "a", "size": 100, "change": 0.1,
         "parts": [{"share": 0.25, "change": 0.1}, {"share": 0.75, "change": 0}]},
    ],
}  # fmt: skip


def test_a_source_with_parts_needs_no_change_of_its_own():
    data = copy.deepcopy(GOOD)
    del data["sources"][1]["change"]
    scenario.check(data)


def spoilt(path, value):
    data = copy.deepcopy(GOOD)
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def test_a_good_scenario_is_taken_as_it_is():
    assert scenario.check(copy.deepcopy(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["format"], "stowage-sched/3", "format must be stowage-sched/1 or stowage-sched/2"),
        (["format"], "stowage-sched/1", "unknown key \"parts\""),
        (["days"], KeyError, "has no key 'days'"),
        (["days"], True, "days must be a whole number"),
        (["days"], 10**9, "days must be from 1 to 3660"),
        (["warmup"], 3, "warmup must be less than days (3)"),
        (["cycle"], 0, "cycle must be from 1"),
        (["grace"], -1, "grace must be from 0"),
        (["max_level"], 10, "max_level must be from 0 to 9"),
        (["max_chain"], 0, "max_chain must be from 1"),
        (["limit"], "10 GB", "limit must be a number"),
        (["limit"], [1, 2], "limit must have 3 entries"),
        (["limit"], [1, None, -1], "limit[2] must be from 0"),
        (["outages"], [3], "outages[0] must be from 0 to 2"),
        (["outages"], [1, 2], "outages leaves no night after the warmup"),
        (["outages"], 1, "outages must be a list"),
        (["clients"], [], "clients must have 1 to"),
        (["clients"], [{"id": "a", "avail": "101"}] * 2, "clients[1].id: \"a\" stands twice"),
        (["clients", 0, "avail"], "10", "clients[0].avail must be 3 characters"),
        (["clients", 0, "avail"], "10x", "clients[0].avail must be 3 characters"),
        (["sources", 0, "client"], "b", "sources[0].client: there is no client \"b\""),
        (["sources", 0, "size"], float("nan"), "sources[0].size must be a number"),
        (["sources", 0, "size"], 1e300, "sources[0].size must be from 0 to 1e+18"),
        (["sources", 0, "size"], "1", "sources[0].size must be a number"),
        (["sources", 0, "change"], 1.5, "sources[0].change must be from 0 to 1"),
        (["sources", 0, "change"], KeyError, "sources[0] has no key 'change'"),
        (["sources", 0, "week"], [1], "sources[0].week must have 7 entries"),
        (["sources", 0, "remove"], 0, "sources[0].remove must be after add"),
        (["sources", 0, "colour"], "red", "sources[0] has an unknown key \"colour\""),
        (["sources", 1, "id"], "s", "sources[1].id: "),
        (["sources", 0, "id"], "t#1", "\"t#1\" stands twice"),
        (["sources", 0], 7, "sources[0] must be an object"),
        (["sources", 1, "parts"], [], "sources[1].parts must have 1 to"),
        (["sources", 1, "parts", 0, "share"], 0.5, "sources[1].parts: the shares must add up to 1, not 1.25"),
        (["sources", 1, "parts", 0, "size"], 5, "sources[1].parts[0] has an unknown key \"size\""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(path, value, told):
    data = spoilt(path, value)
    if path == ["sources", 1, "id"]:
        data["sources"][1].pop("parts")
    with pytest.raises(RequestError) as raised:
        scenario.check(data, "file.json")
    assert told in raised.value.message and raised.value.message.startswith("file.json: ")
    assert raised.value.exit_status == 2


def test_more_work_than_memory_is_refused():
    data = dict(GOOD, days=3660, clients=[{"id": "a", "avail": "1" * 3660}])
    data["sources"] = [{"id": str(number), "client": "a", "size": 1, "change": 0} for number in range(6000)]
    with pytest.raises(RequestError, match="more than 20000000"):
        scenario.check(data)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"days": 1, "days": 2}', "'days' stands twice"),
        (b"[1, 2]", "a scenario must be an object"),
    ],
)
def test_a_file_that_is_no_scenario_is_one_error(tmp_path, content, told):
    file = tmp_path / "scenario.json"
    file.write_bytes(content)
    with pytest.raises(RequestError, match=told):
        scenario.read(file)


def test_a_file_that_cannot_be_read_is_one_error(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RequestError, match="cannot read the scenario"):
            scenario.read(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from(sorted(GOOD)))
def test_no_value_of_any_key_is_worse_than_an_error(value, key):
    try:
        scenario.check(spoilt([key], value))
    except RequestError as error:
        assert json.dumps(error.as_dict())

"""The layers of copies: what holds for a source in the end, and where each key of it stands."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupcore import hours
from backupcore.app import config, drivers
from backupcore.errors import ConfigError

HEAD = """\
holding:
  - {path: /srv/holding, use: 500 GiB}
targets:
  nas: {type: directory, path: /mnt/nas}
  cloud: {type: directory, path: /mnt/cloud}
"""
TAIL = """\
clients:
  web1:
    sources:
      etc: {path: /etc}
      home: {path: /home, policy: fast}
"""


@pytest.fixture(scope="module")
def known():
    return drivers.load()


@pytest.fixture
def read(tmp_path, known):
    def read(text):
        file = tmp_path / "stowage.yml"
        file.write_text(text)
        return config.load(file, known)

    return read


@pytest.fixture
def source(read):
    def source(text, client="web1", name="etc"):
        return read(text).settings.source(client, name)

    return source


def rules(source):
    return {rule.target: rule for rule in source.copies}


def test_who_says_nothing_has_a_copy_of_everything_everywhere(source):
    found = source(HEAD + "policies: {fast: {}}\n" + TAIL)
    assert [(rule.target, rule.dumps) for rule in found.copies] == [("nas", "all"), ("cloud", "all")]
    assert (found.holding, found.min_copies) == ("auto", None)


def test_the_layers_change_each_other_key_by_key(source):
    text = HEAD + """\
copies:
  - {target: nas, window: "22:00-06:00", priority: high, keep: {last: 9}}
policies:
  fast:
    min_copies: 2
    copies:
      - {target: nas, dumps: full, rate: 2 MB/s}
      - {target: cloud, after: nas, every: week}
"""
    said = "    copies: [{target: cloud, made_on: sun}]\n    holding: never\n"
    text += TAIL.replace("    sources:", said + "    sources:")
    more = "policy: fast, min_copies: 1, copies: [{target: nas, window: null, keep: {}, dumps: 1}]}"
    text = text.replace("policy: fast}", more)
    etc, home = source(text), source(text, name="home")
    assert rules(etc)["nas"].windows == hours.parse_windows("22:00-06:00")
    assert rules(etc)["nas"].keep == {"last": 9} and rules(etc)["nas"].rate is None
    assert rules(etc)["cloud"].made_on == {6} and rules(etc)["cloud"].after == ""
    nas, cloud = rules(home)["nas"], rules(home)["cloud"]
    assert (nas.dumps, nas.windows, nas.keep, nas.priority) == ("1", None, {}, 2)
    assert nas.rate is not None
    assert (cloud.every, cloud.made_on, cloud.after) == ("week", {6}, "nas")
    assert (etc.holding, etc.min_copies, home.holding, home.min_copies) == ("never", None, "never", 1)


def test_a_target_is_taken_away_and_comes_back(source):
    text = HEAD + "copies: [{target: nas, rate: 1 MB/s}, {target: cloud}]\n"
    text += "policies: {standard: {copies: [{target: nas, dumps: none}]}, fast: {}}\n"
    text += TAIL.replace("path: /home,", "path: /home, copies: [{target: cloud, dumps: none}],")
    assert list(rules(source(text))) == ["cloud"]
    assert list(rules(source(text, name="home"))) == ["nas"]
    back = source(text.replace("path: /etc", "path: /etc, copies: [{target: nas, dumps: all}]"))
    assert rules(back)["nas"].rate is not None and rules(back)["nas"].dumps == "all"


def test_a_source_changes_what_is_built_in_and_an_empty_policy_has_none(source):
    text = HEAD + "policies: {standard: {copies: []}, fast: {}}\n"
    text += TAIL.replace("path: /home,", "path: /home, copies: [{target: cloud, dumps: none}],")
    assert source(text).copies == ()
    assert list(rules(source(text, name="home"))) == ["nas"]


def test_each_key_knows_where_it_stands(source, tmp_path):
    text = HEAD + "copies:\n  - target: nas\n    rate: 1 MB/s\n" + "policies: {fast: {rpo: 3 days}}\n"
    text += TAIL.replace("path: /home, policy: fast}", "path: /home, policy: fast,\n             cycle: 3, copies: [{\n"
                         "             target: nas, dumps: full}]}")  # fmt: skip
    origins = source(text, name="home").origins
    lines = {key: int(where.rpartition(":")[2]) for key, where in origins.items()}
    assert all(where.startswith(f"{tmp_path / 'stowage.yml'}:") for where in origins.values())
    written = text.splitlines()
    for key, word in {"copies.nas.rate": "rate: 1", "copies.nas.dumps": "dumps: full", "rpo": "rpo: 3 days",
                      "cycle": "cycle: 3", "policy": "policy: fast"}.items():  # fmt: skip
        assert word in written[lines[key] - 1], key
    assert "copies.nas.keep" not in origins and "holding" not in origins
    assert source(text).origins["copies.nas.rate"] == origins["copies.nas.rate"]


@pytest.mark.parametrize(
    ("copies", "told"),
    [
        ("[{target: nas, after: tape}]", 'policies.fast.copies[0].after: there is no target "tape"'),
        ("[{target: nas, after: nas}]", 'policies.fast.copies[0].after: "nas" would wait for itself'),
        ("[{target: nas, after: cloud}, {target: cloud, after: nas}]",
         'policies.fast.copies[0].after: "nas" would wait for "cloud" after "nas"'),
        ("[{target: nas, dumps: some}]",
         'policies.fast.copies[0].dumps: "some" is none of all, full, incremental, none or a level, 0 to 9'),
        ("[{target: nas, dumps: 10}]", "policies.fast.copies[0].dumps: 10 is none of all, full"),
        ("[{target: nas, dumps: true}]", "policies.fast.copies[0].dumps: true is none of all, full"),
        ("[{target: nas, every: year}]", 'policies.fast.copies[0].every: "year" is none of day, week, month'),
        ("[{target: nas, made_on: never}]", "policies.fast.copies[0].made_on: 'never' names no weekdays"),
        ("[{target: nas, priority: urgent}]", 'policies.fast.copies[0].priority: "urgent" is no priority'),
        ("[{target: nas, lock: 0 s}]", "policies.fast.copies[0].lock: "),
    ],
)  # fmt: skip
def test_what_is_wrong_names_file_line_and_word(read, tmp_path, copies, told):
    with pytest.raises(ConfigError) as caught:
        read(HEAD + f"policies: {{fast: {{copies: {copies}}}}}\n" + TAIL)
    assert f"{tmp_path / 'stowage.yml'}:6: {told}" in caught.value.message


def test_a_circle_that_two_layers_make_is_told_once(read):
    text = HEAD + "copies: [{target: nas, after: cloud}, {target: cloud}]\npolicies: {fast: {}}\n"
    with pytest.raises(ConfigError) as caught:
        read(text + TAIL.replace("path: /etc", "path: /etc, copies: [{target: cloud, after: nas}]"))
    assert "would wait for" in caught.value.message


def test_a_wrong_layer_of_a_source_is_told_where_it_stands(read):
    with pytest.raises(ConfigError) as caught:
        read(HEAD + "policies: {fast: {}}\n" + TAIL.replace("path: /etc", "path: /etc, copies: [{target: nass}]"))
    assert 'clients.web1.sources.etc.copies[0].target: there is no target "nass", did you mean "nas"?' in (
        caught.value.message
    )


def test_an_entry_for_a_target_that_was_taken_away_is_told(read, tmp_path):
    text = HEAD + "copies: [{target: nas}, {target: cloud}]\npolicies: {fast: {copies: [{target: nas, dumps: none}]}}\n"
    text += TAIL.replace("path: /home,", "path: /home, copies: [{target: nas, every: week}],")
    file = tmp_path / "stowage.yml"
    assert read(text).warnings == (
        f'{file}:12: clients.web1.sources.home.copies[0]: "nas" is taken away by {file}:7: write dumps: all to have it '
        "back",
    )
    assert list(rules(read(text).settings.source("web1", "home"))) == ["cloud"]
    assert read(text.replace("every: week}", "every: week, dumps: all}")).warnings == ()


KEYS = {
    "dumps": st.sampled_from(["all", "full", "none", "1"]), "every": st.sampled_from([None, "week"]),
    "made_on": st.sampled_from([None, "sun"]), "self_contained": st.booleans(), "priority": st.integers(0, 100),
    "keep": st.sampled_from([None, {}, {"last": 2}]), "window": st.sampled_from([None, "22:00-06:00"]),
}  # fmt: skip
ENTRY = st.fixed_dictionaries({}, optional=KEYS)
LAYER = st.none() | st.dictionaries(st.sampled_from(["nas", "cloud"]), ENTRY, max_size=2)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers=st.tuples(LAYER, LAYER, LAYER, LAYER))
def test_any_layers_are_laid_over_each_other(read, layers):
    """Against the same said in a few lines: the last word on each key of each target, without those taken away."""
    root, policy, client, source = (
        None if one is None else [{"target": target, **keys} for target, keys in one.items()] for one in layers
    )
    text = yaml.safe_load(HEAD)
    text.update(policies={"standard": {"copies": policy}}, copies=root)
    text["clients"] = {"web1": {"copies": client, "sources": {"etc": {"path": "/etc", "copies": source}}}}
    found = rules(read(json.dumps(text)).settings.source("web1", "etc"))
    built_in = {"keep": {"daily": 14, "weekly": 8, "monthly": 12}}
    said = {target: dict(built_in) for target in ("nas", "cloud")} if root is None and policy is None else {}
    for layer in layers:
        for target, keys in (layer or {}).items():
            said.setdefault(target, {}).update(keys)
    expected = {target: keys for target, keys in said.items() if keys.get("dumps") != "none"}
    assert set(found) == set(expected)
    for target, keys in expected.items():
        rule = found[target]
        assert rule.dumps == keys.get("dumps", "all") and rule.every == (keys.get("every") or "")
        assert rule.made_on == ({6} if keys.get("made_on") else None)
        assert rule.self_contained == keys.get("self_contained", False) and rule.priority == keys.get("priority", 1)
        assert rule.keep == (keys.get("keep") or {}) and (rule.windows is None) == (keys.get("window") is None)


def test_an_entry_may_ask_for_more_copies_of_its_source(source):
    text = HEAD + "policies: {fast: {min_copies: 1, copies: [{target: nas}, {target: cloud, min_copies: 2}]}}\n" + TAIL
    assert source(text, name="home").min_copies == 2
    without = text.replace("path: /home,", "path: /home, copies: [{target: cloud, dumps: none}],")
    assert source(without, name="home").min_copies == 1

"""`stowage stage --from --to` and `--dry-run` as a person types them: words, JSON, exit status, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from backupcore.hookspecs import Asleep
from stage_world import World

from backupcore import cli
from backupcore.app import asleep
from backupcore.settings import CopyRule
from backupcore.stage import release
from backupcore.targets.directory import DirectoryTarget

CONFIG = """
state: {root}/state
keys: {{folder: {root}/keys}}
holding: [{{path: {root}/holding, use: 1 GiB}}]
targets:
  nas: {{type: directory, path: {root}/nas}}
  disk: {{type: directory, path: {root}/disk}}
policies:
  standard:
    keep_on_holding: 1
    copies: [{copies}]
clients:
  web1: {{transport: local, sources: {{etc: {{type: tree, path: /etc}}}}}}
  web2: {{transport: local, sources: {{etc: {{type: tree, path: /etc}}}}}}
"""


@pytest.fixture
def world(tmp_path):
    """Three dumps on nas, the older ones gone from the holding disk."""
    world = World(tmp_path)
    for name in ("nas", "disk"):
        (tmp_path / name).mkdir()
    world.policy(CopyRule("nas"))
    world.made = [world.dump(), world.dump(level=1), world.dump(client="web2")]
    assert all(one.ok for one in world.stage())
    assert release.release(world.settings, world.catalog).dumps == (world.made[0].id,)
    configure(world, "{target: nas}")
    yield world
    world.catalog.close()


def configure(world, copies):
    (world.root / "stowage.yml").write_text(CONFIG.format(root=world.root, copies=copies))


def stowage(world, capsys, *words):
    status = cli.main(["--config", str(world.root / "stowage.yml"), *words])
    out = capsys.readouterr()
    return status, out.out + out.err


def answer(world, capsys, *words):
    status, told = stowage(world, capsys, "--json", *words)
    return status, json.loads(told)


def test_what_one_target_has_is_copied_to_another(world, capsys):
    status, told = answer(world, capsys, "stage", "--from", "nas", "--to", "disk")
    assert status == 0 and [one["ok"] for one in told["copies"]] == [True] * 3
    assert all(world.states(dump) == {"nas": "verified", "disk": "verified"} for dump in world.made)
    assert world.files(world.root / "disk") == world.files(world.root / "nas")
    status, told = answer(world, capsys, "stage", "--from", "nas", "--to", "disk")
    assert status == 0 and told["copies"] == [] and len(told["there"]) == 3


def test_a_dry_run_copies_nothing_and_ends_in_the_command_that_does(world, capsys):
    status, told = stowage(world, capsys, "stage", "--from", "nas", "--to", "disk", "--client", "web1", "--dry-run")
    assert status == 0 and "disk from nas: 2 copies" in told and "nothing was copied" in told
    assert "stowage stage --from nas --to disk --client web1" in told
    assert not any("disk" in world.states(dump) for dump in world.made)


def test_a_policy_that_gained_a_target_says_how_much_that_is(world, capsys):
    status, told = answer(world, capsys, "stage", "--dry-run")
    assert status == 0 and told["plan"] == []
    configure(world, "{target: nas}, {target: disk}")
    status, told = answer(world, capsys, "stage", "--dry-run")
    by = {one["from"]: one for one in told["plan"]}
    assert {name: (one["target"], one["copies"]) for name, one in by.items()} == {
        "holding": ("disk", 2), "nas": ("disk", 1),
    }  # fmt: skip
    assert sum(one["bytes"] for one in told["plan"]) == sum(dump.stored_size for dump in world.made)
    configure(world, "{target: nas}, {target: disk, after: nas}")
    assert answer(world, capsys, "stage")[0] == 0
    assert world.files(world.root / "disk") == world.files(world.root / "nas")


def test_since_and_dump_take_their_bases_along(world, capsys):
    _full, top, other = world.made
    status, told = answer(world, capsys, "stage", "--from", "nas", "--to", "disk", "--dump", top.id, "--dry-run")
    assert status == 0 and told["plan"][0]["copies"] == 2
    status, told = answer(world, capsys, "stage", "--from", "nas", "--to", "disk", "--since", "2100-01-01", "--dry-run")
    assert status == 0 and told["plan"] == [] and other.id


@pytest.mark.parametrize(
    "words, message",
    [
        (("--from", "nas"), "--to is missing"),
        (("--to", "nas"), "--from is missing"),
        (("--from", "nas", "--to", "nas"), "both ends are nas"),
        (("--from", "nas", "--to", "dik"), 'did you mean "disk"?'),
        (("--from", "nas", "--to", "disk", "--now"), "without --target and --now"),
        (("--client", "web1"), "go with --from and --to"),
        (("--from", "nas", "--to", "disk", "--client", "web9"), 'unknown client "web9"'),
        (("--from", "nas", "--to", "disk", "--dump", "x"), 'unknown dump "x"'),
        (("--from", "nas", "--to", "disk", "--since", "whenever"), "whenever"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_a_line(world, capsys, words, message):
    status, told = stowage(world, capsys, "stage", *words)
    assert status == 2 and message in told and "Traceback" not in told


@pytest.fixture
def archive(world, monkeypatch):
    """What is on nas sleeps; `wakes` in so many seconds of sleep."""
    state = {"left": 8.0, "asked": set()}
    real = DirectoryTarget.read

    def sleeps(target, name):
        return target.root.endswith("/nas") and state["left"] > 0 and not name.startswith(".stowage")

    def read(target, name, *where):
        if sleeps(target, name):
            raise Asleep(f"{name} is archived and asleep", "GLACIER wakes in 3 to 5 hours (Standard)")
        yield from real(target, name, *where)

    def wake(target, name, days):
        if sleeps(target, name):
            state["asked"].add(name)
        return not sleeps(target, name)

    def sleep(seconds):
        state["left"] -= seconds

    monkeypatch.setattr(DirectoryTarget, "read", read)
    monkeypatch.setattr(DirectoryTarget, "wake", wake, raising=False)
    monkeypatch.setattr(asleep, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0))
    return state


def test_a_second_copy_of_what_sleeps_asks_for_it_and_says_what_to_type_then(world, capsys, archive):
    status, told = stowage(world, capsys, "stage", "--from", "nas", "--to", "disk")
    assert status == 0 and archive["asked"]
    line, last, *rest = [one for one in told.splitlines() if one.strip()]
    assert line.startswith("wait 3 copies to disk: asleep in an archive, asked for: 24 files (")
    assert line.endswith("of target nas: GLACIER wakes in 3 to 5 hours (Standard)")
    assert last.startswith("OK   0 copies made") and "3 wait for their time" in last
    assert any("stowage stage --from nas --to disk --wait 24h" in one for one in rest)
    assert not any(name.endswith("manifest.json") for name in world.files(world.root / "disk"))
    archive["left"] = 0
    status, told = answer(world, capsys, "stage", "--from", "nas", "--to", "disk")
    assert status == 0 and sum(one["ok"] for one in told["copies"]) == 3 and told["asleep"] == []


def test_it_may_wait_for_that(world, capsys, archive):
    status, told = answer(world, capsys, "stage", "--from", "nas", "--to", "disk", "--wait", "1h")
    assert status == 0 and [one["ok"] for one in told["copies"]] == [True] * 3
    assert world.files(world.root / "disk") == world.files(world.root / "nas")


def test_and_not_longer_than_it_may(world, capsys, archive, monkeypatch):
    archive["left"] = 10**9
    now = [0.0]
    monkeypatch.setattr(asleep, "time", SimpleNamespace(
        monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
    ))  # fmt: skip
    status, told = answer(world, capsys, "stage", "--from", "nas", "--to", "disk", "--wait", "1h")
    assert status == 0 and [one["code"] for one in told["copies"]] == ["asleep"] * 3 and now[0] == 3600
    status, told = stowage(world, capsys, "stage", "--wait", "soon")
    assert status == 2 and "--wait" in told

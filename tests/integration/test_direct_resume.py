"""A direct dump whose line is cut goes on at its targets: real agents over ssh; folders, an SFTP box, a bucket."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import tree as trees
from cutline import Line
from test_direct import BUCKET, MIB, cloud, differences, gateway, half, keys_below, lab, nas, newest, set_up, uploads

from backupcore.dump import again

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
import sftpserver  # noqa: E402

__all__ = ["BUCKET", "gateway", "lab"]  # fixtures


@pytest.fixture
def line(lab, monkeypatch):
    """The line of web1, once set_up() was called; tries follow each other quickly."""
    for name in ("SOON", "FIRST", "LAST"):
        monkeypatch.setattr(again, name, 0.2)
    monkeypatch.setattr(again, "PROGRESS", 600.0)
    return Line(lab.base / "line")


def by_way_of(lab, line, limits):
    """web1's sshd starts its agent at the end of that line, cut after so many bytes each time."""
    lab.sshds["web1"].force(f"{line.program} -I {lab.base}/agent.pyz --config {lab.base}/web1.agent.json serve")
    line.cut_after(limits)


def prefixes(lab, name="nas"):
    """The folders of dumps at a directory, whole or not."""
    return sorted(path.name for path in (lab.base / name).glob("web1/tree/*"))


@pytest.mark.slow
@pytest.mark.parametrize("encrypt", ["none", "server", "client"])
def test_a_line_that_is_cut_three_times_in_a_night_sends_little_twice(lab, line, encrypt):
    if encrypt != "none":
        lab.stowage("key", "generate", "--only", "first", "--no-passphrase")
    set_up(lab, {"nas": nas(lab), "disk": nas(lab, "disk")}, encrypt=encrypt, resume="night")
    by_way_of(lab, line, [9 * MIB, 7 * MIB, 9 * MIB])
    lab.stowage("run")
    passed, dump = line.passed(), newest(lab)
    assert len(passed) == 4
    # a frame of 4 MiB and two of 2, what is under way in pipes, and what a hello costs
    assert sum(passed) < dump["stored_size"] + 3 * 4.5 * MIB, (passed, dump["stored_size"])
    assert dump["copies"] == {"nas": "verified", "disk": "verified"} and dump["holding"] is None
    assert half(lab) == [] and prefixes(lab) == prefixes(lab, "disk") == [dump["dump"]]
    for name in ("nas", "disk"):
        assert differences(lab, "--from", name) == []
    lab.stowage("verify", "--full")
    (lab.base / "tree" / "new").write_text("new")
    lab.stowage("run", "--level", "1")  # upon a state that is made from the index
    assert newest(lab)["level"] == 1 and differences(lab) == [] and half(lab) == []


@pytest.mark.slow
@pytest.mark.parametrize(("encrypt", "seed"), [("none", 1), ("none", 2), ("server", 3), ("client", 4)])
def test_cuts_anywhere_at_both_levels_give_the_tree(lab, line, encrypt, seed):
    chance, tree = random.Random(seed), lab.base / "tree"
    if encrypt != "none":
        lab.stowage("key", "generate", "--only", "first", "--no-passphrase")
    set_up(lab, {"nas": nas(lab), "disk": nas(lab, "disk")}, encrypt=encrypt, resume="night")
    for level in (0, 1):
        for number in range(8):
            (tree / f"d{number}").mkdir(exist_ok=True)
            (tree / f"d{number}" / f"big{level}").write_bytes(chance.randbytes(chance.randrange(7 * MIB)))
            (tree / f"d{number}" / f"small{level}").write_bytes(chance.randbytes(chance.randrange(70_000)))
        trees.change_hostile_tree(str(tree), level + 1)
        by_way_of(lab, line, [6 * MIB, *(chance.randrange(1, 9 * MIB) for _ in range(4))])
        lab.stowage("run", "--level", level)
        dump = newest(lab)
        assert (level or len(line.passed()) == 6) and dump["level"] == level
        assert dump["copies"] == {"nas": "verified", "disk": "verified"} and half(lab) == []
        for name in ("nas", "disk"):
            assert differences(lab, "--from", name) == []
    lab.stowage("verify", "--full")


@pytest.mark.slow
def test_a_bucket_a_box_and_a_folder_go_on_too(lab, line, gateway, tmp_path):
    with sftpserver.running(tmp_path / "ssh") as box:
        sftp = {"type": "sftp", "host": "127.0.0.1", "port": box.port, "user": sftpserver.USER, "path": "/home/stowage",
                "known_hosts": str(box.known_hosts), "key": str(box.key)}  # fmt: skip
        set_up(lab, {"cloud": cloud(lab, gateway), "box": sftp, "nas": nas(lab)}, resume="night")
        by_way_of(lab, line, [14 * MIB, 11 * MIB])
        lab.stowage("run")
        assert len(line.passed()) == 3 and sum(line.passed()) < newest(lab)["stored_size"] + 2 * 4.5 * MIB
        assert newest(lab)["copies"] == {"cloud": "verified", "box": "verified", "nas": "verified"}
        for name in ("cloud", "box", "nas"):
            assert differences(lab, "--from", name) == []
        assert uploads(gateway[1]) == [] and half(lab) == []
        assert {key.split("/")[3] for key in keys_below(gateway[1], lab)} == {newest(lab)["dump"]}


def bad_night(lab, line, come=21 * MIB):
    """A night in which so much comes once, and nothing after."""
    by_way_of(lab, line, [come] + [10] * 60)
    again.PROGRESS = 0.5  # line() puts it back
    lab.stowage("run", status=1)
    assert line.passed()[0] == come and len(line.passed()) > 1
    assert lab.json("list", "dumps")["dumps"] == []


@pytest.mark.parametrize(
    ("encrypt", "other"),
    [("none", "disk"), *[pytest.param(one, "cloud", marks=pytest.mark.slow) for one in ("none", "server")]],
)
def test_the_next_night_goes_on_where_the_policy_says_so(lab, line, request, encrypt, other):
    if encrypt != "none":
        lab.stowage("key", "generate", "--only", "first", "--no-passphrase")
    begun = request.getfixturevalue("gateway") if other == "cloud" else None  # only then: it takes its time
    there = cloud(lab, begun) if begun else nas(lab, "disk")
    set_up(lab, {"nas": nas(lab), other: there}, resume="next", encrypt=encrypt)
    bad_night(lab, line)
    kept = prefixes(lab)
    assert len(kept) == 1 and (not begun or uploads(begun[1]) == [])
    lab.stowage("stage")  # sweeps, and leaves it
    assert prefixes(lab) == kept
    line.cut_after([])
    lab.stowage("run")
    assert newest(lab)["dump"] == kept[0] and sum(line.passed()) < newest(lab)["stored_size"] - 14 * MIB
    assert newest(lab)["copies"] == {"nas": "verified", other: "verified"}
    assert half(lab) == [] and (not begun or uploads(begun[1]) == [])
    for name in ("nas", other):
        assert differences(lab, "--from", name) == []


@pytest.mark.slow
def test_a_night_that_nothing_goes_on_with_leaves_nothing(lab, line, gateway):
    set_up(lab, {"nas": nas(lab), "cloud": cloud(lab, gateway)}, resume="night")
    bad_night(lab, line)
    assert half(lab) == [] and prefixes(lab) == [] and uploads(gateway[1]) == []
    assert keys_below(gateway[1], lab) == []


@pytest.mark.slow
def test_what_no_policy_wants_any_more_is_taken_away_by_the_next_run(lab, line, gateway):
    targets = {"nas": nas(lab), "cloud": cloud(lab, gateway)}
    set_up(lab, targets, resume="next")
    bad_night(lab, line)
    kept = prefixes(lab)
    assert len(kept) == 1
    lab.write(policies={"standard": {"holding": "never", "part_size": "16 MiB", "resume": "night"}})
    lab.stowage("stage")
    assert half(lab) == [] and prefixes(lab) == [] and keys_below(gateway[1], lab) == []
    line.cut_after([])
    lab.stowage("run")
    assert newest(lab)["dump"] not in kept and differences(lab) == []


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["removed", "shorter", "away"])
def test_a_target_that_lost_a_part_gets_its_copy_later(lab, line, lost):
    set_up(lab, {"nas": nas(lab), "disk": nas(lab, "disk")}, resume="next")
    bad_night(lab, line)
    part = next((lab.base / "disk").glob("web1/tree/*/image-0000*"))
    if lost == "removed":
        part.unlink()
    elif lost == "shorter":
        with open(part, "r+b") as file:
            file.truncate(part.stat().st_size - 1)
    else:
        shutil.rmtree(lab.base / "disk" / "web1")
    line.cut_after([])
    assert lab.told("run")[0] in (0, 1)
    assert sum(line.passed()) < newest(lab)["stored_size"] - 14 * MIB
    assert newest(lab)["copies"]["nas"] == "verified" and "disk" in newest(lab)["copies"]
    lab.stowage("stage")
    assert newest(lab)["copies"] == {"nas": "verified", "disk": "verified"} and half(lab) == []
    for name in ("nas", "disk"):
        assert differences(lab, "--from", name) == []
    lab.stowage("verify", "--full")


@pytest.mark.slow
def test_where_no_target_has_all_the_dump_begins_anew_and_leaves_nothing_of_before(lab, line):
    set_up(lab, {"nas": nas(lab), "disk": nas(lab, "disk")}, resume="next")
    bad_night(lab, line)
    before = prefixes(lab)
    for name in ("nas", "disk"):
        next((lab.base / name).glob("web1/tree/*/image-0000*")).unlink()
    line.cut_after([])
    lab.stowage("run")
    assert newest(lab)["dump"] not in before and sum(line.passed()) > newest(lab)["stored_size"]
    assert prefixes(lab) == prefixes(lab, "disk") == [newest(lab)["dump"]]
    assert half(lab) == [] and differences(lab) == []


@pytest.mark.slow
def test_a_source_that_is_another_begins_anew(lab, line):
    set_up(lab, {"nas": nas(lab)}, resume="next")
    bad_night(lab, line)
    before = prefixes(lab)
    path = lab.base / "web1.agent.json"
    path.write_text(path.read_text().replace('"exclude": []', '"exclude": ["big-3"]'))
    line.cut_after([])
    assert lab.told("run")[0] in (0, 1)
    assert prefixes(lab) == [newest(lab)["dump"]] and newest(lab)["dump"] not in before and half(lab) == []


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_whole_dumps_or_nothing_half(lab, line):
    set_up(lab, {"nas": nas(lab)}, resume="next")
    bad_night(lab, line)
    kept = prefixes(lab)
    line.cut_after([])
    by_way_of(lab, line, [])
    process = lab.start("run", start_new_session=True)
    while not list((lab.base / "nas" / "web1" / "tree" / kept[0]).glob("image-0002*")):
        if process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lab.stowage("stage")
    rows = {one["dump"] for one in lab.json("list", "dumps")["dumps"]}
    assert half(lab) == [] and set(prefixes(lab)) == rows
    lab.stowage("run")
    assert differences(lab) == [] and half(lab) == []

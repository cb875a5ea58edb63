"""The state of a base made from indexes alone: with a real agent the next incremental is the one it would have been."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
import sealed
from dump_lab import PORT, Lab, Sshd, forced
from tree import change_hostile_tree, differences, make_hostile_tree, snapshot

from backupcore.catalog import places
from backupcore.dump import statefile
from backupcore.image import codec, index, state
from backupcore.keys import store
from backupcore.restore import view
from backupcore.settings import Policy

OLD = 2.2  # s until nothing counts as young any more
PYTHON = "/usr/bin/python3"  # the distribution's, with its python3-cryptography


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    made.hosts = []
    yield made
    for host in made.hosts:
        host.stop()
    made.catalog.close()


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    make_hostile_tree(top)
    (top / "cache" / "below").mkdir(parents=True)
    (top / "cache" / "below" / "file").write_text("not wanted")
    (top / "a file.skip").write_text("not wanted either")
    for number in range(5000):  # two blocks
        (top / "cache" / f"{number}.keep").touch()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(top / "socket"))
    os.link(top / "a file.skip", top / "with a name that is excluded")
    return top


OPTIONS = {"exclude": ["*.skip", "/cache/below"]}


def lines(lab, row):
    """The lines of a dump's index."""
    path = places.find_index(lab.settings.state, row.client, row.source, row.id)
    text = b"".join(codec.get(row.codec).unpack([path.read_bytes()]))
    return text.splitlines()


def archive(row):
    """A digest of what the image holds, unpacked; None of one that is sealed."""
    digest = hashlib.sha256()
    for path in sorted(Path(row.holding).glob("image-*")):
        if path.suffix == ".enc":
            return None
        for piece in codec.get(row.codec).unpack([path.read_bytes()]):
            digest.update(piece)
    return digest.digest()


def state_file(lab, row):
    return places.state_folder(lab.settings.state, row.client, row.source) / f"{row.id}.state"


def blocks(lab, row):
    return [block.raw for block in state.read(statefile.payloads(state_file(lab, row)))]


def lose(lab, row):
    """As a rebuild leaves a dump: without state, its own options and the number of its files."""
    state_file(lab, row).unlink(missing_ok=True)
    told = {name: row.options[name] for name in ("type", "path", "encrypt") if name in row.options}
    lab.catalog._update_dump(row.id, state=None, run="", options=json.dumps(told), files=0)


def again(lab, base, level):
    """Two dumps of that level upon base: with the state that the agent made, and with one out of indexes."""
    kept = state_file(lab, base).read_bytes()
    assert lab.night(level)["web1:data"].ok, lab.results
    first = lab.latest("web1", "data")
    known = blocks(lab, base)
    for row in lab.catalog.chain(base.id):
        lose(lab, row)
    result = lab.night(level)["web1:data"]
    second = lab.latest("web1", "data")
    assert result.ok and second.id != first.id, result
    assert (second.level, second.base) == (level, base.id) == (first.level, first.base), second.notes
    made = blocks(lab, base)
    state_file(lab, base).write_bytes(kept)
    return first, second, known, made


def prepare(lab, tree, way, encrypt, compress):
    if encrypt != "none" and not store.active(lab.settings.keys):
        sealed.prove(lab.settings.keys)
    policy = Policy("p", compress=compress, encrypt=encrypt)
    options = {"data": {"path": str(tree), **OPTIONS}}
    if way == "local":
        lab.client("web1", options, policy)
        return
    lab.make_key()
    client = lab.client("web1", options, policy, transport="ssh", address="127.77.11.9", port=PORT, user="root",
                        agent_python=PYTHON)  # fmt: skip
    lab.hosts.append(Sshd(lab, "web1", client.address, forced(client)))


@pytest.mark.parametrize(
    ("way", "encrypt", "compress"),
    [
        ("local", "none", "zstd"),
        pytest.param("local", "server", "zstd", marks=pytest.mark.slow),
        pytest.param("local", "none", "gzip", marks=pytest.mark.slow),
        ("ssh", "client", "zstd"),
    ],
)
def test_state_out_of_indexes_makes_the_same_incremental(lab, tree, way, encrypt, compress):
    if way == "ssh" and os.geteuid() != 0:
        pytest.skip("needs root")
    prepare(lab, tree, way, encrypt, compress)
    time.sleep(OLD)
    assert lab.night()["web1:data"].ok, lab.results
    full = lab.latest("web1", "data")
    files = full.files
    assert files and full.suspects == 3  # times in the future never grow old

    # nothing changed: only the file of which a name lies outside of the dump comes again
    first, second, known, made = again(lab, full, 1)
    there, again_there = ({index.parse(line).path for line in lines(lab, one)} for one in (first, second))
    assert there == {b"times", b"times/2038", b"times/2106", b"times/2200"}
    assert again_there - there == {b".", b"with a name that is excluded"}
    different = [number for number, pair in enumerate(zip(known, made)) if pair[0] != pair[1]]
    assert len(known) == len(made) and different == [0]
    assert lab.catalog.dump(full.id).files == files

    # from here on that file has no other name
    (tree / "with a name that is excluded").unlink()
    change_hostile_tree(tree, 1)
    (tree / "another.skip").write_text("x")
    time.sleep(OLD)
    first, second, known, made = again(lab, full, 1)
    assert first.entries > 30 and lines(lab, first) == lines(lab, second)
    assert archive(first) == archive(second)

    # upon a chain
    first, second, known, made = again(lab, second, 2)
    assert known == made and first.entries == second.entries == 4
    base = lab.catalog.dump(first.base)
    change_hostile_tree(tree, 2)
    (tree / "a file.skip").unlink()
    time.sleep(OLD)
    first, second, known, made = again(lab, base, 2)
    assert first.entries > 30 and known == made
    assert lines(lab, first) == lines(lab, second) and archive(first) == archive(second)
    first, second, known, made = again(lab, second, 3)
    assert known == made and first.entries == second.entries == 4


def test_what_cannot_be_made_again_costs_a_full(lab, tree):
    prepare(lab, tree, "local", "none", "zstd")
    assert lab.night()["web1:data"].ok
    full = lab.latest("web1", "data")
    path = places.find_index(lab.settings.state, "web1", "data", full.id)
    whole = path.read_bytes()
    text = b"".join(codec.get("zstd").unpack([whole]))
    for harm in (whole[:-7], codec.get("zstd").compress(text[: text.rindex(b"\n", 0, -1) + 1]), None):
        lose(lab, full)
        if harm is None:
            path.unlink()
        else:
            path.unlink()
            path.write_bytes(harm)
        result = lab.night(1)["web1:data"]
        assert result.ok and result.level == 0
        assert "state" in (lab.planned[0].reason if harm is None else result.message)
        for row in lab.catalog.dumps():  # back to one full
            if row.id != full.id:
                subprocess.run(["rm", "-r", row.holding], check=True)
                with lab.catalog._write() as connection:
                    connection.exec_driver_sql("DELETE FROM dumps WHERE id = ?", (row.id,))
        assert not [one for one in (lab.base / "state" / "pending").rglob("*") if "remake" in one.name]


def test_a_change_of_sealing_or_root_makes_a_full_after_a_rebuild_too(lab, tree, tmp_path):
    prepare(lab, tree, "local", "none", "zstd")
    assert lab.night()["web1:data"].ok
    lose(lab, lab.latest("web1", "data"))
    prepare(lab, tree, "local", "server", "zstd")
    result = lab.night()["web1:data"]
    assert (result.ok, result.level) == (True, 0) and "encrypt of the source changed" in result.message
    lose(lab, lab.latest("web1", "data"))
    prepare(lab, tree / "swap", "local", "server", "zstd")
    result = lab.night()["web1:data"]
    assert (result.ok, result.level) == (True, 0) and "path of the source changed" in result.message


def test_a_changed_exclude_needs_no_full_after_a_rebuild(lab, tree, tmp_path):
    """The images do not tell what was excluded; the next incremental must be right all the same, and the one after."""

    def night(level, exclude, gone):
        """A night after a rebuild, with other words in agent.json. gone: top names that are in no dump of it."""
        for row in lab.catalog.dumps():
            lose(lab, row)
        lab.client("web1", {"data": {"path": str(tree), "exclude": exclude}}, Policy("p"))
        time.sleep(OLD)
        result = lab.night(level)["web1:data"]
        assert result.ok and result.level == level, result
        chain = lab.catalog.chain(lab.latest("web1", "data").id)
        assert len(chain) == level + 1
        wanted = {name: row for name, row in snapshot(tree).items() if not is_out(name, gone)}
        seen = {row.entry.path: row.entry for row in view.merge([map(index.parse, lines(lab, one)) for one in chain])}
        seen = {name: entry for name, entry in seen.items() if entry.kind != "n"}
        assert sorted(seen) == sorted(wanted)
        by_hand = tmp_path / f"hand{level}"
        lab.restore_by_hand("web1", "data", by_hand)
        found = {name: row for name, row in snapshot(by_hand).items() if not is_out(name, gone)}
        for snap in (wanted, found):  # of a name that is excluded nothing is said
            for name in (b"a file.skip", b"with a name that is excluded"):
                snap.get(name, {}).pop("links", None)
        assert differences(wanted, found) == []
        return {index.parse(line).path for line in lines(lab, chain[-1])}

    def is_out(name, gone):
        return name == b"socket" or any(name == one or name.startswith(one + b"/") for one in gone)

    night(0, ["*.skip", "/cache/below"], [b"a file.skip", b"cache/below"])
    # what was left out comes in, what was in goes out; nothing of it was touched
    held = night(1, ["/cache/?.keep", "/deep"], [*(b"cache/%d.keep" % one for one in range(10)), b"deep"])
    assert {b"a file.skip", b"cache/below/file"} <= held and b"names" not in held
    # and back: what the dump before had not is dumped again, though the full has it, as it was or changed since
    (tree / "cache" / "3.keep").write_text("changed")
    (tree / "cache" / "4.keep").unlink()
    held = night(2, ["*.skip"], [b"a file.skip"])
    assert {b"cache/%d.keep" % one for one in range(10) if one != 4} | {b"deep"} <= held

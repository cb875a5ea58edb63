"""Dumps by the real agent on this machine: whole images, exact trees, levels, and its own file's last word."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from dump_lab import Lab

from backupcore.catalog import places
from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys
from backupcore.settings import HoldingDisk, Policy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    yield made
    made.catalog.close()


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "tree"
    for number in range(40):
        (top / f"d{number % 4}" / "sub").mkdir(parents=True, exist_ok=True)
        (top / f"d{number % 4}" / f"f{number}").write_bytes(os.urandom(number * 997))
    (top / b"\xff\n.txt".decode("utf-8", "surrogateescape")).write_text("odd")
    (top / "link").symlink_to("d0/f0")
    os.link(top / "d1" / "f1", top / "hard")
    os.utime(top / "d2" / "f2", ns=(5, -(10**18)))
    return top


def same(left: Path, right: Path):
    subprocess.run(["diff", "-r", "--no-dereference", left, right], check=True)
    listing = "cd \"$0\" && find . -printf '%P %y %m %U %G %T@ %l %n\\0' | LC_ALL=C sort -z"
    one, two = (
        subprocess.run(["sh", "-c", listing, path], capture_output=True, check=True).stdout for path in (left, right)
    )
    assert one == two


def test_a_full_and_incrementals_come_back_exactly(lab, tree, tmp_path):
    lab.client("here", {"data": tree}, policy=Policy("p", part_size=5 << 20))
    assert lab.night()["here:data"].ok, lab.results
    lab.restore_by_hand("here", "data", tmp_path / "r0")
    same(tree, tmp_path / "r0")
    (tree / "d0" / "f4").write_text("changed")
    (tree / "d1" / "f5").unlink()
    (tree / "d3").rename(tree / "renamed")
    (tree / "new").mkdir()
    (tree / "new" / "file").write_bytes(os.urandom(9 << 20))
    result = lab.night()["here:data"]
    assert (result.ok, result.level) == (True, 1), result
    lab.restore_by_hand("here", "data", tmp_path / "r1")
    same(tree, tmp_path / "r1")
    (tree / "d0" / "f4").unlink()
    assert lab.night(level=2)["here:data"].ok
    lab.restore_by_hand("here", "data", tmp_path / "r2")
    same(tree, tmp_path / "r2")
    keys = load_public_keys(lab.settings.keys)
    chain = lab.catalog.chain(lab.latest("here", "data").id)
    manifests = [check_folder(Path(row.holding), keys, full=True) for row in chain]
    assert [manifest.level for manifest in manifests] == [0, 1, 2]
    assert len(manifests[1].parts) >= 2 and manifests[1].stored_size > 9 << 20
    assert not (lab.settings.holding[0].path / ".incoming").exists()


def test_what_did_not_change_costs_next_to_nothing(lab, tree):
    lab.client("here", {"data": tree})
    time.sleep(2.1)  # what was written within 2 s of being read counts as changed once more
    lab.night()
    assert lab.latest("here", "data").suspects == 0
    result = lab.night()["here:data"]
    row = lab.latest("here", "data")
    assert (result.level, row.entries, row.archive_size) == (1, 0, 1024), row
    assert row.stored_size < 1000
    subprocess.run("zstd -dcq index.tsv.zst frames.tsv.zst > /dev/null", shell=True, check=True, cwd=row.holding)


def test_the_clients_own_file_decides_and_a_change_of_it_makes_a_full(lab, tree):
    lab.client("here", {"data": {"path": str(tree), "exclude": ["f1*"]}})
    assert lab.night()["here:data"].level == 0
    assert lab.night()["here:data"].level == 1
    lab.client("here", {"data": {"path": str(tree), "exclude": []}})
    result = lab.night()["here:data"]
    assert (result.ok, result.level) == (True, 0) and "exclude of the source changed" in result.message
    assert lab.night()["here:data"].level == 1


def test_the_agents_errors_arrive_as_one_line_each(lab, tree, tmp_path):
    lab.client("gone", {"data": tmp_path / "nothing"})
    lab.client("file", {"data": tree / "hard"})
    lab.client("before", {"data": {"path": str(tree), "before": "echo no room >&2; exit 3"}})
    lab.client("unknown", {"data": tree}, agent_json={"schema": 1, "client": "unknown", "sources": {}})
    lab.client("other", {"data": tree}, agent_json={"schema": 1, "client": "web7", "sources": {}})
    lab.client("broken", {"data": tree}, agent_json=["what"])
    lab.client("good", {"data": tree})
    results = lab.night()
    codes = {name: result.code for name, result in results.items()}
    assert codes == {
        "gone:data": "source-gone", "file:data": "source-gone", "before:data": "source-failed",
        "unknown:data": "agent-refused", "other:data": "agent-refused", "broken:data": "agent-refused", "good:data": "",
    }  # fmt: skip
    assert "no room" in results["before:data"].message and "is web7 by its agent.json" in results["other:data"].message
    assert all(len(result.message.splitlines()) <= 1 for result in results.values())
    assert [row.client for row in lab.catalog.dumps()] == ["good"]


def test_a_config_that_others_may_write_is_refused(lab, tree):
    client = lab.client("here", {"data": tree})
    os.chmod(client.agent_config, 0o666)
    result = lab.night()["here:data"]
    assert (result.ok, result.code) == (False, "agent-refused") and "can be changed by others" in result.message


def test_eight_sources_at_once_come_whole(lab, tree, tmp_path):
    lab.set(dumps_at_once=8)
    for number in range(4):
        lab.client(f"c{number}", {"one": tree, "two": tree / "d1"})
    assert all(result.ok for result in lab.night().values()), lab.results
    keys = load_public_keys(lab.settings.keys)
    for row in lab.catalog.dumps():
        check_folder(Path(row.holding), keys, full=True)
    lab.restore_by_hand("c3", "one", tmp_path / "r")
    same(tree, tmp_path / "r")


@pytest.fixture
def disks(tmp_path):
    """Two small disks of their own."""
    made = [tmp_path / "disk-a", tmp_path / "disk-b"]
    for disk in made:
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk], check=True)
    yield made
    for disk in made:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_holding_disk_of_its_own_is_the_usual_case(tree, tmp_path, disks):
    lab = Lab(tmp_path, holding=(HoldingDisk(disks[0], -(1 << 20)),))
    lab.client("here", {"data": tree})
    result = lab.night()["here:data"]
    assert result.ok and not result.warning, result
    assert lab.night()["here:data"].level == 1
    for row in lab.catalog.dumps():
        index = places.find_index(lab.settings.state, "here", "data", row.id)
        assert index.read_bytes() == (Path(row.holding) / "index.tsv.zst").read_bytes()
    assert sorted(path.name for path in disks[0].iterdir()) == [".stowage", "here"]
    lab.restore_by_hand("here", "data", tmp_path / "r")
    same(tree, tmp_path / "r")
    lab.catalog.close()


def test_a_state_disk_without_room_costs_no_dump_and_is_said(tree, tmp_path, disks):
    lab = Lab(tmp_path, state=disks[1] / "state")
    lab.client("here", {"data": tree})
    result = lab.night()["here:data"]
    assert result.ok and result.warning and "No space left" in result.message and "will be a full" in result.message
    assert lab.latest("here", "data").state is None
    assert lab.night()["here:data"].level == 0
    lab.catalog.close()


def test_a_holding_disk_that_fills_up_fails_that_dump_and_is_empty_after(tree, tmp_path, disks):
    big = tmp_path / "big"
    big.mkdir()
    (big / "file").write_bytes(os.urandom(60 << 20))
    lab = Lab(tmp_path, holding=(HoldingDisk(disks[0], 1 << 40),), dumps_at_once=1)
    lab.client("here", {"big": big, "small": tree}, policy=Policy("p", compress="none"))
    results = lab.night()
    assert results["here:big"].code == "holding-full" and results["here:small"].ok, results
    assert [row.source for row in lab.catalog.dumps()] == ["small"]
    assert sorted(path.name for path in disks[0].iterdir()) == [".stowage", "here"]
    lab.catalog.close()

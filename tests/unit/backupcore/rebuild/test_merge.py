"""The catalog from images alone: the same as before, merged and never overwritten, whoever tampers with the target."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace

import pytest
from backupcore.hookspecs import TargetError
from rebuild_world import Lost, forget

from backupcore import clock
from backupcore.catalog import places
from backupcore.catalog.records import CopyRow
from backupcore.errors import NothingThatOld, RequestError, TargetRefused
from backupcore.image.manifest import Manifest, Signer, sign_run_record
from backupcore.rebuild import merge, scan
from backupcore.settings import CopyRule


def place(world, dump, name="nas"):
    return world.root / name / dump.client / dump.source / dump.id


def sign_anew(world, dump, signer, name="nas", **changes):
    """Another manifest in place of a dump's, rightly signed by signer."""
    folder = place(world, dump, name)
    manifest = Manifest.from_bytes((folder / "manifest.json").read_bytes())
    data = replace(manifest, signer=signer.fingerprint, **changes).to_bytes()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sig").write_bytes(signer.sign(data))


def bare(dumps):
    return [
        replace(row, holding=None, notes=(), state=None, run="", files=0, options={}, previous=None) for row in dumps
    ]


def test_the_catalog_comes_back_as_it_was(world, lost, filled):
    report = lost.rebuild()
    assert report.status == "OK"
    assert (report.added, report.known, report.found, report.left_count, report.sources) == (4, 0, 4, 0, 2)
    assert bare(lost.catalog.dumps()) == bare(world.catalog.dumps())
    before = {(row.dump, row.target): row.bytes for row in world.catalog.copies()}
    assert {(row.dump, row.target): row.bytes for row in lost.catalog.copies()} == before
    # nothing was read back, so nothing is called verified; it can be restored all the same
    assert {row.state for row in lost.catalog.copies()} == {"done"}


def test_it_is_the_same_server_again_and_its_numbers_go_on(world, lost, filled):
    report = lost.rebuild()
    assert report.taken
    assert report.server == places.server_id(lost.settings.state) == world.server
    assert lost.catalog.next_counter("web1", "etc") == world.catalog.next_counter("web1", "etc") == 4
    assert lost.catalog.next_counter("web2", "etc") == 2


def test_numbers_that_only_a_run_record_knows_are_not_given_again(world, lost, filled):
    made = [{"client": "web1", "source": "etc", "dump": "20300101T000000Z-L0-00000000", "counter": 9,
             "manifest_sha256": "a" * 64}]  # fmt: skip
    _record(world, "20300101T000000Z-0000", made)
    report = lost.rebuild()
    assert lost.catalog.next_counter("web1", "etc") == 10
    (finding,) = report.findings
    assert (finding.status, finding.source) == ("WARN", "web1:etc")
    assert "20300101T000000Z-L0-00000000" in finding.message
    assert "20300101T000000Z-0000" in finding.message


def _record(world, run, made, signer=None):
    folder = world.root / "nas/.stowage/runs" / world.server
    folder.mkdir(parents=True, exist_ok=True)
    now = clock.now_ns()
    data, signature = sign_run_record(signer or world.signer, world.server, run, now, now, "OK", made)
    (folder / f"{run}.json").write_bytes(data)
    (folder / f"{run}.sig").write_bytes(signature)


def test_twice_changes_nothing(lost, filled):
    lost.rebuild()
    before = lost.everything()
    report = lost.rebuild()
    assert (report.added, report.known, report.status, report.adopted, report.taken) == (0, 4, "OK", [], False)
    assert lost.everything() == before


def test_indexes_lie_beside_the_catalog_as_they_are_in_the_images(world, lost, filled):
    report = lost.rebuild()
    assert (report.indexes.fetched, report.indexes.failed) == (4, 0)
    for dump in filled:
        kept = places.find_index(lost.settings.state, dump.client, dump.source, dump.id)
        assert kept.read_bytes() == (place(world, dump) / "index.tsv.zst").read_bytes()
    assert lost.rebuild().indexes.there == 4


def test_an_index_that_is_not_what_the_manifest_says_is_not_kept(world, lost, filled):
    path = place(world, filled[0]) / "index.tsv.zst"
    path.write_bytes(bytes(len(path.read_bytes())))
    report = lost.rebuild()
    assert (report.indexes.fetched, report.indexes.failed, report.status) == (3, 1, "WARN")
    assert places.find_index(lost.settings.state, "web1", "etc", filled[0].id) is None
    assert not places.rebuild_folder(lost.settings.state).exists()


def test_a_catalog_that_exists_is_merged_and_never_overwritten(world, filled):
    forgotten = world.dump("web2")
    world.stage()
    noted = CopyRow(filled[0].id, "nas", "failed", {}, 1, None, 5, "found broken by verify")
    world.catalog.put_copy(noted)
    before = {row.id: row for row in world.catalog.dumps()}
    lost = Lost(world, "old")
    lost.settings = replace(world.settings)
    lost.catalog.close()
    lost.catalog = world.catalog
    with world.catalog._write() as connection:
        connection.exec_driver_sql("DELETE FROM dumps WHERE id = ?", (forgotten.id,))
    report = lost.rebuild()
    assert (report.added, report.known) == (1, 4)
    for row in world.catalog.dumps():
        if row.id != forgotten.id:
            assert row == before[row.id]
    assert world.catalog.copies(dump=filled[0].id) == [noted]
    assert world.catalog.dump(forgotten.id).holding is None


# -- whom to believe


def test_a_server_that_knows_no_signer_adopts_the_one_that_signed_everything(world, lost, filled):
    report = lost.rebuild()
    assert report.adopted == report.signers == [world.signer.fingerprint]
    (kept,) = lost.settings.keys.glob("*.pub")
    assert kept.read_bytes() == world.signer.public_pem


def test_a_server_that_knows_a_signer_accepts_no_other(world, lost, filled):
    mine = Signer.make(lost.settings.keys)
    with pytest.raises(RequestError) as caught:
        lost.rebuild()
    assert world.signer.fingerprint in caught.value.message + caught.value.hint
    assert lost.catalog.dumps() == []
    assert places.known_server_id(lost.settings.state) is None
    assert [path.name for path in lost.settings.keys.glob("*.pub")] == ["signing.pub"]
    # unless the operator says that the key kit names it
    report = lost.rebuild(signers=(world.signer.fingerprint[:16],))
    assert (report.added, report.adopted) == (4, [world.signer.fingerprint])
    assert mine.fingerprint not in report.signers


def test_a_dump_by_another_signer_is_left_by_a_server_that_knows_one(world, lost, filled):
    lost.settings.keys.mkdir(parents=True)
    (lost.settings.keys / "old.pub").write_bytes(world.signer.public_pem)
    _plant_key(world, sign_with := Signer.make(world.root / "attacker"))
    sign_anew(world, filled[3], sign_with)
    report = lost.rebuild()
    assert (report.added, report.left_count, report.status) == (3, 1, "WARN")
    assert report.left[0][0].endswith(filled[3].id)
    assert lost.catalog.dump(filled[3].id) is None


def _plant_key(world, signer):
    (world.root / "nas/.stowage/keys" / f"{signer.fingerprint}.pub").write_bytes(signer.public_pem)


@pytest.mark.parametrize("planted", [True, False])
def test_two_signers_are_refused(world, lost, filled, planted):
    other = Signer.make(world.root / "attacker")
    if planted:
        _plant_key(world, other)
    sign_anew(world, filled[0], other)
    with pytest.raises(RequestError) as caught:
        lost.rebuild()
    assert other.fingerprint in caught.value.message
    assert world.signer.fingerprint in caught.value.message
    assert lost.catalog.dumps() == []
    assert not list(lost.settings.keys.glob("*")) if lost.settings.keys.exists() else True


def test_a_fingerprint_that_is_not_met_is_refused(lost, filled):
    for word in ("0" * 64, "0" * 16):
        with pytest.raises(RequestError, match="no dump on nas is signed by"):
            lost.rebuild(signers=(word,))
    with pytest.raises(RequestError, match="no fingerprint"):
        lost.rebuild(signers=("abc",))
    assert lost.catalog.dumps() == []


def test_without_a_public_key_at_the_target_the_kits_is_needed(world, lost, filled):
    shutil.rmtree(world.root / "nas/.stowage/keys")
    with pytest.raises(RequestError) as caught:
        lost.rebuild()
    assert "--signer-key" in caught.value.hint
    report = lost.rebuild(keys_given={world.signer.fingerprint: world.signer.public})
    assert report.added == 4


def test_a_key_that_is_not_what_its_name_says_is_no_key(world, lost, filled):
    other = Signer.make(world.root / "attacker")
    path = world.root / "nas/.stowage/keys" / f"{world.signer.fingerprint}.pub"
    path.write_bytes(other.public_pem)
    with pytest.raises(RequestError, match="public key is not there"):
        lost.rebuild()


# -- damage and tricks


def test_damaged_and_unsigned_manifests_are_listed_and_left(world, lost, filled):
    (place(world, filled[0]) / "manifest.sig").unlink()
    path = place(world, filled[2]) / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"warnings": 0', b'"warnings": 1'))
    (place(world, filled[3]) / "manifest.json").write_bytes(b"\xff" * 50)
    report = lost.rebuild()
    assert report.left_count == 3
    assert {folder.rpartition("/")[2] for folder, _why in report.left} == {filled[n].id for n in (0, 2, 3)}
    assert [row.id for row in lost.catalog.dumps()] == [filled[1].id]
    assert any("its base" in one.message for one in report.findings)  # the incremental has no base any more
    assert report.status == "WARN"


def test_a_dump_in_another_folder_is_refused(world, lost, filled):
    moved = world.root / "nas/web9/etc" / filled[3].id
    moved.parent.mkdir(parents=True)
    shutil.copytree(place(world, filled[3]), moved)
    report = lost.rebuild()
    assert (report.added, report.left_count) == (4, 1)
    assert "its manifest is that of web2/etc" in report.left[0][1]
    assert {row.client for row in lost.catalog.dumps()} == {"web1", "web2"}


def test_what_is_no_dump_is_counted_and_not_touched(world, lost, filled):
    top = world.root / "nas"
    for name in ("x", "web1/y", "web1/etc/20260101T000000Z-L0-zzzzzzzz/manifest.json", "a/b/c/d/e/manifest.json",
                 "web1/-etc/20260101T000000Z-L0-01234567/manifest.json", ".stowage/keys/nonsense.pub"):  # fmt: skip
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"x")
    unfinished = top / "web1/etc/20260101T000000Z-L0-01234567/image-0000.tar.zst"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"x")
    report = lost.rebuild()
    assert (report.added, report.status, report.seen.others, report.seen.unfinished) == (4, "OK", 5, 1)


def test_a_dump_that_is_not_whole_is_known_and_its_copy_bad(world, lost, filled):
    (place(world, filled[0]) / "image-0001.tar.zst").unlink()
    part = place(world, filled[3]) / "image-0000.tar.zst"
    part.write_bytes(part.read_bytes()[:-1])
    report = lost.rebuild()
    assert (report.added, report.status) == (4, "WARN")
    states = {row.dump: (row.state, row.error) for row in lost.catalog.copies()}
    assert states[filled[0].id] == ("failed", "image-0001.tar.zst is missing")
    assert states[filled[3].id] == ("failed", "image-0000.tar.zst has 2999 bytes, not 3000")
    assert states[filled[1].id][0] == "done"


def test_a_base_that_was_replaced_by_another_signed_dump_is_found(world, lost, filled):
    sign_anew(world, filled[0], world.signer, warnings=3)
    report = lost.rebuild()
    assert report.status == "FAIL"
    assert any("is not based on the" in one.message for one in report.findings)
    assert lost.catalog.dump(filled[1].id).damaged
    assert not lost.catalog.dump(filled[2].id).damaged


def test_two_dumps_of_one_number_are_told(world, lost, filled):
    sign_anew(world, filled[2], world.signer, counter=2)
    report = lost.rebuild()
    assert report.status == "FAIL"
    assert report.left_count == 1
    assert len(lost.catalog.dumps()) == 3


def test_a_gap_in_the_middle_is_listed_and_the_oldest_gone_are_not(world, lost):
    dumps = [world.dump() for _number in range(4)]
    world.stage()
    forget(world, dumps[0])
    assert lost.rebuild().findings == []
    forget(world, dumps[2])
    other = Lost(world, "other")
    report = other.rebuild()
    (finding,) = report.findings
    assert finding.status == "note"
    assert dumps[2].id in finding.message
    other.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"counter": 2**63}, {"counter": 2**70}, {"entries": 2**64}, {"begun_ns": 250_000_000_000 * clock.NS},
        {"ended_ns": -60_000_000_000 * clock.NS}, {"path": "/\udcff"}, {"type": "\ud800"},
    ],
)  # fmt: skip
def test_what_no_catalog_holds_is_damage(world, lost, filled, changes):
    sign_anew(world, filled[3], world.signer, **changes)
    report = lost.rebuild()
    assert (report.added, report.left_count) == (3, 1)


def test_sizes_that_cannot_be_do_no_harm(world, lost, filled):
    target = lost.target()
    inner = target.list

    def listing(prefix=""):
        for one in inner(prefix):
            yield replace(one, size=2**80) if one.name.endswith(".zst") else one

    target.list = listing
    report = lost.rebuild(target=target)
    assert (report.added, report.status) == (4, "WARN")
    assert {row.state for row in lost.catalog.copies()} == {"failed"}


def test_a_place_that_does_not_answer_is_no_empty_place(world, lost, filled):
    target = lost.target()

    def read(name, *_range):
        raise TargetError("the line is cut", "look at the cable", retry=True)

    target.read = read
    with pytest.raises(TargetRefused):
        lost.rebuild(target=target)
    assert lost.catalog.dumps() == []


def test_one_manifest_that_cannot_be_read_costs_that_one_and_fails(world, lost, filled):
    target = lost.target()
    inner = target.read

    def read(name, *words):
        if filled[3].id in name:
            raise TargetError("the line is cut", "", retry=True)
        return inner(name, *words)

    target.read = read
    report = lost.rebuild(target=target)
    assert (report.added, report.left_count, report.status) == (3, 1, "FAIL")
    assert lost.rebuild().added == 1


def test_an_empty_place_says_so(world, lost):
    (world.root / "nas/.stowage").mkdir(parents=True)
    with pytest.raises(NothingThatOld, match="holds no dump"):
        lost.rebuild()


# -- rollbacks


def test_a_target_that_lost_what_the_catalog_knows_is_contradicted(world, filled):
    forget(world, filled[2])
    mine = Lost(world)
    mine.catalog.close()
    mine.catalog, mine.settings = world.catalog, world.settings
    report = mine.rebuild()
    assert report.status == "FAIL"
    (finding,) = [one for one in report.findings if one.status == "FAIL"]
    assert finding.source == "web1:etc"
    assert filled[2].id in finding.message
    assert report.known == 1  # the other source


def test_another_target_contradicts_a_rollback(world, lost):
    world.policy(CopyRule("nas"), CopyRule("disk"))
    dumps = [world.dump(), world.dump()]
    world.stage()
    forget(world, dumps[1])
    with pytest.raises(merge.Contradicted) as caught:
        lost.rebuild(witness="disk")
    assert dumps[1].id in caught.value.message
    assert lost.catalog.dumps() == []
    assert places.known_server_id(lost.settings.state) is None
    assert lost.rebuild("disk", witness="nas").added == 2


def test_another_target_contradicts_a_replaced_dump(world, lost):
    world.policy(CopyRule("nas"), CopyRule("disk"))
    dump = world.dump()
    world.stage()
    sign_anew(world, dump, world.signer, warnings=3)
    with pytest.raises(merge.Contradicted, match="is another dump on disk than on nas"):
        lost.rebuild(witness="disk")


def test_the_last_run_that_somebody_remembers_contradicts_a_rollback(world, lost, filled):
    _record(world, "20260101T000000Z-0000", [])
    with pytest.raises(merge.Contradicted, match="20260101T000000Z-0000, and you remember 20260102T000000Z-0000"):
        lost.rebuild(last_run="20260102T000000Z-0000")
    assert lost.rebuild(last_run="20260101T000000Z-0000").added == 4


def test_a_run_record_by_nobody_known_counts_for_nothing(world, lost, filled):
    made = [{"client": "web1", "source": "etc", "dump": "20300101T000000Z-L0-00000000", "counter": 900,
             "manifest_sha256": "a" * 64}]  # fmt: skip
    _record(world, "20300101T000000Z-0000", made, Signer.make(world.root / "attacker"))
    report = lost.rebuild()
    assert "signed by nobody known" in report.findings[0].message
    assert lost.catalog.next_counter("web1", "etc") == 4


# -- whose


def test_another_servers_dumps_are_left(world, lost, filled):
    sign_anew(world, filled[3], world.signer, server="f" * 16)
    with pytest.raises(RequestError, match="several backup servers"):
        lost.rebuild()
    report = lost.rebuild(server=world.server)
    assert (report.added, report.left_count) == (3, 1)
    assert "f" * 16 in report.left[0][1]


def test_a_server_with_dumps_of_its_own_does_not_become_another(world, filled, tmp_path):
    other = Lost(world, "other")
    mine = places.server_id(other.settings.state)
    other.catalog.add_dump(replace(filled[0], id="20200101T000000Z-L0-00000000", holding=None))
    with pytest.raises(RequestError, match="another backup server"):
        other.rebuild()
    assert places.server_id(other.settings.state) == mine
    other.close()


def test_an_id_that_a_new_server_gave_itself_makes_way(world, lost, filled):
    mine = places.server_id(lost.settings.state)
    seen = []
    report = lost.rebuild(take_over=lambda old, new: seen.append((old, new)))
    assert report.taken
    assert seen == [(mine, world.server)]
    assert places.server_id(lost.settings.state) == world.server


# -- bounds


def test_memory_for_files_asked_ahead_is_bounded(world):
    asked = {"now": 0, "most": 0}

    class Slow:
        def read(self, name, offset, size):
            asked["now"] += size
            asked["most"] = max(asked["most"], asked["now"])
            yield bytes(size)

    size = scan.BYTES_AHEAD // 4
    jobs = ((number, [(str(number), size)]) for number in range(20))
    for _what, answer in scan.fetched(Slow(), jobs):
        asked["now"] -= sum(map(len, answer))
    assert asked["most"] <= scan.BYTES_AHEAD + size


def test_a_folder_with_endless_files_is_no_dump(monkeypatch):
    from backupcore.hookspecs import Stored

    monkeypatch.setattr(scan, "FILES_LIMIT", 10)
    prefix = "web1/etc/20260101T000000Z-L0-01234567"
    listing = (Stored(f"{prefix}/{number}", 1) for number in range(1000))
    (folder,) = scan.folders(listing, scan.Seen())
    assert folder.crowded
    assert len(folder.sizes) == 10


def test_a_manifest_of_a_wrong_size_is_not_read(world, lost, filled):
    path = place(world, filled[3]) / "manifest.json"
    os.truncate(path, scan.SIZE_LIMIT + 1)
    target = lost.target()
    inner, read = target.read, []
    target.read = lambda name, *words: read.append(name) or inner(name, *words)
    report = lost.rebuild(target=target)
    assert report.left_count == 1
    assert not any(filled[3].id in name and name.endswith((".json", ".sig")) for name in read)


def test_the_report_is_ready_for_json(lost, filled):
    told = json.loads(json.dumps(lost.rebuild().as_dict()))
    assert told["added"] == 4
    assert len(hashlib.sha256(b"").hexdigest()) == len(told["signers"][0])


def test_what_somebody_hid_at_the_place_is_told(world, lost, filled):
    target = lost.target()
    target.hidden = lambda prefix="": iter(["web1/etc/a", "web1/etc/b"])
    report = lost.rebuild(target=target)
    assert report.added and any("2 files on nas are hidden by delete markers" in one.message for one in report.findings)


def test_a_place_where_all_is_hidden_is_not_called_empty(world, lost):
    (world.root / "nas/.stowage").mkdir(parents=True)
    target = lost.target()
    target.hidden = lambda prefix="": iter(["web1/etc/a"])
    with pytest.raises(NothingThatOld, match="1 files on nas are hidden by delete markers") as error:
        lost.rebuild(target=target)
    assert "docs/targets.md" in error.value.hint

"""Where bytes are read, how few of them, and that nothing is used unchecked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from maker import Node, expected, folder_node, received

from backupcore.catalog import places
from backupcore.catalog.records import CopyRow
from backupcore.errors import ImageDamaged, TargetRefused
from backupcore.image import frames, layout
from backupcore.image.manifest import Signer
from backupcore.restore import fetch
from backupcore.restore.images import Images

TREE = {b".": folder_node(), **{b"f%03d" % n: Node("f", os.urandom(3000)) for n in range(60)}}


def without_holding(maker, row):
    maker.catalog.set_holding(row.id, None)


def test_the_nearest_place_is_read(maker):
    row = maker.dump(TREE)
    maker.copy(row, "cloud", "s3")
    maker.copy(row, "nas", "directory")
    report, _peer = maker.restore("web1:/")
    assert [use.place for use in report.read_from] == ["holding"]
    without_holding(maker, row)
    report, peer = maker.restore("web1:/")
    assert [use.place for use in report.read_from] == ["nas"] and received(peer) == expected(TREE)
    report, _peer = maker.restore("web1:/", only="cloud")
    assert [use.place for use in report.read_from] == ["cloud"] and report.notes == []
    assert report.bytes_read == sum(length for _name, _at, length in maker.targets["cloud"].reads)


def test_one_file_costs_its_frames_and_the_tables_only(maker):
    row = maker.dump(TREE)
    cloud = maker.copy(row, "cloud", "s3")
    without_holding(maker, row)
    _report, peer = maker.restore("web1:/srv/data/f030")
    assert received(peer) == expected(TREE, keep=lambda path: path == b"f030")
    names = sorted(name for name, _at, _length in cloud.reads)
    assert names == ["frames.tsv.zst", "image-0000.tar.zst", "manifest.json", "manifest.sig"]
    (read,) = [length for name, _at, length in cloud.reads if name.startswith("image")]
    assert read < 3 * maker.frame


def test_neighbours_are_read_together_and_what_is_far_is_not():
    def frame(number, place, stored, part=0):
        return frames.Frame(part, number, place, stored, number * 10, 10, b"", 0)

    gap = fetch.GAP
    groups = fetch.join([
        frame(0, 0, 100), frame(1, 100, 100), frame(5, 200 + gap, 100), frame(9, 301 + 2 * gap, 5),
        frame(10, 0, 7, part=1),
    ])  # fmt: skip
    assert [(group.part, group.start, group.length) for group in groups] == [
        (0, 0, 300 + gap), (0, 301 + 2 * gap, 5), (1, 0, 7)
    ]  # fmt: skip
    big = [frame(number, number * (4 << 20), 4 << 20) for number in range(9)]
    assert [len(group.frames) for group in fetch.join(big)] == [4, 4, 1]


def test_a_whole_image_is_read_in_few_large_ranges(maker):
    row = maker.dump(TREE)
    cloud = maker.copy(row, "cloud", "s3")
    without_holding(maker, row)
    maker.restore("web1:/")
    reads = [read for read in cloud.reads if read[0].startswith("image")]
    assert len(reads) <= 2
    assert sum(length for _name, _at, length in reads) <= len(cloud.files[f"web1/data/{row.id}/image-0000.tar.zst"])


def test_a_damaged_frame_is_read_from_the_next_copy_and_said(maker):
    row = maker.dump(TREE)
    maker.copy(row, "cloud", "s3")
    maker.harm(row, 3)
    report, peer = maker.restore("web1:/")
    assert received(peer) == expected(TREE) and report.failed == []
    assert report.notes == [f"{row.id} on holding: frame 3 in image-0000.tar.zst is damaged"]
    assert report.status == "warn"
    (read,) = [length for name, _at, length in maker.targets["cloud"].reads if name.startswith("image")]
    assert read < 3 * maker.frame
    # and only where asked: a named place is not left for another
    report, _peer = maker.restore("web1:/", only="holding")
    assert report.exit_status == 1 and report.failed


def test_a_place_that_is_away_is_left_for_the_next_at_once(maker):
    row = maker.dump(TREE)
    maker.copy(row, "nas")
    maker.copy(row, "cloud", "s3")
    without_holding(maker, row)
    maker.targets["nas"].away = True
    report, peer = maker.restore("web1:/")
    assert received(peer) == expected(TREE) and "nobody answers" in report.notes[0]
    maker.targets["cloud"].away = True
    with pytest.raises(TargetRefused, match="target nas: nobody answers; target cloud: nobody answers"):
        maker.restore("web1:/")


def test_a_place_that_goes_away_on_the_way_is_left_for_the_next(maker):
    row = maker.dump(TREE)
    nas = maker.copy(row, "nas")
    maker.copy(row, "cloud", "s3")
    without_holding(maker, row)
    images = maker.images()
    images.reader(maker.catalog.dump(row.id)).table()
    nas.away = True
    report, peer = maker.restore("web1:/", images=images)
    assert received(peer) == expected(TREE) and {use.place for use in report.read_from} == {"nas", "cloud"}


def test_a_part_that_is_cut_still_gives_what_it_has(maker):
    row = maker.dump(TREE)
    path = Path(row.holding) / "image-0000.tar.zst"
    path.write_bytes(path.read_bytes()[:100_000])
    report, peer = maker.restore("web1:/")
    assert 0 < len(report.failed) < 40 and len(peer.tree) + len(report.failed) == len(TREE)
    whole = expected(TREE)
    assert all(whole[path] == found for path, found in received(peer).items())


def test_parts_follow_each_other(maker):
    maker.part = 20_000
    row = maker.dump(TREE)
    assert len(list(Path(row.holding).glob("image-*"))) > 5
    _report, peer = maker.restore("web1:/")
    assert received(peer) == expected(TREE)


@pytest.mark.parametrize("name", [layout.MANIFEST, layout.SIGNATURE, "frames.tsv.zst"])
@pytest.mark.parametrize("harm", ["turn", "cut", "gone", "grown"])
def test_nothing_of_an_image_is_used_whose_head_is_not_right(maker, name, harm):
    row = maker.dump(TREE)
    path = Path(row.holding) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes({"turn": bytes(data), "cut": path.read_bytes()[:-3], "grown": path.read_bytes() + b"\n"}[harm])
    with pytest.raises((ImageDamaged, TargetRefused), match=name.split(".")[0]):
        maker.restore("web1:/")


def test_a_manifest_by_an_unknown_key_is_refused(maker):
    row = maker.dump(TREE)
    for path in maker.settings.keys.iterdir():
        path.unlink()
    Signer.make(maker.settings.keys)
    with pytest.raises(ImageDamaged, match="sign"):
        maker.restore("web1:/")
    assert row.id


def test_a_rightly_signed_image_of_another_dump_is_refused(maker):
    import shutil

    first, second = maker.dump(TREE), maker.dump(TREE)
    shutil.rmtree(second.holding)
    shutil.copytree(first.holding, second.holding)
    with pytest.raises(ImageDamaged, match="not the one the catalog knows"):
        maker.restore("web1:/")


def test_an_index_is_fetched_from_a_target_when_the_server_lost_it(maker):
    row = maker.dump(TREE)
    cloud = maker.copy(row, "cloud", "s3")
    without_holding(maker, row)
    path = places.find_index(maker.settings.state, "web1", "data", row.id)
    path.unlink()
    _report, peer = maker.restore("web1:/srv/data/f001")
    assert received(peer) == expected(TREE, keep=lambda path: path == b"f001")
    assert path.is_file() and oct(path.stat().st_mode & 0o777) == "0o600"
    name = f"web1/data/{row.id}/index.tsv.zst"
    path.unlink()
    cloud.files[name] = cloud.files[name][:-1] + b"\0"
    with pytest.raises(ImageDamaged, match="index.tsv.zst is not what the manifest says"):
        maker.restore("web1:/srv/data/f001")
    assert list(path.parent.iterdir()) == []


def test_a_copy_that_is_not_whole_is_no_place_to_read(maker):
    row = maker.dump(TREE)
    maker.copy(row, "nas")
    for state in ("wanted", "copying", "failed", "expired"):
        maker.catalog.put_copy(CopyRow(row.id, "nas", state))
        assert [place.name for place in maker.images().places(row)] == ["holding"]


def test_a_dump_that_is_whole_nowhere_is_marked_as_no_base_for_others(maker):
    row = maker.dump(TREE)
    maker.copy(row, "nas")
    maker.harm(row, 3)
    maker.restore("web1:/")
    maker.restore("web1:/", only="holding")
    assert not maker.catalog.dump(row.id).damaged
    maker.targets["nas"].away = True
    report, _peer = maker.restore("web1:/")
    assert report.failed and not maker.catalog.dump(row.id).damaged  # the other copy may be good
    maker.targets["nas"].away = False
    for name in list(maker.targets["nas"].files):
        if "image" in name:
            del maker.targets["nas"].files[name]
    report, _peer = maker.restore("web1:/")
    assert report.failed and maker.catalog.dump(row.id).damaged
    assert any("no whole copy" in note for note in report.notes)


def test_a_target_that_cannot_be_opened_is_left_for_the_next(maker):
    row = maker.dump(TREE)
    maker.copy(row, "nas")
    maker.copy(row, "cloud", "s3")
    without_holding(maker, row)

    def opener(name):
        if name == "nas":
            raise TargetRefused("its credentials are gone")
        return maker.targets[name]

    images = Images(maker.settings, maker.catalog, opener)
    report, peer = maker.restore("web1:/", images=images)
    assert received(peer) == expected(TREE) and "credentials are gone" in report.notes[0]

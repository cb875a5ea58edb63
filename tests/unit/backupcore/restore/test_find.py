"""Finding by name, path and glob with all versions and deletions; listing the files of a moment; plans."""

from __future__ import annotations

import json
import shutil

import pytest
from maker import Node, expected, folder_node, received

from backupcore.catalog import places
from backupcore.errors import RequestError
from backupcore.restore import find, plan
from backupcore.restore.report import Options

SHARED = Node("f", b"s" * 900)
TREE = {
    b".": folder_node(), b"a": folder_node(), b"a/x.conf": Node("f", b"one"), b"a/y": Node("f", b"2" * 700),
    b"a/deep": folder_node(), b"a/deep/x.conf": Node("f", b"3"), b"-": Node("f", b"dash"),
    b"x.conf.old": Node("f", b"4"), b"tab\there": Node("f", b"5"), b"h1": SHARED, b"h2": SHARED,
    b"n": Node("n", link=b"socket"),
}  # fmt: skip


def versions(maker, pattern, images=None, **more):
    asked = find.Asked(pattern, **more)
    return list(find.find(maker.settings, maker.catalog, images or maker.images(), asked))


def found(maker, pattern, **more):
    return [
        (version.path.removeprefix(b"/srv/data/"), version.last, version.gone)
        for version in versions(maker, pattern, **more)
    ]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("x.conf", [b"a/x.conf", b"a/deep/x.conf"]),
        ("/srv/data/a/x.conf", [b"a/x.conf"]),
        ("web1:/srv/data/a/x.conf", [b"a/x.conf"]),
        ("deep/x.conf", [b"a/deep/x.conf"]),
        ("*.conf", [b"a/x.conf", b"a/deep/x.conf"]),
        ("x*", [b"x.conf.old", b"a/x.conf", b"a/deep/x.conf"]),
        ("/srv/**/x.conf", [b"a/x.conf", b"a/deep/x.conf"]),
        ("/srv/data/*.old", [b"x.conf.old"]),
        ("-", [b"-"]),
        ("tab\there", [b"tab\there"]),
        ("data", [b"/srv/data"]),
        ("/srv/data", [b"/srv/data"]),
        ("srv", []),
        ("y", [b"a/y"]),
        ("conf", []),
    ],
)
def test_what_is_found(maker, pattern, paths):
    row = maker.dump(TREE)
    assert found(maker, pattern) == [(path, row.id, None) for path in paths]


def test_a_part_of_a_name_and_letters_of_any_size(maker):
    row = maker.dump({**TREE, b"a/X.CONF": Node("f", b"6")})
    assert found(maker, "conf", substring=True) == [
        (path, row.id, None) for path in (b"x.conf.old", b"a/x.conf", b"a/deep/x.conf")
    ]
    assert found(maker, "ep/X.c", substring=True, ignore_case=True) == [(b"a/deep/x.conf", row.id, None)]
    assert found(maker, "x.CONF", ignore_case=True) == [
        (path, row.id, None) for path in (b"a/X.CONF", b"a/x.conf", b"a/deep/x.conf")
    ]
    assert found(maker, "*", larger=600) == [(path, row.id, None) for path in (b"h1", b"h2", b"a/y")]
    assert found(maker, "*", larger=600, smaller=800) == [(b"a/y", row.id, None)]


def test_no_more_paths_are_told_than_asked_for(maker):
    maker.dump(TREE)
    images = maker.images()
    shown = [one.path for one in versions(maker, "x*", images, limit=2)]
    assert shown == [b"/srv/data/x.conf.old", b"/srv/data/a/x.conf"]
    assert any("there is more" in note for note in images.notes)
    images = maker.images()
    assert len(versions(maker, "x*", images, limit=3)) == 3 and not images.notes


def test_each_content_once_with_its_first_and_last_dump_newest_first(maker):
    tree = dict(TREE)
    first = maker.dump(tree)
    second = maker.dump(tree)
    tree[b"a/x.conf"] = Node("f", b"two")
    third = maker.dump(tree, 1)
    fourth = maker.dump(tree, 2)
    tree[b"a/x.conf"] = Node("f", b"one", mtime_ns=5)
    fifth = maker.dump(tree, 2)
    del tree[b"a/x.conf"]
    sixth = maker.dump(tree)
    maker.dump(tree, 1)
    shown = [one.as_dict() for one in versions(maker, "/srv/data/a/x.conf")]
    assert [(one["first_dump"], one["dump"], one["dumps"], one["gone_dump"]) for one in shown] == [
        (first.id, fifth.id, 3, sixth.id), (third.id, fourth.id, 2, None)
    ]  # fmt: skip
    assert [one["size"] for one in shown] == [3, 3] and shown[0]["sha256"] != shown[1]["sha256"]
    assert shown[0]["mtime_ns"] == 5 and second.id not in str(shown)
    assert shown[0]["next"] == f"stowage restore web1:/srv/data/a/x.conf --at {fifth.id}"
    assert json.dumps(shown)
    assert [one.path for one in versions(maker, "*.conf", deleted=True)] == [b"/srv/data/a/x.conf"] * 2


def test_a_file_that_was_made_and_removed_between_two_fulls_is_gone_in_the_second(maker):
    tree = dict(TREE)
    maker.dump(tree)
    made = maker.dump({**tree, b"short": Node("f", b"life")}, 1)
    gone = maker.dump(tree, 1)
    assert found(maker, "short") == [(b"short", made.id, gone.id)]


def test_only_the_client_and_source_that_were_named_are_searched(maker):
    row = maker.dump(TREE)
    other = maker.dump(TREE, client="db1")
    assert {dump for _path, dump, _gone in found(maker, "y")} == {row.id, other.id}
    assert found(maker, "y", client="db1") == found(maker, "db1:/**/y") == [(b"a/y", other.id, None)]
    assert found(maker, "y", source="data", client="web1") == [(b"a/y", row.id, None)]
    for pattern, client, why in (("y", "db2", "unknown.*db2"), ("", None, "nothing"), ("db1:/y", "web1", "in one")):
        with pytest.raises(RequestError, match=why):
            found(maker, pattern, client=client)
    with pytest.raises(RequestError, match="no dump of web1:none"):
        found(maker, "y", client="web1", source="none")


def test_a_dump_that_cannot_be_searched_is_named_and_the_others_are(maker):
    bad = maker.dump(TREE)
    good = maker.dump(TREE)
    places.find_index(maker.settings.state, "web1", "data", bad.id).unlink()
    shutil.rmtree(bad.holding)
    for _time in range(2):
        images = maker.images()
        assert [(one.first, one.last) for one in versions(maker, "y", images)] == [(good.id, good.id)]
        assert any(bad.id in note and "not searched" in note for note in images.notes)


def test_an_index_that_rotted_is_fetched_again(maker):
    first = maker.dump(TREE)
    place = places.find_index(maker.settings.state, "web1", "data", first.id)
    data = place.read_bytes()
    place.write_bytes(data[: len(data) // 2])
    images = maker.images()
    assert [one.first for one in versions(maker, "y", images)] == [first.id] and place.read_bytes() == data
    assert any("fetched again" in note for note in images.notes)


def test_a_damaged_history_is_made_again_in_the_middle_of_a_search(maker):
    maker.dump(TREE)
    right = versions(maker, "*")
    (place,) = (maker.settings.state / "search").glob("*/*/*.history")
    data = bytearray(place.read_bytes())
    data[20] ^= 1  # in the rows of the only block
    place.write_bytes(data)
    images = maker.images()
    assert versions(maker, "*", images) == right
    assert any("made again" in note for note in images.notes)
    images = maker.images()
    assert versions(maker, "*", images) == right and not images.notes


def test_a_hard_link_has_the_content_of_its_first_name(maker):
    tree = dict(TREE)
    first = maker.dump(tree)
    alone = Node("f", SHARED.data)
    last = maker.dump({path: node for path, node in tree.items() if path != b"h1"} | {b"h2": alone})
    (one,) = versions(maker, "h2")
    assert (one.first, one.last, one.dumps, one.size) == (first.id, last.id, 2, 900)
    (other,) = versions(maker, "h1")
    assert other.sha256 == one.sha256 and other.gone == last.id


def test_find_keeps_what_it_read_and_forgets_what_retention_removed(maker):
    rows = [maker.dump(TREE), maker.dump({**TREE, b"late": Node("f", b"x")})]
    assert [one.dumps for one in versions(maker, "y")] == [2]
    shutil.rmtree(maker.settings.state / "index")
    for row in rows:
        shutil.rmtree(row.holding)
    assert [(one.first, one.dumps) for one in versions(maker, "y")] == [(rows[0].id, 2)]
    with maker.catalog._write() as connection:  # as prune does
        connection.exec_driver_sql("DELETE FROM dumps WHERE id = ?", (rows[0].id,))
    assert [(one.first, one.dumps) for one in versions(maker, "y")] == [(rows[1].id, 1)]


def test_who_may_not_write_searches_all_the_same(maker, monkeypatch):
    row = maker.dump(TREE)

    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    real = find.store.update
    monkeypatch.setattr(
        find.store, "update",
        lambda state, *args, **more: refuse() if state == maker.settings.state else real(state, *args, **more),
    )  # fmt: skip
    images = maker.images()
    assert [one.first for one in versions(maker, "y", images)] == [row.id]
    assert any("Permission denied" in note for note in images.notes)


@pytest.fixture(params=["histories", "indexes"])
def way(request, maker):
    """A list comes out of the search's histories when they are up to date, else out of the indexes: the same list."""
    if request.param == "histories":
        real = maker.dump

        def dump(*args, **more):
            row = real(*args, **more)
            find.bring(maker.settings.state, maker.images(), maker.catalog.dumps())
            return row

        maker.dump = dump
    return request.param


def listed(maker, *words, recursive=False, at=None):
    rows = find.list_files(maker.images(), maker.wanted(*words, at=at), recursive)
    return [one.path.removeprefix(b"/srv/data/") for one in rows]


def test_a_folder_lists_what_is_in_it(maker, way):
    maker.dump(TREE)
    tops = [b"-", b"h1", b"h2", b"n", b"tab\there", b"x.conf.old", b"a"]
    assert listed(maker, "web1:/srv/data") == listed(maker, "web1", "data") == tops
    assert listed(maker, "web1:/srv/data/a") == [b"a/x.conf", b"a/y", b"a/deep"]
    assert listed(maker, "web1:/srv/data/a/y") == [b"a/y"]
    assert listed(maker, "web1:/srv/data/a/*") == [b"a/x.conf", b"a/y", b"a/deep"]
    assert listed(maker, "web1:/") == [b"/srv/data"]
    assert listed(maker, "web1:/srv/data/a", recursive=True) == [b"a", b"a/x.conf", b"a/y", b"a/deep", b"a/deep/x.conf"]
    (one,) = find.list_files(maker.images(), maker.wanted("web1:/srv/data/tab\there"))
    assert one.as_dict()["path"] == "/srv/data/tab\\x09here" and one.kind == "f" and one.size == 1


def test_a_list_is_that_of_its_moment(maker, way):
    tree = dict(TREE)
    first = maker.dump(tree)
    del tree[b"a/y"]
    tree[b"a/z"] = Node("f", b"z")
    maker.dump(tree, 1)
    assert listed(maker, "web1:/srv/data/a") == [b"a/x.conf", b"a/z", b"a/deep"]
    assert listed(maker, "web1:/srv/data/a", at=first.begun_ns) == [b"a/x.conf", b"a/y", b"a/deep"]
    with pytest.raises(RequestError, match="was not there"):
        listed(maker, "web1:/srv/data/a/y")


def planned(maker, *words, **options):
    return plan.plan(maker.images(), maker.wanted(*words), Options(**options))


def test_a_plan_says_what_would_be_read_and_reads_no_image(maker):
    tree = dict(TREE)
    first = maker.dump(tree)
    tree[b"a/y"] = Node("f", b"y" * 3000)
    second = maker.dump(tree, 1)
    maker.copy(first, "nas")
    nas = maker.copy(second, "nas")
    for row in (first, second):
        maker.catalog.set_holding(row.id, None)
    one = planned(maker, "web1:/srv/data/a/y", destination="/tmp/x", existing="keep")
    assert (one.entries, one.files, one.files_bytes, one.destination) == (1, 1, 3000, "/tmp/x")
    assert [(use.dump, use.place, use.bytes > 0) for use in one.dumps] == [
        (first.id, "nas", False), (second.id, "nas", True)
    ]  # fmt: skip
    assert one.dump == second.id and not any(name.startswith("image") for name, _at, _length in nas.reads)
    whole = planned(maker, "web1:/")
    assert whole.entries == sum(node.kind != "n" for node in tree.values()) and "scratch" in whole.destination
    nas.reads.clear()
    report, peer = maker.restore("web1:/")
    read = sum(length for name, _at, length in nas.reads if name.startswith("image"))
    assert read == whole.bytes and received(peer) == expected(tree) and report.bytes_read > read
    assert any("known to the client only" in note for note in whole.notes)
    assert json.dumps(whole.as_dict()) and json.dumps(report.as_dict())


def test_a_plan_of_a_full_counts_as_one_of_a_chain(maker):
    maker.dump(TREE)
    full = planned(maker, "web1:/")
    maker.dump(TREE, 1)
    chain = planned(maker, "web1:/")
    assert (full.entries, full.files, full.files_bytes) == (chain.entries, chain.files, chain.files_bytes)
    with pytest.raises(RequestError, match="was not there"):
        planned(maker, "web1:/srv/data/nothing")

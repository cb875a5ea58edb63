"""What words mean: clients, sources, paths, globs, moments; and what is said when they mean nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from maker import BEGIN, SECOND, Node, folder_node, received

from backupcore.catalog.records import CopyRow
from backupcore.errors import NothingThatOld, RequestError
from backupcore.restore import request
from backupcore.restore.report import path_word, shell_word

TREE = {
    b".": folder_node(), b"a": folder_node(), b"a/x.conf": Node("f", b"1"), b"a/y": Node("f", b"2"),
    b"a/deep": folder_node(), b"a/deep/z.conf": Node("f", b"3"), b"[b]": Node("f", b"4"), b"b": Node("f", b"5"),
    b"\xff": Node("f", b"6"), b"sp ace": Node("f", b"7"),
}  # fmt: skip


def names(maker, *words, **more):
    _report, peer = maker.restore(*words, **more)
    return sorted(path.removeprefix(b"/srv/data").lstrip(b"/") or b"." for path in received(peer))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["web1:/srv/data/a/y"], [b"a/y"]),
        (["web1:/srv/data/a/y/"], [b"a/y"]),
        (["web1://srv/./data/a/y"], [b"a/y"]),
        (["web1:/srv/data/a"], [b"a", b"a/deep", b"a/deep/z.conf", b"a/x.conf", b"a/y"]),
        (["web1:/srv/data/a/y", "/srv/data/b"], [b"a/y", b"b"]),
        (["web1:/srv/data/a/y", "web1:/srv/data/a"], [b"a", b"a/deep", b"a/deep/z.conf", b"a/x.conf", b"a/y"]),
        (["web1:/srv/data/*/*.conf"], [b"a/x.conf"]),
        (["web1:/srv/data/**/*.conf"], [b"a/deep/z.conf", b"a/x.conf"]),
        (["web1:/srv/**/z.conf"], [b"a/deep/z.conf"]),
        (["web1:/**/deep"], [b"a/deep", b"a/deep/z.conf"]),
        (["web1:/srv/data/a/?"], [b"a/y"]),
        (["web1:/srv/data/[ab]"], [b"a", b"a/deep", b"a/deep/z.conf", b"a/x.conf", b"a/y", b"b"]),
        (["web1:/srv/data/[!a-z]"], [b"\xff"]),
        (["web1:/srv/data/[b]"], [b"[b]", b"b"]),
        (["web1:/srv/data/\\[b\\]"], [b"[b]"]),
        (["web1:/srv/data/\udcff"], [b"\xff"]),
        (["web1", "data", "a/y"], [b"a/y"]),
        (["web1", "data", "/srv/data/a/y", "b"], [b"a/y", b"b"]),
        (["web1", "data", "*/y"], [b"a/y"]),
    ],
)
def test_words_name_what_they_say(maker, words, found):
    maker.dump(TREE)
    assert names(maker, *words) == sorted(found)


def test_everything_is_meant_by_the_root_by_the_source_and_by_what_lies_above(maker):
    maker.dump(TREE)
    for words in (["web1:/"], ["web1:/srv"], ["web1:/srv/data"], ["web1", "data"], ["web1:/srv/*"], ["web1:/*"]):
        assert names(maker, *words) == sorted(TREE)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "nothing to restore"),
        (["web1"], "no CLIENT:/PATH"),
        (["web1:"], "no absolute path"),
        (["web1:etc"], "no absolute path"),
        (["web1", "/etc"], "no CLIENT:/PATH"),
        (["web2:/"], "unknown client 'web2', did you mean 'web1'"),
        (["web1", "date"], "unknown source of web1 'date', did you mean 'data'"),
        (["web1:/etc"], "no source of web1 covers /etc"),
        (["web1", "data", "/etc"], "not below /srv/data"),
        (["web1:/srv/data/../x"], "holds '..'"),
        (["web1:/srv/data/a", "db1:/x"], "one restore"),
        (["web1:/srv/data/nothing"], "web1:/srv/data/nothing was not there"),
        (["web1:/srv/data/a", "web1:/srv/data/*.none"], "none was not there"),
        (["web1:/srv/data/\x1b[31m"], r"\\x1b"),
        (["../x:/srv"], "no CLIENT:/PATH"),
        ([".x:/srv"], "cannot name a client"),
    ],
)
def test_what_means_nothing_is_said_in_one_line_with_the_next_step(maker, words, why):
    maker.dump(TREE)
    with pytest.raises(RequestError, match=why) as caught:
        maker.restore(*words)
    assert caught.value.exit_status == 2 and caught.value.hint and "\n" not in caught.value.message


def test_the_newest_dump_begun_at_or_before_counts(maker):
    rows = [maker.dump(TREE), maker.dump(TREE, 1), maker.dump(TREE)]
    for at, row in (
        (None, rows[2]), (rows[2].begun_ns, rows[2]), (rows[2].begun_ns - 1, rows[1]), (rows[0].begun_ns, rows[0])
    ):  # fmt: skip
        (wanted,) = maker.wanted("web1:/", at=at)
        assert wanted.dump.id == row.id
    assert [row.id for row in maker.wanted("web1:/", at=rows[1].begun_ns)[0].chain] == [rows[0].id, rows[1].id]
    with pytest.raises(NothingThatOld, match="the oldest is from") as caught:
        maker.wanted("web1:/", at=rows[0].begun_ns - 1)
    assert caught.value.exit_status == 1


def test_a_source_without_a_dump_says_how_to_make_one(maker):
    with pytest.raises(NothingThatOld, match="no dump yet") as caught:
        maker.wanted("web1:/srv/data/x")
    assert caught.value.hint == "stowage run --client web1 --source data"


def test_a_dump_that_nothing_holds_any_more_is_passed_over(maker):
    first = maker.dump(TREE)
    second = maker.dump(TREE, 1)
    maker.catalog.set_holding(second.id, None)
    assert maker.wanted("web1:/")[0].dump.id == first.id
    maker.copy(second, "nas")
    assert maker.wanted("web1:/")[0].dump.id == second.id
    maker.catalog.put_copy(CopyRow(second.id, "nas", "expired"))
    assert maker.wanted("web1:/")[0].dump.id == first.id
    maker.catalog.set_holding(first.id, None)
    with pytest.raises(NothingThatOld, match="can all be read"):
        maker.wanted("web1:/")


def test_from_a_place_the_newest_dump_counts_that_is_whole_there(maker):
    first = maker.dump(TREE)
    maker.copy(first, "nas")
    second = maker.dump(TREE, 1)
    assert maker.wanted("web1:/", only="nas")[0].dump.id == first.id
    assert maker.wanted("web1:/", only="holding")[0].dump.id == second.id
    with pytest.raises(RequestError, match="unknown target 'tape'"):
        maker.images(only="tape")


def test_a_client_that_is_no_longer_configured_can_be_restored(maker):
    maker.dump(TREE, client="old1")
    assert "old1" not in maker.settings.clients
    report, peer = maker.restore("old1:/srv/data/a/y")
    assert received(peer) and report.client == "old1"


def test_the_longest_prefix_wins_and_sources_below_come_too(maker):
    maker.declare("srv", "/srv")
    maker.declare("log", "/var/log")
    maker.dump(TREE)
    tree = {b".": folder_node(), b"data": folder_node(), b"other": Node("f", b"o")}
    outer = maker.dump(tree, source="srv", root="/srv")
    maker.dump({b".": folder_node(), b"m": Node("f", b"m")}, source="log", root="/var/log")

    def sources(word, **more):
        return [(one.source, one.without) for one in maker.wanted(word, **more)]

    assert sources("web1:/srv/data/a") == [("data", ())]
    assert sources("web1:/srv/other") == [("srv", ())]
    assert sources("web1:/srv") == [("srv", (b"data",)), ("data", ())]
    assert sources("web1:/") == [("srv", (b"data",)), ("data", ()), ("log", ())]
    assert sources("web1:/var") == [("log", ())]
    # where the inner source has no dump that old, the outer one has what lies there
    assert sources("web1:/srv/data", at=outer.begun_ns) == [("data", ())]
    gone = replace(maker.settings.clients["web1"], sources={})
    maker.settings = replace(maker.settings, clients={"web1": gone})
    assert sources("web1:/srv/data/a") == [("data", ())]


def test_a_source_that_was_taken_out_of_the_configuration_is_restored_by_name_only(maker):
    maker.declare("new", "/srv/new")
    maker.dump(TREE, source="was", root="/srv/was")
    maker.dump(TREE, source="new", root="/srv/new")
    assert [one.source for one in maker.wanted("web1:/srv")] == ["new"]
    assert [one.source for one in maker.wanted("web1:/srv/was/a")] == ["was"]
    assert [one.source for one in maker.wanted("web1", "was")] == ["was"]


def test_globs_never_cross_a_slash_but_two_stars_do():
    match = lambda glob, path: bool(request.glob_regex(glob, below=False).match(path))  # noqa: E731
    assert match(b"/a/*", b"/a/b") and not match(b"/a/*", b"/a/b/c")
    assert match(b"/a/**", b"/a/b/c") and match(b"/**/c", b"/c") and match(b"/**/c", b"/a/b/c")
    assert match(b"/a/?", b"/a/\n") and not match(b"/a?b", b"/a/b") and not match(b"/a[!x]b", b"/a/b")
    assert match(b"/a/[]]", b"/a/]") and match(b"/a/[a-c]", b"/a/b") and match(b"/a/\\*", b"/a/*")
    assert match(b"/a/[", b"/a/[") and match(b"/a.b", b"/a.b") and not match(b"/a.b", b"/axb")
    with pytest.raises(RequestError, match="no glob"):
        request.glob_regex(b"/a/[z-a]")


def test_words_of_a_next_command_mean_the_very_path(maker):
    import subprocess

    paths = [b"a b", b"it's", b"new\nline", b"\xff\xfe", b"*", b"[x]", b"back\\slash", b"\xc3\xbc", b"\x1b[31m", b"-"]
    tree = {b".": folder_node(), **{path: Node("f", path) for path in paths}}
    maker.dump(tree, at=BEGIN + 3 * SECOND)
    for path in paths:
        typed = path_word("web1", b"/srv/data/" + path)
        assert typed.isprintable()
        word = subprocess.run(["bash", "-c", f"printf %s {typed}"], stdout=subprocess.PIPE, check=True).stdout
        assert names(maker, word.decode("utf-8", "surrogateescape")) == [path]
    assert shell_word("plain") == "plain"


def test_a_source_that_has_no_dump_of_the_moment_is_named_when_the_others_are_restored(maker):
    maker.declare("etc", "/etc")
    first = maker.dump(TREE)
    report, _peer = maker.restore("web1:/")
    assert report.notes == ["web1:etc has no dump yet"] and report.status == "warn"
    maker.dump(TREE, source="etc", root="/etc")
    report, _peer = maker.restore("web1:/", at=first.begun_ns)
    assert "web1:etc has no dump from" in report.notes[0]
    report, _peer = maker.restore("web1:/")
    assert report.notes == []
    with pytest.raises(NothingThatOld, match="web1:etc"):
        maker.restore("web1:/etc", at=first.begun_ns)


def test_an_older_dump_in_the_place_of_one_that_cannot_be_read_is_said(maker):
    maker.dump({b".": folder_node(), b"a": Node("f", b"old")})
    newer = maker.dump({b".": folder_node(), b"a": Node("f", b"new")})
    assert maker.wanted("web1:/srv/data")[0].notes == ()
    maker.catalog.set_holding(newer.id, None)
    (wanted,) = maker.wanted("web1:/srv/data")
    assert f"the dump {newer.id} from" in wanted.notes[0] and wanted.dump.id in wanted.notes[0]
    report, _peer = maker.restore("web1:/srv/data")
    assert report.status == "warn" and any(newer.id in note for note in report.notes)

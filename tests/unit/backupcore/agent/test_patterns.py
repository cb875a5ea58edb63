"""exclude and include: what a pattern means."""

from __future__ import annotations

import pytest

from backupcore.agent.patterns import IN, OUT, PARENT, Exclude, Include, check


@pytest.mark.parametrize("pattern, path, is_dir, found", [
    ("*.tmp", "a.tmp", False, True), ("*.tmp", "x/y/a.tmp", True, True), ("*.tmp", "a.tmpx", False, False),
    ("cache", "a/cache", True, True), ("cache/", "a/cache", True, True), ("cache/", "a/cache", False, False),
    ("/cache", "cache", True, True), ("/cache", "a/cache", True, False), ("a/b", "a/b", False, True),
    ("a/b", "x/a/b", False, False), ("cache/**", "cache", True, False), ("cache/**", "cache/x", False, True),
    ("cache/**", "cache/x/y", False, True), ("**/log", "log", False, True), ("**/log", "a/b/log", False, True),
    ("a/**/z", "a/z", False, True), ("a/**/z", "a/b/c/z", False, True), ("a/**/z", "az", False, False),
    ("a/*", "a/b", False, True), ("a/*", "a/b/c", False, False), ("?", "é", False, True), ("?", "ab", False, False),
    ("[a-c]x", "bx", False, True), ("[!a-c]x", "bx", False, False), ("[!a-c]x", "dx", False, True),
    ("[]]", "]", False, True), ("[", "[", False, True), ("\\*", "*", False, True), ("\\*", "x", False, False),
    ("a.b", "axb", False, False), ("*", "new\nline", False, True), ("new\n*", "new\nline", False, True),
    ("ä*", "äx", False, True), ("(a|b)+", "(a|b)+", False, True), ("a**", "abc", False, True),
])  # fmt: skip
def test_exclude(pattern, path, is_dir, found):
    raw = path.encode()
    assert Exclude([pattern]).matches(raw, raw.rpartition(b"/")[2], is_dir) is found
    assert Exclude(["nothing", pattern, "/other"]).matches(raw, raw.rpartition(b"/")[2], is_dir) is found


def test_a_name_of_any_bytes_matches():
    assert Exclude(["*.tmp"]).matches(b"\xff.tmp", b"\xff.tmp", False)
    assert Exclude([b"\xff*".decode("utf-8", "surrogateescape")]).matches(b"\xff\xfe", b"\xff\xfe", False)


@pytest.mark.parametrize("patterns, path, is_dir, found", [
    (["/home/a"], "home", True, PARENT), (["/home/a"], "home", False, OUT), (["/home/a"], "home/a", True, IN),
    (["/home/a"], "home/a/b/c", False, IN), (["/home/a"], "home/b", True, OUT), (["home/a/"], "home/a", True, IN),
    (["/home/*/mail"], "home/x", True, PARENT), (["/home/*/mail"], "home/x/mail/y", False, IN),
    (["/home/*/mail"], "home/x/other", False, OUT), (["**/mail"], "a/b", True, PARENT),
    (["**/mail"], "a/b/mail", True, IN), (["**/mail"], "mail/x", False, IN), (["a/**"], "a/b", False, IN),
    (["a", "b/c"], "b", True, PARENT), (["a", "b/c"], "a/x", False, IN), (["a", "b/c"], "c", True, OUT),
])  # fmt: skip
def test_include(patterns, path, is_dir, found):
    assert Include(patterns).matches(path.encode(), is_dir) == found


@pytest.mark.parametrize("pattern", ["", "/", "a//b", "../x", "a/./b", "!x", "[z-a]", "[ä]", "a\0b"])
def test_a_pattern_that_can_match_nothing_is_an_error(pattern):
    with pytest.raises(ValueError):
        check(pattern)
    with pytest.raises(ValueError):
        Exclude([pattern])

"""Names that the conformance suite of targets tries: what no place may take, what each must, what others put there."""

from __future__ import annotations

UNSAFE = ["", "/etc/passwd", "../up", "a/../b", "a/..", "./a", "a//b", "a/", "a\x00b", "a\nb", "a\\b", "x" * 300]
UNSAFE += ["a/" * 500 + "b", "half\ud800"]
NAMES = [".stowage/0123456789abcdef", "a/b/c/d/e/f", "with space", "plus+and%25&=?#", "ümläut/日本", "~-_.!*'()"]
NAMES += ["a/-rf", "a/...", "a/..b", "a/b..", "a/$HOME", "a/`x`", "a/'\"", "a/*?[x]", "a/ lead", "a/trail ", "a/{name}"]
HOSTILE = [b"p/back\\slash", b"p/new\nline", b"p/\xff\xfe", b"p/\x1b[31m", b"p/tab\t1\t2"]

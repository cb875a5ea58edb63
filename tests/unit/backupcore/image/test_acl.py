"""ACLs: text and bytes, against the kernel and setfacl."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.image import acl

entries = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([1, 4, 0x10, 0x20]), st.integers(0, 7), st.just(0xFFFFFFFF)),
        st.tuples(st.sampled_from([2, 8]), st.integers(0, 7), st.integers(0, 0xFFFFFFFF)),
    ),
    max_size=40,
)


@given(entries)
def test_any_acl_comes_back(listed):
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in listed)

    assert acl.from_text(acl.to_text(raw)) == raw
    assert acl.from_text(acl.to_text(raw).replace(b",", b"\n") + b"\n") == raw


def test_what_setfacl_sets_is_what_getfacl_says(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    subprocess.run(["setfacl", "-m", "u:1234:rx,u:2500001:w,g:77:r", path], check=True)
    said = subprocess.run(["getfacl", "-nc", path], capture_output=True, check=True).stdout
    text = acl.to_text(os.getxattr(path, "system.posix_acl_access"))

    assert text.split(b",") == [line.split(b"\t")[0] for line in said.split(b"\n") if line]


@pytest.mark.parametrize(
    "raw",
    [b"", b"\2\0\0", b"\1\0\0\0", b"\2\0\0\0\1", struct.pack("<IHHI", 2, 3, 7, 0), struct.pack("<IHHI", 2, 1, 8, 0)],
)
def test_bytes_that_are_no_acl_are_refused(raw):
    with pytest.raises(ValueError):
        acl.to_text(raw)


@pytest.mark.parametrize(
    "text", [b"user", b"user::rwxx", b"user::7", b"user:bob:rwx", b"mask:5:rwx", b"user:4294967296:rwx", b"user::rwx,,"]
)
def test_text_that_is_no_acl_is_refused(text):
    with pytest.raises(ValueError):
        acl.from_text(text)

"""A permit is believed only when the client's own root alone can have written it, for this very restore."""

from __future__ import annotations

import json
import os
import time

import pytest

from backupcore.agent import permit
from backupcore.errors import AgentRefused, RequestError

DUMP = "20261122T170000Z-L0-0123abcd"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "permit"
    path.mkdir(mode=0o700)
    return path


def write(folder, name="p1", mode=0o600, **changes):
    value = {"schema": 1, "id": "p1", "dump": DUMP, "paths": ["/etc/nginx"], "destination": "/",
             "expires": time.time() + 3600, **changes}  # fmt: skip
    path = folder / name
    path.write_text(json.dumps(value))
    path.chmod(mode)
    return path


def read(folder, name="p1", dump=DUMP, destination=b"/", now=None):
    return permit.read_permit(str(folder), name, dump, destination, now)


def refused(folder, why, *args, **more):
    with pytest.raises(AgentRefused, match=why):
        read(folder, *args, **more)


def test_a_good_permit_covers_its_paths_and_what_is_below(folder):
    write(folder, paths=["/etc/nginx", "/srv/one file"])
    found = read(folder)
    assert found.covers(b"/etc/nginx") and found.covers(b"/etc/nginx/a/b") and found.covers(b"/srv/one file")
    for path in (b"/etc", b"/etc/nginx2", b"/etc/ngin", b"/", b"/srv"):
        assert not found.covers(path)
    assert found.leads_to(b"/etc") and found.leads_to(b"/") and not found.leads_to(b"/var")
    assert not found.leads_to(b"/et")


def test_the_root_covers_everything(folder):
    write(folder, paths=["/"])
    assert read(folder).covers(b"/") and read(folder).covers(b"/x/y")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602, 0o700])
def test_a_permit_with_other_rights_than_0600_is_refused(folder, mode):
    write(folder, mode=mode)
    refused(folder, "mode 0600")


def test_a_permit_of_another_user_is_refused(folder):
    os.chown(write(folder), 1000, 0)
    refused(folder, "must be root's")


def test_a_folder_that_others_can_change_is_refused(folder):
    write(folder)
    folder.chmod(0o777)
    refused(folder, "not root's alone")


def test_a_folder_of_another_user_is_refused(folder):
    write(folder)
    os.chown(folder, 1000, 0)
    refused(folder, "not root's alone")


def test_a_link_is_no_permit(folder):
    write(folder, "real")
    (folder / "p1").symlink_to("real")
    refused(folder, "is a link")


def test_a_file_with_a_second_name_is_no_permit(folder):
    os.link(write(folder), folder / "other")
    refused(folder, "no plain file")


def test_a_fifo_does_not_stop_the_agent(folder):
    os.mkfifo(folder / "p1", 0o600)
    refused(folder, "no plain file")


def test_a_linked_folder_is_refused(folder, tmp_path):
    write(folder)
    (tmp_path / "link").symlink_to(folder)
    refused(tmp_path / "link", "is not there")


def test_it_ends_when_it_expires_and_never_lasts_longer_than_a_day(folder):
    now = 1_800_000_000.0
    write(folder, expires=now + 100)
    assert read(folder, now=now).expires == now + 100
    refused(folder, "has expired", now=now + 100)
    write(folder, expires=now + 24 * 3600 + 1)
    refused(folder, "more than 24 hours", now=now)


@pytest.mark.parametrize("expires", ["tomorrow", None, True, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(folder, expires):
    write(folder, expires=expires)
    refused(folder, "permit p1")


def test_it_is_for_one_dump_and_one_destination(folder):
    write(folder)
    refused(folder, "is for dump", dump="20261122T170000Z-L0-ffffffff")
    refused(folder, "is for destination /, not for /srv", destination=b"/srv")


def test_a_permit_under_another_name_is_refused(folder):
    write(folder, "p2")
    refused(folder, "under another name", name="p2")


@pytest.mark.parametrize("name", ["../p1", "", ".", "..", "a/b", "p1\0", "-x"])
def test_names_that_are_none_never_become_a_path(folder, name):
    write(folder)
    refused(folder, "cannot name a permit", name=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2}, {"paths": []}, {"paths": "/"}, {"paths": ["etc"]}, {"paths": ["/etc/../root"]}, {"paths": [1]},
        {"paths": ["/etc/"]}, {"paths": ["//etc"]}, {"destination": "relative"}, {"destination": None}, {"more": 1},
    ],
)  # fmt: skip
def test_content_that_is_none_is_refused(folder, changes):
    write(folder, **changes)
    refused(folder, "permit p1")


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100000, '{"schema": 1}'])
def test_files_that_are_no_permit_are_refused(folder, text):
    write(folder).write_text(text)
    refused(folder, "permit p1")


def test_a_missing_permit_is_refused(folder):
    refused(folder, "is not there")


def test_a_path_may_hold_bytes_that_are_no_utf_8(folder):
    write(folder, paths=["/srv/\udcff"])
    assert read(folder).covers(b"/srv/\xff/x")


# ---------------------------------------------------------------- the scratch folder


def test_the_scratch_folder_is_made_for_root_alone(tmp_path):
    scratch = tmp_path / "var" / "restore"
    fd, path = permit.open_scratch({"scratch": str(scratch)}, "web1-etc")
    os.close(fd)
    assert path == os.fsencode(scratch / "web1-etc")
    assert scratch.stat().st_mode & 0o7777 == 0o700 and (scratch / "web1-etc").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("name", ["..", "a/b", "", ".", "/etc", "a\0b", "x/../.."])
def test_a_scratch_name_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(RequestError):
        permit.open_scratch({"scratch": str(tmp_path / "restore")}, name)
    assert not (tmp_path / "restore").exists()


def test_a_scratch_folder_that_others_may_enter_or_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("own")
    (tmp_path / "own" / "inner").symlink_to("/etc")
    os.mkdir(tmp_path / "theirs", 0o700)
    os.chown(tmp_path / "theirs", 1000, 1000)
    for name, inner in (("open", "x"), ("link", "x"), ("own", "inner"), ("theirs", "x")):
        with pytest.raises(AgentRefused):
            permit.open_scratch({"scratch": str(tmp_path / name)}, inner)


def test_a_destination_is_never_reached_through_a_link(tmp_path):
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    os.close(permit.open_destination(os.fsencode(tmp_path / "real" / "in" / "new")))
    assert (tmp_path / "real" / "in" / "new").is_dir()
    with pytest.raises(AgentRefused, match="link or no folder"):
        permit.open_destination(os.fsencode(tmp_path / "link" / "in"))

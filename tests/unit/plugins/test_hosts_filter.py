"""What people type, and the lines a playbook ends in."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.stowage.backup.plugins.filter import hosts as filters

CLIENTS = {"web01.acme.lan": "web01.acme.lan", "web02.acme.lan": "x", "db.acme.lan": "y", "db.other.lan": "z"}
CHECK = {
    "ready": ["web01.acme.lan"],
    "away": [],
    "findings": [
        {"status": "FAIL", "area": "client", "name": "db.acme.lan", "message": "does not answer", "hint": "start it"},
        {"status": "OK", "area": "client", "name": "web01.acme.lan", "message": "agent 0.1.0", "hint": ""},
        {"status": "WARN", "area": "server", "name": "configuration", "message": "no target is configured", "hint": ""},
    ],
    "not_covered": [{"client": "web01.acme.lan", "path": "/var/lib/mysql", "bytes": 38_000_000_000}],
}


@pytest.mark.parametrize(
    "word, name", [("web01", "web01.acme.lan"), ("web02.acme.lan", "web02.acme.lan"), ("gone", "gone")]
)
def test_a_short_name_means_the_one_client_that_begins_so(word, name):
    assert filters.client_name(word, CLIENTS) == name


def test_a_short_name_of_two_clients_is_refused_and_both_are_named():
    with pytest.raises(AnsibleFilterError, match="db.acme.lan or db.other.lan"):
        filters.client_name("db", CLIENTS)


@pytest.mark.parametrize(
    "what, words",
    [
        ("web01:/etc/nginx", ["web01.acme.lan:/etc/nginx"]),
        ("web01:/home/a b", ["web01.acme.lan:/home/a b"]),
        ("web01 etc nginx 'a b'", ["web01.acme.lan", "etc", "nginx", "a b"]),
        (["web01:/etc", "/home"], ["web01.acme.lan:/etc", "/home"]),
    ],
)
def test_restore_what_becomes_words_of_the_command(what, words):
    assert filters.restore_words(what, CLIENTS) == words


def test_nothing_to_restore_is_an_error_with_an_example():
    with pytest.raises(AnsibleFilterError, match="restore_what=CLIENT:/PATH"):
        filters.restore_words("", CLIENTS)


@pytest.mark.parametrize(
    "paths, words, covered",
    [
        (["/etc/nginx"], [], ["/etc/nginx"]),
        (["/etc/*.conf", "/etc/[ab]"], [], ["/etc"]),
        (["/a\\x0ab"], ["web1:/a\nb/"], ["/a\nb"]),
        (["/"], ["web1:/"], ["/"]),
    ],
)
def test_a_permit_covers_what_is_asked_for_and_no_more(paths, words, covered):
    assert filters.permit_paths(paths, words) == covered


def test_two_hosts_that_are_one_client_are_refused():
    with pytest.raises(AnsibleFilterError, match="both the client web"):
        filters.client_hosts(["a", "b"], {"a": {"backup_client_name": "web"}, "b": {"backup_client_name": "web"}})


def test_site_ends_in_one_line_that_says_all():
    line = filters.site_line(CHECK, "21:30", True, ["old.acme.lan"])
    assert line == (
        "1 of 2 clients ready (not db), first fulls from 21:30; not covered: web01:/var/lib/mysql (38 GB); "
        "warning: no target is configured; no longer in the inventory: old"
    )
    assert "first fulls" not in filters.site_line(CHECK, "21:30", False)


@pytest.mark.parametrize("first, told", [
    ({"sources": 9, "nights": 3}, "first fulls from 21:30 over 3 nights;"),
    ({"sources": 2, "nights": 1}, "first fulls from 21:30;"),
    ({"sources": 0, "nights": 0}, "nights from 21:30;"),
    (None, "first fulls from 21:30;"),
])  # fmt: skip
def test_site_says_over_how_many_nights_the_first_fulls_are(first, told):
    assert f", {told}" in filters.site_line(CHECK, "21:30", True, (), first)
    assert "21:30" not in filters.site_line(CHECK, "21:30", False, (), first)


def test_an_address_is_not_shortened():
    assert filters.short_names(["10.0.0.1", "web1.a", "web1.b", "db.a"]) == {
        "10.0.0.1": "10.0.0.1", "web1.a": "web1.a", "web1.b": "web1.b", "db.a": "db",
    }  # fmt: skip


def test_what_failed_is_shown_with_its_next_step():
    assert filters.shown_check(CHECK)[0] == "FAIL db.acme.lan: does not answer -> start it"
    assert filters.shown_check(CHECK)[-1] == "1 of 2 clients ready"


def test_the_servers_of_hosts_are_found_without_them_in_the_play():
    hostvars = {"web": {}, "far": {"backup_client_server": "backup2"}, "backup1": {}}
    assert filters.site_servers(["web"], hostvars, ["backup1", "backup2"]) == ["backup1"]
    assert filters.site_servers(["web", "far", "backup1"], hostvars, ["backup1", "backup2"]) == ["backup1", "backup2"]


def test_one_file_is_one_file():
    plan = {"files": 1, "files_bytes": 4, "client": "web1", "moment": "2026-11-22T18:35:01Z", "destination": "/",
            "bytes": 4, "dumps": [{"place": "cloud"}]}  # fmt: skip
    assert filters.shown_plan(plan, []) == (
        "1 file, 4 B of web1 as of 2026-11-22T18:35:01Z to /; reads 4 B of 1 dump from cloud"
    )
    done = {"files": 1, "bytes": 4, "client": "web1", "moment": "now", "destination": "/"}
    assert filters.shown_restore(done).startswith("1 file, 4 B of web1")
    assert filters.shown_restore({**done, "files": 0}).startswith("0 files, ")

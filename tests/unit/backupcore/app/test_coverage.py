"""What no source covers: mounts, databases, homes against the sources of a client."""

from __future__ import annotations

import pytest

from backupcore import settings as s
from backupcore.app import coverage

MOUNTS = [
    {"path": "/", "fstype": "ext4", "used": 10},
    {"path": "/srv", "fstype": "xfs", "used": 500},
    {"path": "/var/lib/mysql", "fstype": "xfs", "used": 38_000},
]


def client(*sources, ignore=()):
    made = {}
    for number, source in enumerate(sources):
        options = source if isinstance(source, dict) else {"path": source}
        made[f"s{number}"] = s.Source("web1", f"s{number}", "tree", s.Policy("standard"), options)
    return s.Client("web1", made, ignore=dict.fromkeys(ignore, "known"))


def bare(of, **survey):
    return [one.path for one in coverage.missing(of, survey)]


def test_a_file_system_that_no_source_touches_is_told_the_biggest_first():
    assert bare(client("/etc"), mounts=MOUNTS) == ["/var/lib/mysql", "/srv"]


def test_the_root_itself_is_not_told():
    assert "/" not in bare(client("/etc"), mounts=MOUNTS)


def test_a_source_that_stays_on_one_file_system_does_not_cover_what_is_mounted_below():
    assert bare(client({"path": "/", "one_file_system": True}), mounts=MOUNTS) == ["/var/lib/mysql", "/srv"]
    assert bare(client({"path": "/", "one_file_system": False}), mounts=MOUNTS) == []


def test_a_part_of_a_file_system_was_somebodys_choice():
    assert bare(client("/srv/www", "/var/lib/mysql"), mounts=MOUNTS) == []


def test_what_is_ignored_with_a_reason_is_not_told():
    assert bare(client("/etc", ignore=("/srv", "/var/lib")), mounts=MOUNTS) == []


def test_a_database_below_an_excluded_folder_is_not_covered():
    databases = [{"name": "mariadb", "path": "/var/lib/maria"}]
    assert bare(client("/var"), databases=databases) == []
    assert bare(client({"path": "/var", "exclude": ["/lib/maria"]}), databases=databases) == ["/var/lib/maria"]
    assert bare(client({"path": "/var", "exclude": ["maria/"]}), databases=databases) == ["/var/lib/maria"]
    assert bare(client({"path": "/var", "include": ["/log"]}), databases=databases) == ["/var/lib/maria"]
    assert bare(client({"path": "/var", "include": ["/lib"]}), databases=databases) == []


def test_a_part_of_a_database_is_no_database():
    databases = [{"name": "postgresql", "path": "/var/lib/postgresql"}]
    assert bare(client("/var/lib/postgresql/15/main/pg_wal"), databases=databases) == ["/var/lib/postgresql"]


def test_homes_are_covered_by_what_lies_above_them():
    homes = [{"path": "/home/ada"}, {"path": "/homes/bob"}]
    assert bare(client("/home"), homes=homes) == ["/homes/bob"]


def test_a_path_found_twice_is_told_once():
    assert bare(client("/etc"), mounts=MOUNTS[2:], databases=[{"name": "mysql", "path": "/var/lib/mysql"}]) == [
        "/var/lib/mysql"
    ]


@pytest.mark.parametrize(
    "survey",
    [
        {"mounts": "x"},
        {"mounts": [1, None, {"path": 3}, {"path": "relative"}, {}]},
        {"homes": {"path": "/x"}},
        {"databases": [{"path": "/etc/x", "name": ["a"], "bytes": -5}]},
    ],
)
def test_a_survey_that_makes_no_sense_is_no_error(survey):
    assert bare(client("/etc"), **survey) == []


def test_a_survey_without_end_is_cut():
    homes = [{"path": f"/h/{number}"} for number in range(coverage.LIMIT + 100)]
    assert len(bare(client("/etc"), homes=homes)) == coverage.LIMIT

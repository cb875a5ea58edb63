"""The file for Prometheus: its words are those of the exposition format, it is always whole, anybody may read it."""

from __future__ import annotations

import os
import re
import stat

import pytest
from backupcore.hookspecs import Event, EventError
from pydantic import ValidationError

from backupcore.events import textfile

DATA = {
    "looked": "2026-11-23T08:00:00Z",
    "troubles": [{"kind": "source-overdue", "client": "web1", "source": "etc"}, {"kind": "holding-filling"}],
    "run": {"id": "r", "begun": "2026-11-22T20:30:00Z", "ended": "2026-11-22T21:00:00Z", "status": "WARN", "bytes": 7},
    "sources": [
        {"client": "web1", "source": "etc", "status": "FAIL", "age": 3600.4, "rpo": 93600.0},
        {"client": "web1", "source": "new", "status": "WARN", "age": None, "rpo": 93600.0},
    ],
    "holding": [{"path": '/srv/"a"\\b', "used": 10**15, "limit": 2 * 10**15, "usable": True},
                {"path": "/gone", "used": 0, "limit": 0, "usable": False}],
}  # fmt: skip
EVENT = Event("watched", "FAIL", "x", "y", DATA)
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)*)\})? (\S+)\Z')


def parsed(text):
    """(name, labels) -> value; asserts what the format asks for."""
    assert text.endswith("\n")
    found, family, seen = {}, None, []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in seen
            seen.append(family)
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {family} gauge"
        else:
            name, labels, value = SAMPLE.match(line).groups()
            assert name == family and (name, labels or "") not in found
            found[name, labels or ""] = float(value)
    return found


def test_what_stands_in_it():
    found = parsed(textfile.metrics(DATA))
    assert found["stowage_watch_timestamp_seconds", ""] == 1795420800
    assert found["stowage_trouble", 'kind="source-overdue"'] == 1
    assert found["stowage_trouble", 'kind="night-missing"'] == 0
    assert found["stowage_run_status", ""] == 1 and found["stowage_run_stored_bytes", ""] == 7
    assert found["stowage_run_ended_timestamp_seconds", ""] - found["stowage_run_begun_timestamp_seconds", ""] == 1800
    assert found["stowage_source_dump_timestamp_seconds", 'client="web1",source="etc"'] == 1795420800 - 3600
    assert ("stowage_source_dump_timestamp_seconds", 'client="web1",source="new"') not in found
    overdue = [found["stowage_source_overdue", f'client="web1",source="{one}"'] for one in ("etc", "new")]
    assert overdue == [1, 0]
    assert found["stowage_holding_used_bytes", 'path="/srv/\\"a\\"\\\\b"'] == 10**15
    assert found["stowage_holding_usable", 'path="/gone"'] == 0


def test_a_server_without_runs_and_clients_has_a_file_too():
    found = parsed(textfile.metrics({**DATA, "run": None, "sources": [], "holding": [], "troubles": []}))
    assert {name for name, _labels in found} == {"stowage_watch_timestamp_seconds", "stowage_trouble"}


def test_it_is_put_in_place_whole_for_all_to_read_and_leaves_nothing_beside_it(tmp_path):
    mask = os.umask(0o077)
    file, left = tmp_path / "stowage.prom", tmp_path / "stowage.prom.4194305-0123abcd.tmp"  # more than the kernel gives
    left.write_text("half")
    try:
        with open(os.open(file, os.O_CREAT | os.O_RDWR)) as old:
            textfile.send(textfile.TextfileOptions(path=str(file)), EVENT)
            assert old.read() == ""  # another file took its place; who reads the old one is not disturbed
    finally:
        os.umask(mask)
    assert os.listdir(tmp_path) == ["stowage.prom"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert file.read_text() == textfile.metrics(DATA)


def test_a_folder_that_is_not_there_is_told_with_the_next_step(tmp_path):
    options = textfile.TextfileOptions(path=str(tmp_path / "no" / "stowage.prom"))
    sends = [lambda one, event=event: textfile.send(one, event) for event in (EVENT, Event("test", "OK", "", ""))]
    for step in (textfile.check, *sends):
        with pytest.raises(EventError, match="is no folder") as caught:
            step(options)
        assert caught.value.hint.startswith("install -d")
    textfile.send(textfile.TextfileOptions(path=str(tmp_path / "x.prom")), Event("test", "OK", "", ""))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "why"), [("/x/y.txt", "does not end"), ("x.prom", "no absolute"), ("/x/.prom", "not end")]
)
def test_wrong_paths_are_refused(path, why):
    with pytest.raises(ValidationError, match=why):
        textfile.TextfileOptions(path=path)

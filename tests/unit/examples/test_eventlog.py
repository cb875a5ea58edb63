"""The example of a third party's driver is found, listed and works."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from backupcore.hookspecs import Event, EventError

from backupcore.app import drivers

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "stowage-eventlog"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example as pip would leave it: a module and its metadata with the entry point."""
    (tmp_path / "stowage_eventlog.py").write_text((EXAMPLE / "stowage_eventlog.py").read_text())
    info = tmp_path / "stowage_eventlog-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stowage-eventlog\nVersion: 1.0.0\n")
    (info / "entry_points.txt").write_text("[stowage]\neventlog = stowage_eventlog\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("stowage_eventlog", None)


def test_the_example_is_found_beside_the_built_in_drivers(installed):
    found = drivers.load().of("event")

    assert {"mail", "eventlog"} <= set(found)


def test_external_drivers_can_be_turned_off(installed, monkeypatch):
    monkeypatch.setenv("STOWAGE_DISABLE_DRIVERS", "1")

    assert "eventlog" not in drivers.load().of("event")


def test_the_example_writes_a_line_for_an_event(installed, tmp_path):
    driver = drivers.load().of("event")["eventlog"]
    log = tmp_path / "events.jsonl"

    driver.send(driver.options(path=log), Event("run-finished", "OK", "60 clients", "all is well"))

    assert json.loads(log.read_text())["subject"] == "60 clients"


def test_the_example_tells_in_one_line_what_it_cannot_write(installed, tmp_path):
    driver = drivers.load().of("event")["eventlog"]

    with pytest.raises(EventError, match="No such file"):
        driver.send(driver.options(path=tmp_path / "absent" / "log"), Event("run-finished", "OK", "", ""))

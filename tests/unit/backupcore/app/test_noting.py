"""What targets were used for is in the catalog when the engine is closed, and now and then before: once."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from backupcore.hookspecs import Spent

from backupcore.app import noting
from backupcore.app.noting import Noting
from backupcore.catalog import spending
from backupcore.catalog.store import Catalog
from backupcore.errors import CatalogError


class Place:
    """A target that counts."""

    def __init__(self):
        self.used = Spent()

    def spent(self):
        if isinstance(self.used, Exception):
            raise self.used
        return self.used


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as opened:
        yield opened


def noted(catalog):
    return {target: spent for (target, _month), spent in spending.spent_by_month(catalog).items()}


def test_each_note_adds_what_was_used_since_the_one_before(catalog):
    place, other = Place(), Place()
    notes = Noting(lambda: catalog)
    notes.watch("cloud", place)
    notes.watch("cloud", other)  # the same place, opened with another credential
    place.used, other.used = Spent(1, 2, 3, 4, 5, 6), Spent(write=10)
    notes.note()
    notes.note()
    place.used = Spent(2, 2, 3, 4, 50, 6)
    notes.close()
    assert noted(catalog) == {"cloud": Spent(12, 2, 3, 4, 50, 6)}


def test_what_is_not_used_or_does_not_count_is_not_noted(catalog):
    opened = []
    notes = Noting(lambda: opened.append(1) or catalog)
    notes.watch("nas", object())
    notes.watch("cloud", Place())
    notes.close()
    assert not opened and noted(catalog) == {}


def test_long_runs_are_noted_while_they_last(catalog, monkeypatch):
    monkeypatch.setattr(noting, "EVERY", 0.01)
    place, seen = Place(), threading.Event()
    add = spending.add_spent
    monkeypatch.setattr(spending, "add_spent", lambda *args: (add(*args), seen.set()))
    notes = Noting(lambda: catalog)
    notes.watch("cloud", place)
    place.used = Spent(read=7)
    assert seen.wait(30)
    assert noted(catalog) == {"cloud": Spent(read=7)}
    notes.close()
    assert noted(catalog) == {"cloud": Spent(read=7)}


def test_a_catalog_that_cannot_be_written_or_a_driver_that_breaks_stops_nothing(catalog):
    place, broken = Place(), Place()

    def refuse():
        raise CatalogError("it is held")

    turns = [refuse, lambda: catalog]
    notes = Noting(lambda: turns[0]())
    notes.watch("cloud", place)
    notes.watch("odd", broken)
    broken.used = RuntimeError("no counter")
    place.used = Spent(write=3)
    notes.note()
    del turns[0]
    notes.close()
    assert noted(catalog) == {"cloud": Spent(write=3)}


KILLED = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from backupcore.app import noting
from backupcore.catalog.store import Catalog
from backupcore.hookspecs import Spent

noting.EVERY = 0.001
class Place:
    used = 0
    def spent(self):
        return Spent(write=self.used)

catalog, place = Catalog(Path({catalog!r})), Place()
noting.Noting(lambda: catalog).watch("cloud", place)
while True:
    place.used += 1
    print(place.used, flush=True)
    time.sleep(0.0005)
"""


def test_a_kill_loses_little_and_counts_nothing_twice(tmp_path):
    path = tmp_path / "catalog.sqlite"
    total = 0
    for turn in range(3):
        code = KILLED.format(path=sys.path, catalog=str(path))
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for line in child.stdout:
            total += 1
            if int(line) == 150 + 37 * turn:
                break
        child.kill()
        total += len(child.communicate()[0].splitlines())
        with Catalog(path) as opened:
            counted = noted(opened).get("cloud", Spent()).write
        assert 0 < counted <= total + turn + 1  # one that it had no time to tell

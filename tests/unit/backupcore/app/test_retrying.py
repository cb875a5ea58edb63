"""How long a run waits for clients that fail: by the configuration, by hand, and by --wait-for."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from backupcore.app import retrying
from backupcore.catalog import places
from backupcore.errors import RequestError
from backupcore.settings import Client, RetrySettings, Source


class Engine:
    """What of an engine is asked."""

    settings = SimpleNamespace(retry=RetrySettings(600, 1200), state="/nonexistent")

    def __init__(self, *names):
        self.sources = {name: Source(name, "etc", "tree", None, {}) for name in names}

    def select(self, clients=(), sources=()):
        for name in clients:
            if name not in self.sources:
                raise RequestError(f"there is no client {name}")
        return [self.sources[name] for name in clients or self.sources]


def test_by_hand_nobody_is_waited_for_but_who_was_named():
    engine = Engine("web1", "nb1")
    found = retrying.patience(engine, False, ["nb1=4h"], None)
    roaming = Client("nb2", {}, presence="roaming")
    assert (found.of("web1", None), found.of("nb2", roaming), found.of("nb1", None)) == (0, 0, 4 * 3600)


def test_the_night_waits_as_the_configuration_says():
    found = retrying.patience(Engine("web1", "nb1"), True, ["web1"], None)
    roaming = Client("nb1", {}, presence="roaming")
    assert (found.of("web2", None), found.of("nb1", roaming), found.of("web1", None)) == (600, 1200, retrying.WAIT)


def test_who_waits_for_the_end_of_a_night_does_not_wait_for_clients_that_are_away(tmp_path, monkeypatch):
    monkeypatch.setattr(retrying, "LOOK", 0.0)
    engine = Engine("web1", "nb1")
    engine.settings = SimpleNamespace(retry=RetrySettings(600, 1200), state=tmp_path)
    planned = []
    engine.plan = lambda chosen, due: SimpleNamespace(planned=planned)
    places.due_file(tmp_path).touch()
    os.utime(places.due_file(tmp_path), (1, 1))  # of an earlier night
    found = retrying.patience(engine, True, ["nb1=2h"], None)
    assert found.of("web1", None) == 600
    retrying.refused(engine, None)  # nothing was due
    assert found.of("web1", None) == 600
    planned.append("web1:log")
    retrying.refused(engine, None)
    assert (found.of("web1", None), found.of("nb1", None)) == (0, 7200)
    found = retrying.patience(engine, True, [], None)
    os.utime(places.due_file(tmp_path), (1, 1))
    assert found.of("web1", None) == 600
    monkeypatch.setattr(retrying.runlock, "waiting", lambda settings: ["another"])
    assert found.of("web1", None) == 0


@pytest.mark.parametrize("word, told", [
    ("web9", "no client web9"), ("web1=soon", "no duration"), ("nb1=1h", "nothing of it is to be dumped"),
])  # fmt: skip
def test_a_wait_that_makes_no_sense_is_refused(word, told):
    engine = Engine("web1", "nb1")
    with pytest.raises(RequestError) as caught:
        retrying.patience(engine, False, [word], [engine.sources["web1"]])
    assert told in caught.value.message

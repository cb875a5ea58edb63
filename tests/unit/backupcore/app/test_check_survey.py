"""An agent that takes its time with a survey beats meanwhile; one that only beats is given up."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest

from backupcore import wire
from backupcore.app import check_client
from backupcore.errors import WireError


def agent(*messages):
    out = io.BytesIO()
    sent = wire.Channel(io.BytesIO(), out)
    for kind, value in messages:
        sent.send(kind, json.dumps(value).encode())
    return SimpleNamespace(channel=wire.Channel(io.BytesIO(out.getvalue()), io.BytesIO(), "web1"))


def test_a_slow_survey_is_waited_for():
    beat = (wire.PROGRESS, {"entries": 0, "bytes": 0})
    assert check_client._surveyed(agent(beat, beat, (wire.DONE, {"sources": {}}))) == {"sources": {}}


def test_a_survey_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(check_client, "BEATS", 3)
    beat = (wire.PROGRESS, {"entries": 0, "bytes": 0})
    with pytest.raises(WireError, match="web1 sends no end"):
        check_client._surveyed(agent(*[beat] * 4))

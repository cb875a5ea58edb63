"""Who is told what: which kinds each driver gets where nothing is said, and what a section may ask for."""

from __future__ import annotations

import pytest
import yaml

from backupcore.app import config, drivers
from backupcore.errors import ConfigError

URL = {"url": "https://x.example/S3CR3T"}


def load(tmp_path, **more):
    file = tmp_path / "stowage.yml"
    file.write_text(yaml.safe_dump({"holding": [{"path": "/h", "use": "1 GB", **more.pop("holding", {})}], **more}))
    return config.load(file, drivers.load()).settings


def events(tmp_path, **sections):
    return {name: set(one.events) for name, one in load(tmp_path, events=sections).events.items()}


def test_each_driver_gets_what_it_is_for(tmp_path):
    watched = {"source-overdue", "copy-damaged", "holding-filling", "night-missing"}
    found = events(
        tmp_path, m={"type": "mail", "to": "a@b.example"}, p={"type": "ping", **URL}, w={"type": "webhook", **URL},
        t={"type": "textfile", "path": "/x/y.prom"},
    )  # fmt: skip
    assert found == {
        "m": {"run-finished", "night-missing"}, "p": {"run-begun", "run-finished"}, "w": {"run-finished", *watched},
        "t": {"watched"},
    }  # fmt: skip


def test_a_section_may_ask_for_others_and_for_each_once(tmp_path):
    asked = ["night-missing", "night-missing", "run-begun"]
    assert events(tmp_path, w={"type": "webhook", "events": asked, **URL}) == {"w": {"night-missing", "run-begun"}}


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"type": "webhook", "events": ["night-mising"]}, 'no event "night-mising", did you mean "night-missing"'),
        ({"type": "ping", "events": ["source-overdue"]}, 'no event that ping takes "source-overdue"'),
        ({"type": "webhook", "events": []}, "events.a.events: .* too short"),
        ({"type": "webhook", "events": "watched"}, "events.a.events: .* is no list"),
        ({"type": "webhook", "event": ["watched"]}, 'unknown key "event"|did you mean "events"'),
    ],
)
def test_what_no_section_may_ask_for_is_told_without_its_secrets(tmp_path, section, why):
    with pytest.raises(ConfigError, match=why) as caught:
        load(tmp_path, events={"a": {**URL, **section}})
    assert "S3CR3T" not in str(caught.value)


@pytest.mark.parametrize(("given", "share"), [(80, 0.8), ("95 %", 0.95), ("99.5%", 0.995), (100, 1.0)])
def test_how_full_a_holding_disk_may_be(tmp_path, given, share):
    assert load(tmp_path, holding={"warn": given}).holding[0].warn == pytest.approx(share)
    assert load(tmp_path).holding[0].warn == 0.9


@pytest.mark.parametrize("given", [0, "0 %", 101, "much", True, "-5 %", [90]])
def test_what_is_no_share_is_refused(tmp_path, given):
    with pytest.raises(ConfigError, match="is no share: write 90 %"):
        load(tmp_path, holding={"warn": given})

"""Amanda's planner decides as another writing of it did on the same scenarios, dump by dump."""

import json
from pathlib import Path

import pytest

from backupcore.schedule import simulate

STORED = Path(__file__).resolve().parents[3] / "data" / "schedule"


@pytest.mark.parametrize("name", sorted(path.stem for path in STORED.glob("*.json")))
def test_every_dump_of_every_night_is_the_same(name):
    data = json.loads((STORED / f"{name}.json").read_text("utf-8"))
    scenario = data["scenario"]
    number = {source["id"]: place for place, source in enumerate(scenario["sources"])}
    result = simulate.replay(scenario, "amanda")
    nights = [
        [[number[row["source"]], row["level"], row["bytes"], int(row["ok"])] for row in night]
        for night in result["nights"]
    ]
    assert nights == data["amanda"]["nights"]


def test_the_stored_nights_hold_what_is_hard():
    levels, failed, promoted = set(), 0, 0
    for path in STORED.glob("*.json"):
        data = json.loads(path.read_text("utf-8"))
        for at, night in enumerate(data["amanda"]["nights"]):
            levels |= {level for _, level, _, _ in night}
            failed += sum(not ok for _, _, _, ok in night)
            promoted += at > 0 and any(level == 0 for _, level, _, _ in night)
    assert levels >= set(range(7)) and failed and promoted

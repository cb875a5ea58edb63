"""`stowage simulate`: figures as table and JSON, the result in a file, one line for what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backupcore.cli import main
from backupcore.schedule import metrics

STORED = Path(__file__).resolve().parents[3] / "data" / "schedule"


@pytest.fixture
def given(tmp_path):
    data = json.loads((STORED / "cap12-25-short.json").read_text("utf-8"))
    file = tmp_path / "scenario.json"
    file.write_text(json.dumps(data["scenario"]))
    return file, data


def stowage(capsys, *words):
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_table_names_the_figures_and_what_must_not_be(capsys, given):
    status, out, err = stowage(capsys, "simulate", given[0], "--planner", "amanda")
    figures = given[1]["amanda"]["figures"]
    assert status == 0 and err == ""
    assert "cap12-25-short, planner amanda: 16 sources, 35 nights, cycle 7" in out
    assert f"{figures['peak_over_mean']}" in out and "WARN over the limit" in out
    assert stowage(capsys, "--strict", "simulate", given[0], "--planner", "amanda")[0] == 1


@pytest.mark.parametrize("place", ["before", "after", "at the end"])
def test_json_prints_the_figures(capsys, given, place):
    words = ["simulate", given[0], "--planner", "amanda"]
    words = {
        "before": ["--json", *words],
        "after": ["simulate", "--json", *words[1:]],
        "at the end": [*words, "--json"],
    }
    status, out, _ = stowage(capsys, *words[place])
    answer = json.loads(out)
    assert status == 0 and answer["schema"] == 1 and answer["status"] == "warn"
    for key in ("peak_bytes", "missed", "capacity_failures", "late_hard"):
        assert answer[key] == given[1]["amanda"]["figures"][key]


@pytest.mark.parametrize("form", [["--json", "OUT"], ["--json=OUT"]])
def test_json_with_a_file_writes_the_result(capsys, given, tmp_path, form):
    out_file = tmp_path / "result.json"
    words = [word.replace("OUT", str(out_file)) for word in form]
    status, out, _ = stowage(capsys, "simulate", given[0], "--planner", "amanda", *words)
    assert status == 0 and "highest night" in out
    result = json.loads(out_file.read_text())
    figures = metrics.score(given[1]["scenario"], result)
    assert figures["peak_bytes"] == given[1]["amanda"]["figures"]["peak_bytes"]
    assert [entry.name for entry in tmp_path.iterdir() if "new" in entry.name] == []
    status, out, _ = stowage(capsys, "--json", "simulate", given[0], "--planner", "amanda", *words)
    assert status == 0 and json.loads(out)["result"] == str(out_file)


def test_the_planner_of_the_nightly_run_is_replayed(capsys, given, tmp_path):
    results = []
    for name in ("one.json", "two.json"):
        status, out, _ = stowage(capsys, "--json", "simulate", given[0], "--json", tmp_path / name)
        figures = json.loads(out)
        assert status == 0 and figures["status"] == "ok" and figures["planner"] == "stowage"
        results.append(json.loads((tmp_path / name).read_text())["nights"])
    assert results[0] == results[1]
    amanda = given[1]["amanda"]["figures"]
    assert figures["capacity_failures"] == figures["missed"] == figures["late_hard"] == 0 < amanda["capacity_failures"]
    assert figures["peak_bytes"] <= given[1]["scenario"]["limit"]
    assert metrics.score(given[1]["scenario"], {"nights": results[0]})["errors"] == 0


def test_a_scenario_is_never_overwritten(capsys, given, tmp_path):
    before = given[0].read_bytes()
    other = tmp_path / "other.json"
    other.write_bytes(before)
    for words in ((given[0], "--json", given[0]), ("--json", given[0], other)):
        status, _, err = stowage(capsys, "simulate", *words, "--planner", "amanda")
        assert status == 2 and "would overwrite" in err
    assert given[0].read_bytes() == before == other.read_bytes()


def test_what_is_wrong_is_one_line_and_status_2(capsys, given, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(dict(given[1]["scenario"], cycle="weekly")))
    for words, told in (
        ([], "the scenario is missing"),
        ([tmp_path / "absent.json"], "cannot read the scenario"),
        ([broken], "cycle must be a whole number"),
        ([given[0], "--errors", "1.5"], "--errors is a share"),
        ([given[0], "--planner", "bacula"], "invalid choice"),
        ([given[0], "--json", tmp_path / "no" / "folder.json"], "cannot write the result"),
        ([given[0], "--json", tmp_path], "cannot write the result"),
    ):
        status, out, err = stowage(capsys, "simulate", *words)
        said = err + out  # the result's file was not reached: its errors may come as JSON
        assert status == 2 and told in said and len(said.splitlines()) == 1


def test_errors_of_the_request_are_json_too(capsys, tmp_path):
    status, out, _ = stowage(capsys, "simulate", tmp_path / "absent.json", "--json")
    assert status == 2 and json.loads(out)["error"]["code"] == "request"


def test_the_same_scenario_gives_the_same_plans_in_any_process(tmp_path, given):
    """Neither the order of sets nor what a process did before may choose."""
    results = []
    for seed in ("0", "1", "2"):
        out = tmp_path / f"{seed}.json"
        subprocess.run(
            [sys.executable, "-m", "backupcore", "simulate", given[0], "--errors", "0.2", "--json", out], check=True,
            env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        results.append(json.loads(out.read_text())["nights"])
    assert results[0] == results[1] == results[2] and any(results[0])

"""stowage drill: what comes back, from where, what stays of it, and what the report says after."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cli_lab import Server  # noqa: E402

from backupcore import clock  # noqa: E402
from backupcore.app import drilling  # noqa: E402
from backupcore.app.engine import Engine  # noqa: E402
from backupcore.catalog import store  # noqa: E402

DAY = 86400 * 10**9
PRICE = {"read_gb": 0.09, "request_1000": 0.4, "currency": "$"}


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    (tmp_path / "nas").mkdir()
    server.write(targets={"nas": {"type": "directory", "path": str(tmp_path / "nas"), "price": PRICE}})
    yield server
    server.close()


def grow(folder, seed, count=30, size=3000):
    dice = random.Random(seed)
    for number in range(count):
        path = folder / f"d{number % 4}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(dice.randrange(1, size)))
    (folder / "link").symlink_to("d0/f0")
    (folder / "empty").write_bytes(b"")
    return folder


def left(server, client):
    """What a drill left in a client's scratch folder."""
    scratch = server.base / f"{client}.scratch" / "drill"
    return os.listdir(scratch) if scratch.exists() else []


def engine_of(server):
    return Engine(server.base / "stowage.yml")


def make_old(server, days=2):
    """As if all runs until now were of days ago."""
    with engine_of(server) as engine, engine.catalog._write() as connection:
        for run in engine.catalog.runs():
            connection.execute(store.sa.update(store.runs).where(store.runs.c.id == run.id).values(
                begun_ns=run.begun_ns - days * DAY, ended_ns=run.ended_ns - days * DAY))  # fmt: skip


def damage(folder, name="image-0000"):
    """Changes a byte in every file below folder whose name begins so."""
    found = list(Path(folder).rglob(name + "*"))
    assert found
    for path in found:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def test_files_and_a_whole_source_come_back_from_the_target_and_nothing_stays(server, tmp_path):
    server.client("web1", {"etc": grow(tmp_path / "etc", 1), "www": grow(tmp_path / "www", 2)})
    server.stowage("run")
    (tmp_path / "www" / "new").write_text("new")
    (tmp_path / "www" / "d1" / "f1").unlink()
    server.stowage("run")
    damage(tmp_path / "holding")  # as after a fire: only the target is left
    answer = server.json("drill", "--files", "7")
    assert answer["status"] == "ok" and len(answer["results"]) == 2
    by_what = {one["what"]: one for one in answer["results"]}
    assert set(by_what) == {"files", "source"}
    for one in answer["results"]:
        assert one["status"] == "proven" and one["place"] == "nas" and one["where"] == "client"
        assert one["read"] > 0 and one["requests"] > 0 and one["seconds"] > 0
    assert by_what["files"]["files"] == 7 and by_what["source"]["files"] >= 30
    assert left(server, "web1") == [] and not (tmp_path / "state" / "drill").exists()
    assert answer["proven"]["clients"] == answer["proven"]["proven"] == 1
    assert answer["money"]["$"] > 0 and answer["estimates"]["web1"]["money"]["$"] > 0
    line = server.stowage("report")[0].splitlines()
    told = [one for one in line if one.startswith("proven: ")]
    assert len(told) == 1 and told[0].startswith("proven: 1 of 1 client restored within 30 days; web1 est. ")
    assert " from nas, " in told[0]
    assert server.json("report")["proven"]["proven"] == 1
    with engine_of(server) as engine:
        proofs = engine.catalog.proofs(kind="drill")
        assert proofs and all(one.ok and one.place == "nas" for one in proofs)


def test_a_damaged_copy_fails_the_drill_and_the_report_until_a_drill_succeeds(server, tmp_path):
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    good = {path: path.read_bytes() for path in (tmp_path / "nas").rglob("image-0000*")}
    damage(tmp_path / "nas")
    out, _err = server.stowage("drill", status=1)
    assert "FAIL web1:etc" in out and "damaged" in out and left(server, "web1") == []
    report = server.json("report", status=1)
    assert "drill from nas" in report["headline"] and report["proven"]["proven"] == 0
    assert server.stowage("report", status=1)[0].splitlines()[-2].startswith("proven: 0 of 1 client")
    for path, data in good.items():
        path.write_bytes(data)
    server.stowage("drill")
    assert server.json("report")["proven"]["proven"] == 1


def test_an_index_that_is_another_is_found_out(server, tmp_path):
    # what is on the disk is compared with the index by the server itself, not only by the agent
    server.client("web1", {"etc": grow(tmp_path / "etc", 1, count=3)})
    server.stowage("run")
    with engine_of(server) as engine:
        choice = drilling.Choice(engine, drilling.Asked(), random.Random(1))
        (pick,) = [one for one in choice.picks() if one.what == "source"]
        digest, path = next(iter(pick.expected.items()))
        pick.expected[digest[::-1]] = pick.expected.pop(digest)
        work = drilling._Drill(engine, drilling.Asked(), None, random.Random(1))
        work.try_one(pick, clock.now_ns())
        (result,) = work.results
    assert result.status == "failed" and os.fsdecode(path) in result.message and "not what was dumped" in result.message


def test_a_client_that_is_away_is_drilled_on_the_server(server, tmp_path):
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.client("nb1", {"home": grow(tmp_path / "home", 2)}, presence="roaming")
    server.stowage("run")
    server.client("nb1", {"home": tmp_path / "home"}, presence="roaming", agent=str(tmp_path / "gone.pyz"))
    answer = server.json("drill", "--client", "nb1")
    (result,) = answer["results"]
    assert result["status"] == "proven" and result["where"] == "server" and "restored on this server" in result["note"]
    assert os.listdir(tmp_path / "state" / "drill") == []


def test_an_agent_that_knows_no_drill_gets_none(server, tmp_path):
    import zipfile

    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    with zipfile.ZipFile(tmp_path / "agent.pyz") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert files["backupcore/agent/serve.py"].count(b'"drill": True') == 1
    files["backupcore/agent/serve.py"] = files["backupcore/agent/serve.py"].replace(b', "drill": True', b"")
    with zipfile.ZipFile(tmp_path / "agent.pyz", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    (result,) = server.json("drill")["results"]
    assert result["where"] == "server" and "too old" in result["note"]
    assert not (tmp_path / "web1.scratch").exists()


def test_a_plan_touches_no_client_and_names_what_would_be_read(server, tmp_path):
    server.client("web1", {"etc": grow(tmp_path / "etc", 1), "www": grow(tmp_path / "www", 2)})
    server.stowage("run")
    plan = server.json("drill", "--plan", "--files", "2")
    assert {one["place"] for one in plan["picks"]} == {"nas"} and plan["next"] == ["stowage drill --files 2"]
    assert sum(one["files"] for one in plan["picks"] if one["what"] == "files") == 2
    assert not (tmp_path / "web1.scratch").exists()
    with engine_of(server) as engine:
        assert engine.catalog.runs(kind="drill") == []


def test_from_the_holding_disk_when_nothing_else_has_it(server, tmp_path):
    server.write(targets={})
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    (result,) = server.json("drill")["results"]
    assert result["place"] == "holding" and result["status"] == "proven"


def test_the_night_drills_when_a_night_has_passed_and_not_before(server, tmp_path):
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.client("web2", {"etc": grow(tmp_path / "etc2", 2)})
    assert "proven: " not in server.stowage("run")[0]
    server.stowage("run")
    with engine_of(server) as engine:
        assert engine.catalog.runs(kind="drill") == []
    make_old(server)
    report = server.json("run")
    assert report["proven"]["proven"] == 2
    server.stowage("run")
    with engine_of(server) as engine:
        (run,) = engine.catalog.runs(kind="drill")
        assert run.status == "OK" and run.summary["nightly"] is True
        results = run.summary["results"]
    assert sum(one["files"] for one in results if one["what"] == "files") <= 5
    assert left(server, "web1") == left(server, "web2") == []


def test_a_night_whose_drill_fails_is_a_failed_night_with_all_its_dumps(server, tmp_path):
    server.write(policies={"standard": {"copies": [{"target": "nas", "dumps": "full"}]}})
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    make_old(server)
    damage(tmp_path / "nas")
    answer = server.json("run", "--level", "1", status=1)  # what is farthest away is the full of yesterday
    assert "drill from nas" in answer["headline"]
    assert len(server.dumps()) == 2


def test_no_night_drills_when_it_is_switched_off(server, tmp_path):
    server.write(drill={"nightly": False})
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    make_old(server)
    server.stowage("run")
    with engine_of(server) as engine:
        assert engine.catalog.runs(kind="drill") == []


@pytest.mark.slow
def test_a_night_drill_ends_with_its_time(server, tmp_path):
    server.write(drill={"time": "0.2 s"})
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    make_old(server)
    stuck = tmp_path / "stuck"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    server.client("web1", {"etc": tmp_path / "etc"}, agent_python=str(stuck))
    with engine_of(server) as engine:
        found = drilling.nightly(engine)
    assert any("longer than a drill may" in one or "was stopped" in one for one in found), found


def test_one_drill_at_a_time(server, tmp_path):
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    with engine_of(server) as engine, drilling._alone(engine.settings):
        error = server.json("drill", status=1)["error"]
    assert error["code"] == "busy"


def test_what_a_killed_drill_left_on_the_server_goes_first(server, tmp_path):
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    old = tmp_path / "state" / "drill" / "abcd" / "etc"
    old.mkdir(parents=True)
    (old / "shadow").write_text("secret")
    server.stowage("drill")
    assert os.listdir(tmp_path / "state" / "drill") == []


def test_unknown_names_are_refused(server, tmp_path):
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    assert "did you mean" in json.dumps(server.json("drill", "--client", "web2", status=2))
    server.json("drill", "--target", "nsa", status=2)
    server.json("drill", "--files", "0", status=2)
    out, _err = server.stowage("drill")
    assert "web1 has no copy to restore from" in out


def test_sealed_dumps_are_proven_with_a_key_and_say_so_without(server, tmp_path):
    server.stowage("key", "generate", "--only", "operations", "--no-passphrase")
    server.write(policies={"standard": {"encrypt": "server"}})
    server.client("web1", {"etc": grow(tmp_path / "etc", 1)})
    server.stowage("run")
    assert server.json("drill")["results"][0]["status"] == "proven"
    key = next((tmp_path / "state" / "keys" / "private").iterdir())
    away = key.rename(tmp_path / "operations.pem")
    answer = server.json("drill")
    (result,) = answer["results"]
    assert answer["status"] == "warn" and result["status"] == "sealed" and result["read"] > 30_000
    assert "sealed files of" in result["message"] and result["hint"] == "stowage drill --client web1 --key FILE"
    assert answer["next"] == ["stowage drill --client web1 --key FILE"]
    assert "OK " not in "".join(answer["lines"]) and answer["lines"][-2] == (
        "WARN nothing could be proven: 1 restore of sealed dumps, and no private key at hand opens them "
        "-> stowage drill --client web1 --key FILE"
    )
    server.client("web2", {"etc": grow(tmp_path / "etc2", 1)})
    key = away.rename(key)
    server.stowage("run")
    away = key.rename(away)
    answer = server.json("drill")
    assert answer["status"] == "warn" and answer["next"] == ["stowage drill --key FILE"]
    assert "nothing could be proven: 2 restores" in answer["lines"][-2]
    (server.base / "clients.d/web2.yml").unlink()
    (result,) = server.json("drill", "--key", away)["results"]
    assert result["status"] == "proven" and result["place"] == "nas" and left(server, "web1") == []
    damage(tmp_path / "nas")
    for words in ((), ("--key", away)):  # found with and without the key
        (result,) = server.json("drill", *words, status=1)["results"]
        assert result["status"] == "failed" and "damaged" in result["message"]


def test_a_drill_that_is_killed_leaves_nothing_that_the_next_one_does_not_take_away(server, tmp_path):
    big = grow(tmp_path / "etc", 1)
    (big / "large").write_bytes(random.Random(5).randbytes(60 << 20))
    server.client("web1", {"etc": big}, address="127.0.0.31")
    server.stowage("run")
    scratch = tmp_path / "web1.scratch" / "drill"
    process = server.start("drill")
    until = time.monotonic() + 60
    while not (scratch.exists() and os.listdir(scratch)):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while os.listdir(scratch):  # the agent notices that nobody is there any more, and cleans up
        assert time.monotonic() < until
        time.sleep(0.05)
    (result,) = server.json("drill")["results"]
    assert result["status"] == "proven" and result["where"] == "client" and os.listdir(scratch) == []
    with engine_of(server) as engine:
        assert [run.status for run in engine.catalog.runs(kind="drill")] == [None, "OK"]

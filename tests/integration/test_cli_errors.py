"""Every error that an operator meets: it names the thing, the status is right, all other dumps are made."""

from __future__ import annotations

import os
import shutil
import sys
import time

import pytest
from cli_lab import Server
from dump_lab import PORT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sshd's and agents as root")


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for number in range(20):
        (tree / "sub" / f"file{number}").write_text(f"content {number}\n" * 50)
    return tree


@pytest.fixture
def server(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    server = Server(base)
    yield server
    server.close()


def ends_well(server, out, *others):
    """Whatever failed, the others' dumps are made, and the headline is the last line before the next commands."""
    assert sorted(server.dumps()) == sorted(others)
    assert [line for line in out.splitlines() if not line.startswith("->")][-1].startswith("FAIL ")


@pytest.fixture
def two(server, tree):
    """web1 behind sshd, and good1, which must be dumped whatever becomes of web1."""
    server.client("good1", {"tree": tree})
    server.client("web1", {"tree": tree}, address="127.9.0.1")
    return server


def test_all_is_well_first(two):
    out, _err = two.stowage("check")
    assert out.splitlines()[-3].endswith("2 of 2 clients ready") or "2 of 2 clients ready; not covered" in out
    out, err = two.stowage("run")
    assert "OK   2 clients, 2 sources within RPO; " in out
    assert out.splitlines()[-1] == "-> stowage report"
    assert two.stowage("status")[0].startswith("OK   2 clients")


def test_an_unreachable_client_costs_its_own_dump_only(two):
    two.sshds["web1"].stop()
    out, _err = two.stowage("run", status=1)
    refused = f"ssh: connect to host 127.9.0.1 port {PORT}: Connection refused"
    assert f"web1:tree web1 cannot be reached: {refused} -> " in out
    ends_well(two, out, "good1:tree")
    out, _err = two.stowage("check", status=1)
    assert "FAIL web1: web1 cannot be reached" in out


def test_a_roaming_client_that_is_away_is_no_failure(server, tree):
    server.client("good1", {"tree": tree})
    server.client("nb1", {"tree": tree}, address="127.9.0.2", presence="roaming")
    server.sshds["nb1"].stop()
    out, _err = server.stowage("run")
    assert "1 client away" in out
    server.stowage("--strict", "run", status=1)
    assert "WARN nb1: " in server.stowage("check")[0]


def test_a_changed_host_key_stops_everything_with_that_client(two):
    sshd = two.sshds["web1"]
    sshd.stop()
    sshd.new_host_key()
    sshd.start()
    out, _err = two.stowage("run", status=1)
    assert "web1:tree web1 shows another host key than the one pinned in " in out
    assert str(two.base / "known_hosts.d" / "web1") in out
    ends_well(two, out, "good1:tree")


def test_a_missing_agent_is_named(two):
    two.sshds["web1"].force(f"{sys.executable} -I /nowhere/agent.pyz serve")
    out, _err = two.stowage("run", status=1)
    assert "web1:tree web1 has no agent or no usable Python: " in out
    assert "stowage.backup.site" in out
    ends_well(two, out, "good1:tree")


def test_a_missing_python_is_named(two):
    two.sshds["web1"].force("/nowhere/python3 -I agent.pyz serve")
    out, _err = two.stowage("run", status=1)
    assert "web1:tree web1 has no agent or no usable Python: " in out
    ends_well(two, out, "good1:tree")


def test_a_refused_key_is_named(two):
    (two.sshds["web1"].folder / "authorized_keys").write_text("")
    out, _err = two.stowage("run", status=1)
    assert "web1:tree web1 refuses the server's key" in out
    ends_well(two, out, "good1:tree")


def test_a_source_path_that_is_gone_is_named(server, tree, tmp_path):
    gone = tmp_path / "gone"
    server.client("web1", {"tree": tree, "gone": gone})
    out, _err = server.stowage("run", status=1)
    assert f"web1:gone {gone} " in out or f"web1:gone the path {gone} " in out or str(gone) in out
    ends_well(server, out, "web1:tree")
    out, _err = server.stowage("check", status=1)
    assert f"FAIL web1: source gone: {gone} does not exist on web1" in out


def test_a_full_holding_disk_is_named_and_nothing_half_is_kept(server, tree, tmp_path):
    big = tmp_path / "big"
    big.mkdir()
    (big / "noise").write_bytes(os.urandom(24_000_000))
    server.write(holding=[{"path": str(server.base / "holding"), "use": "16 MiB"}], dumps_at_once=1)
    server.client("web1", {"tree": tree, "big": big})
    out, _err = server.stowage("run", status=1)
    assert "web1:big " in out
    assert "holding" in out
    ends_well(server, out, "web1:tree")
    left = [path for path in (server.base / "holding").rglob("image-*") if "big" in str(path)]
    assert left == []


def test_a_holding_disk_that_is_gone_is_told_by_check_and_run(server, tree):
    server.client("web1", {"tree": tree})
    shutil.rmtree(server.base / "holding")
    (server.base / "holding").write_text("no folder")
    out, _err = server.stowage("check", status=1)
    assert "FAIL holding: " in out
    _out, err = server.stowage("run", status=2)  # no disk at all: nothing can be dumped
    assert f"the holding disk {server.base}/holding cannot be used" in err
    assert len(err.splitlines()) == 1
    assert server.stowage("status", status=1)[0].startswith(f"FAIL the holding disk {server.base}/holding cannot")


def test_check_finds_a_holding_disk_that_a_run_would_refuse(server, tree):
    server.client("web1", {"tree": tree})
    holding, owner = server.base / "holding", server.base / "holding" / ".stowage"
    assert "OK   holding: " in server.stowage("check")[0]
    owner.write_text("0123456789abcdef\n")
    out, _err = server.stowage("check", status=1)  # before the first run: this server has no id yet
    assert f"FAIL holding: the holding disk {holding} belongs to the backup server '0123456789abcdef'" in out
    owner.unlink()
    server.stowage("run")
    assert "OK   holding: " in server.stowage("check")[0]
    mine = owner.read_text()
    for harm, told in ((owner.unlink, "is not mounted"), (lambda: owner.write_text("f" * 16), "belongs to the backup")):
        harm()
        out, _err = server.stowage("check", status=1)
        assert f"FAIL holding: the holding disk {holding} {told}" in out
        _out, err = server.stowage("run", status=2)
        assert f"the holding disk {holding} {told}" in err
        owner.write_text(mine)
    assert "OK   holding: " in server.stowage("check")[0]


def test_a_target_that_refuses_is_named_with_the_sources_and_the_dumps_are_made(server, tree, tmp_path):
    nas = tmp_path / "nas"
    nas.write_text("a file where a folder should be")
    server.write(targets={"nas": {"type": "directory", "path": str(nas)}})
    server.client("web1", {"tree": tree})
    out, _err = server.stowage("run", status=1)
    assert "FAIL nas: no copy of web1:tree: " in out
    assert "-> something there is a symbolic link or a file where a folder belongs" in out
    ends_well(server, out, "web1:tree")
    assert server.json("list", "copies")["copies"][0]["state"] == "failed"
    assert "FAIL target nas: " in server.stowage("check", status=1)[0]
    nas.unlink()
    nas.mkdir()
    server.stowage("stage")
    assert server.json("list", "copies")["copies"][0]["state"] == "verified"
    assert server.stowage("status")[0].startswith("OK ")


def test_a_damaged_image_is_named_and_never_given_out_as_good(server, tree, tmp_path):
    server.client("web1", {"tree": tree})
    server.stowage("run")
    (image,) = (server.base / "holding").rglob("image-*")
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 0xFF
    image.chmod(0o600)
    image.write_bytes(data)
    out, err = server.stowage("restore", f"web1:{tree}", "--to", tmp_path / "out", status=1)
    assert "web1" in out + err
    for path in (tmp_path / "out").rglob("file*"):
        assert path.read_bytes() == (tree / "sub" / path.name).read_bytes()


def test_lists_that_differ_name_both_files(server, tree):
    server.client("web1", {"tree": tree, "new": tree}, agent_sources={"tree": {"path": "/else"}, "old": {"path": "/x"}})
    out, _err = server.stowage("check", status=1)
    here, there = f"{server.base}/clients.d/web1.yml", f"{server.base}/web1.agent.json on web1"
    assert f"source new stands in {here}, but not in {there}" in out
    assert f"source old stands in {there}, but not in {here}" in out
    assert f'source tree: path is "{tree}" in {here}, but "/else" in {there}' in out


def test_a_second_run_is_refused_and_says_who_is_at_work(server, tree, tmp_path):
    flag = tmp_path / "go"
    server.client("web1", {"tree": {"path": str(tree), "before": f"while ! test -e {flag}; do sleep 0.1; done"}})
    first = server.start("run")
    try:
        first.stderr.readline()  # the dump has begun
        answer = server.json("run", status=1)
        assert answer["error"]["code"] == "busy"
        assert f"(process {first.pid})" in answer["error"]["message"]
        for _attempt in range(20):  # the file is written once a second
            out, _err = server.stowage("status")
            if "web1:tree" in out:
                break
            time.sleep(0.5)
        assert "is at work for " in out
        assert "web1:tree" in out
        assert server.json("status")["running"]["pid"] == first.pid
    finally:
        flag.touch()
        first.communicate(timeout=60)
    assert first.returncode == 0


@pytest.mark.parametrize(("signal", "status"), [(2, 130), (15, 143)])
def test_a_run_that_is_stopped_says_so_and_the_next_one_is_whole(server, tree, tmp_path, signal, status):
    stop = tmp_path / "stop"
    stop.touch()
    server.client("web1", {"tree": {"path": str(tree), "before": f"while test -e {stop}; do sleep 0.1; done"}})
    process = server.start("run")
    process.stderr.readline()
    stop.unlink()
    process.send_signal(signal)
    _out, err = process.communicate(timeout=60)
    assert process.returncode in (status, 0)
    assert b"Traceback" not in err
    if process.returncode == status:
        assert "the run was stopped" in server.stowage("list", "runs")[0]
    server.stowage("run")
    assert server.stowage("status")[0].startswith("OK ")


def test_an_event_that_cannot_be_delivered_is_a_warning_and_no_failure(server, tree):
    server.write(events={"mail": {"type": "mail", "to": "ops@acme.example", "host": "127.0.0.1", "port": 1}})
    server.client("web1", {"tree": tree})
    out, _err = server.stowage("run")
    assert "WARN event mail: no mail server answers at 127.0.0.1:1: " in out
    server.stowage("--strict", "run", status=1)


def test_a_restore_in_place_without_a_permit_is_refused_by_the_client(server, tree):
    server.client("web1", {"tree": tree})
    server.stowage("run")
    answer = server.json("restore", f"web1:{tree}/sub/file1", "--in-place", "--existing", "overwrite", status=1)
    assert answer["error"]["code"] == "agent-refused"
    assert "permit" in answer["error"]["message"]


def test_a_failing_script_before_the_dump_is_named(server, tree):
    server.client("web1", {"tree": tree, "db": {"path": str(tree), "before": "echo database is down; exit 3"}})
    out, _err = server.stowage("run", status=1)
    assert "web1:db " in out
    assert "database is down" in out
    ends_well(server, out, "web1:tree")


def test_a_client_that_talks_garbage_costs_its_own_dump_only(two):
    two.sshds["web1"].force("printf 'Welcome to web1\\\\n\\\\033[31m'")
    out, _err = two.stowage("run", status=1)
    assert "web1:tree " in out
    assert "\x1b" not in out
    ends_well(two, out, "good1:tree")


def test_a_broken_catalog_is_one_line(server, tree):
    (server.base / "state").mkdir()
    (server.base / "state" / "catalog.sqlite").write_bytes(b"this is no database at all" * 100)
    server.client("web1", {"tree": tree})
    answer = server.json("run", status=1)
    assert answer["error"]["code"] == "catalog"
    assert str(server.base / "state" / "catalog.sqlite") in answer["error"]["message"]


def test_every_error_is_readable_as_json(two):
    two.sshds["web1"].stop()
    answer = two.json("run", status=1)
    assert answer["schema"] == 1
    assert answer["status"] == "fail"
    (bad,) = [one for one in answer["sources"] if one["status"] == "FAIL"]
    assert (bad["client"], bad["source"], bad["code"]) == ("web1", "tree", "client-unreachable")

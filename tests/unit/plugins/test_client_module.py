"""Registration: one file a client, read back by the engine itself; what the engine refuses is taken back."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import grp
import json
import os
import stat

import pytest

pytest.importorskip("ansible.module_utils.testing")
import engine_command  # noqa: E402
from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.stowage.backup.plugins.modules import client as module  # noqa: E402

from backupcore.app import config, drivers  # noqa: E402

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEAw0fz7NqQSuvQXS29oJQ8c8wYEGCuGOiqmmyB934io"
OTHER = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQDUHYHzA8RiqO37xGqFDTj8Tz6aVJ1wTSdNYMuuNQQ0B"


@pytest.fixture
def server(tmp_path):
    """A configuration folder and the engine's command beside it."""
    (tmp_path / "clients.d").mkdir()
    (tmp_path / "known_hosts.d").mkdir()
    (tmp_path / "stowage.yml").write_text(f"state: {tmp_path}/state\nholding: [{{path: {tmp_path}/h, use: 1 GiB}}]\n")
    engine_command.make(tmp_path)
    return tmp_path


def register(server, capsys, check=False, **more):
    """Runs the module; its result."""
    args = {
        "name": "web1", "engine": str(server / "stowage"), "config": str(server / "stowage.yml"),
        "clients_folder": str(server / "clients.d"), "known_hosts_folder": str(server / "known_hosts.d"),
        "group": grp.getgrgid(os.getgid()).gr_name, "host_keys": [KEY], "sources": {"etc": {"path": "/etc"}},
        "_ansible_check_mode": check, "_ansible_diff": True, **more,
    }  # fmt: skip
    with patch_module_args(args), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)


def load(server):
    """The client as the engine reads it."""
    return config.load(server / "stowage.yml", drivers.load()).settings.clients


def test_a_client_is_registered_once_and_pinned(server, capsys):
    more = {"address": "10.0.0.7", "port": 2222, "presence": "roaming", "host_keys": [OTHER, KEY]}
    assert register(server, capsys, **more)["changed"]
    assert not register(server, capsys, **more)["changed"]
    client = load(server)["web1"]
    assert (client.address, client.port, client.presence) == ("10.0.0.7", 2222, "roaming")
    assert client.sources["etc"].options["path"] == "/etc"
    assert (server / "known_hosts.d/web1").read_text() == f"web1 {KEY}\nweb1 {OTHER}\n"
    assert stat.S_IMODE((server / "clients.d/web1.yml").stat().st_mode) == 0o640
    assert sorted(os.listdir(server / "clients.d")) == ["web1.yml"]


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "yes",
        "a: b # c",
        "'\"\\",
        "line\nfeed",
        "\x00\x07\x7f\x85",
        "\ud7ff\u2028\ufeff",
        "\U0001f600",
        "- x",
        "",
    ],
)
def test_any_text_comes_back_from_the_file_as_it_was(server, text):
    import yaml

    content = {"k": {"list": [text, 1, True, None], text: {"inner": text}, "map": {}, "float": 1.5}}
    assert yaml.safe_load("".join(module.block(content, ""))) == content


def test_options_of_a_source_reach_the_engine(server, capsys):
    options = {"path": "/srv/\u00fc \U0001f600", "exclude": ["*.tmp", "[!a]/**"], "before": [["a", "b"]]}
    options["one_file_system"] = False
    register(server, capsys, sources={"srv": options}, ignore={"/proc": "kernel"})
    client = load(server)["web1"]
    assert {key: client.sources["srv"].options[key] for key in ("path", "exclude", "one_file_system")} == {
        key: options[key] for key in ("path", "exclude", "one_file_system")
    }
    assert client.ignore == {"/proc": "kernel"}


def test_what_the_engine_refuses_is_taken_back(server, capsys):
    register(server, capsys)
    before = (server / "clients.d/web1.yml").read_bytes()
    told = register(server, capsys, sources={"etc": {"path": "/etc", "policy": "nosuch"}}, host_keys=[OTHER])
    assert told["failed"] and 'no policy "nosuch"' in told["msg"] and "web1.yml:" in told["msg"]
    assert (server / "clients.d/web1.yml").read_bytes() == before
    assert (server / "known_hosts.d/web1").read_text() == f"web1 {KEY}\n"
    told = register(server, capsys, name="web2", sources={"etc": {"path": "/etc", "policy": "nosuch"}})
    assert told["failed"] and sorted(os.listdir(server / "clients.d")) == ["web1.yml"]


def test_a_wrong_file_of_another_client_refuses_nobody_else(server, capsys):
    (server / "clients.d/bad.yml").write_text("clients: {bad: {prot: 1}}\n")
    told = register(server, capsys)
    assert told["changed"] and not told.get("failed")
    assert (server / "clients.d/web1.yml").exists()


def test_check_mode_shows_the_difference_and_writes_nothing(server, capsys):
    told = register(server, capsys, check=True)
    assert told["changed"] and "address" in told["diff"][-1]["after"]
    assert os.listdir(server / "clients.d") == [] == os.listdir(server / "known_hosts.d")


def test_a_retired_client_keeps_its_keys_and_is_dumped_no_more(server, capsys):
    register(server, capsys)
    register(server, capsys, state="retired", host_keys=[])
    assert load(server)["web1"].state == "retired"
    assert (server / "known_hosts.d/web1").exists()


def test_a_client_retired_by_its_name_alone_keeps_its_sources_and_their_rules(server, capsys):
    given = {"sources": {"etc": {"path": "/etc", "exclude": ["*.tmp"]}}, "address": "web1.example.org",
             "ignore": {"/mnt": "scratch"}}  # fmt: skip
    register(server, capsys, **given)
    before = load(server)["web1"]
    assert register(server, capsys, check=True, state="retired", sources={}, host_keys=[])["changed"]
    assert register(server, capsys, state="retired", sources={}, host_keys=[])["changed"]
    assert not register(server, capsys, state="retired", sources={}, host_keys=[])["changed"]
    now = load(server)["web1"]
    assert (now.state, now.sources, now.ignore, now.address) == (
        "retired", before.sources, before.ignore, before.address)  # fmt: skip
    assert register(server, capsys, **given)["changed"] and load(server)["web1"].state == "present"


def test_an_absent_client_leaves_nothing(server, capsys):
    register(server, capsys)
    assert register(server, capsys, state="absent")["changed"]
    assert not register(server, capsys, state="absent")["changed"]
    assert os.listdir(server / "clients.d") == [] == os.listdir(server / "known_hosts.d")


@pytest.mark.parametrize("name", ["../web1", "a/b", ".x", "a..b", "web 1"])
def test_a_name_that_could_be_a_path_is_refused(server, capsys, name):
    assert "cannot name a client" in register(server, capsys, name=name)["msg"]


def test_without_a_host_key_nobody_is_registered(server, capsys):
    assert "no host key" in register(server, capsys, host_keys=[])["msg"]
    assert register(server, capsys, host_keys=[], transport="local")["changed"]


def test_without_the_role_the_next_step_is_told(server, capsys):
    assert "backup_server" in register(server, capsys, clients_folder="/nowhere")["msg"]


def test_copies_of_a_client_and_a_source_reach_the_engine_as_they_are(server, capsys):
    file = server / "stowage.yml"
    text = file.read_text() + f"targets: {{nas: {{type: directory, path: {server}/nas}}}}\n"
    file.write_text(text + "copies: [{target: nas, window: '22:00-06:00', keep: {last: 3}}]\n")
    etc = {"path": "/etc", "copies": [{"target": "nas", "window": None, "made_on": "sun"}], "min_copies": 1}
    found = register(
        server, capsys, copies=[{"target": "nas", "dumps": 1, "every": "week"}], holding="required", min_copies=2,
        sources={"etc": etc, "home": {"path": "/home"}},
    )  # fmt: skip
    assert found["changed"] is True
    sources = load(server)["web1"].sources
    etc, home = sources["etc"].rule("nas"), sources["home"].rule("nas")
    assert (etc.dumps, etc.every, etc.made_on, etc.windows, etc.keep) == ("1", "week", {6}, None, {"last": 3})
    assert home.windows is not None and home.made_on is None
    assert [(one.holding, one.min_copies) for one in sources.values()] == [("required", 1), ("required", 2)]
    again = {"path": "/etc", "copies": [{"target": "nas", "window": None, "made_on": "sun"}], "min_copies": 1}
    found = register(
        server, capsys, copies=[{"target": "nas", "dumps": 1, "every": "week"}], holding="required", min_copies=2,
        sources={"etc": again, "home": {"path": "/home"}},
    )  # fmt: skip
    assert found["changed"] is False


def test_network_spindle_and_dumps_at_once_reach_the_engine(server, capsys):
    file = server / "stowage.yml"
    file.write_text(file.read_text() + "networks: {wan: 20 Mbit/s}\n")
    sources = {"db": {"path": "/srv/db", "spindle": "sda"}, "etc": {"path": "/etc"}}
    assert register(server, capsys, network="wan", dumps_at_once=3, sources=sources)["changed"] is True
    client = load(server)["web1"]
    assert (client.network, client.dumps_at_once) == ("wan", 3)
    assert [source.spindle for source in client.sources.values()] == ["sda", ""]
    assert register(server, capsys, network="wan", dumps_at_once=3, sources=sources)["changed"] is False

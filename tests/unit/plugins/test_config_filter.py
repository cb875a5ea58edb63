"""From role variables to stowage.yml, credentials and agent.json: the engine itself reads what comes out."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("backupcore.hookspecs")
from ansible.errors import AnsibleFilterError  # noqa: E402
from ansible_collections.stowage.backup.plugins.filter import config as filters  # noqa: E402

from backupcore.app import config, drivers  # noqa: E402

GIVEN = {
    "holding": [{"path": "/srv/holding", "use": "500 GiB"}],
    "targets": {
        "cloud": {"type": "s3", "bucket": "acme-backup", "access_key": "AKIA", "secret_key": "s3cr",
                  "proxy": "http://proxy:3128", "proxy_user": "web", "proxy_password": "pr0xy"},
        "nas": {"type": "directory", "path": "/mnt/nas"},
    },
    "policies": {"fast": {"compress": "none"}},
    "mail": "ops@acme.example",
    "mail_options": {"host": "mail.acme.example", "security": "tls", "user": "backup", "password": "hunter2"},
    "cycle_days": 7,
    "dumps_at_once": 4,
    "copies_at_once": 4,
    "state_folder": "/var/lib/stowage",
    "credentials_folder": "/etc/stowage/credentials",
    "more": {"timeouts": {"connect": "10 s"}},
}


def test_no_secret_stands_in_the_configuration_and_each_has_its_file():
    text = yaml.safe_dump(filters.server_config(GIVEN))
    files = filters.credentials(GIVEN["targets"], GIVEN["mail_options"])
    assert not any(secret in text for secret in ("AKIA", "s3cr", "hunter2", "pr0xy"))
    assert json.loads(files["cloud.json"]) == {
        "access_key": "AKIA", "secret_key": "s3cr", "proxy_user": "web", "proxy_password": "pr0xy",
    }  # fmt: skip
    assert files["mail.password"] == "hunter2\n"
    assert set(files) == {"cloud.json", "mail.password"}
    assert "/etc/stowage/credentials/cloud.json" in text


def test_the_engine_understands_what_the_role_writes(tmp_path):
    file = tmp_path / "stowage.yml"
    file.write_text(yaml.safe_dump(filters.server_config(GIVEN)))
    settings = config.load(file, drivers.load()).settings
    assert settings.holding[0].use == 500 * 1024**3
    assert [rule.target for rule in settings.policies["standard"].copies] == ["cloud", "nas"]
    assert settings.events["mail"].options["password_file"] == "/etc/stowage/credentials/mail.password"
    assert settings.connect_timeout == 10


def test_the_password_of_an_sftp_target_is_a_secret_and_the_engine_finds_it(tmp_path):
    box = {"type": "sftp", "host": "box", "user": "u1", "known_hosts": "/etc/stowage/box", "password": "hunter3"}
    given = {**GIVEN, "targets": {"box": box}}
    text = yaml.safe_dump(filters.server_config(given))
    assert "hunter3" not in text
    assert json.loads(filters.credentials(given["targets"])["box.json"]) == {"password": "hunter3"}
    file = tmp_path / "stowage.yml"
    file.write_text(text)
    options = config.load(file, drivers.load()).settings.targets["box"].options
    assert str(options["credentials"]) == "/etc/stowage/credentials/box.json"


def test_what_the_role_writes_of_copies_and_their_end_is_understood(tmp_path):
    given = {
        **GIVEN, "prune": {"grace": "7 days", "nightly": False}, "verify": {"sample_days": 60.0},
        "drill": {"nightly": False}, "copies": [{"target": "nas", "keep": {"last": 3}, "lock": "90 days"}],
        "prices": {"mine": {"currency": "EUR", "storage_gb": 0.02}},
    }  # fmt: skip
    file = tmp_path / "stowage.yml"
    file.write_text(yaml.safe_dump(filters.server_config(given)))
    (tmp_path / "clients.d").mkdir()
    (tmp_path / "clients.d" / "web1.yml").write_text("clients: {web1: {sources: {etc: /etc}}}\n")
    found = config.load(file, drivers.load()).settings
    assert (found.prune.grace, found.prune.nightly) == (7 * 86400, False)
    assert (found.verify.sample_days, found.drill.nightly) == (60, False)
    (rule,) = found.clients["web1"].sources["etc"].copies
    assert (rule.target, rule.keep, rule.lock) == ("nas", {"last": 3}, 90 * 86400)
    assert filters.server_config({**GIVEN, "copies": []})["copies"] == []
    assert "copies" not in filters.server_config({**GIVEN, "copies": None})
    with pytest.raises(AnsibleFilterError, match="must be a list"):
        filters.server_config({**GIVEN, "copies": {"nas": {}}})


def test_the_key_that_may_delete_has_a_file_of_its_own(tmp_path):
    cloud = {**GIVEN["targets"]["cloud"], "delete_access_key": "AKDEL", "delete_secret_key": "s3del"}
    given = {**GIVEN, "targets": {"cloud": cloud}}
    text = yaml.safe_dump(filters.server_config(given))
    files = filters.credentials(given["targets"])
    assert "AKDEL" not in text + files["cloud.json"] and "s3del" not in text + files["cloud.json"]
    assert json.loads(files["cloud.pruning.json"]) == {"access_key": "AKDEL", "secret_key": "s3del"}
    file = tmp_path / "stowage.yml"
    file.write_text(text)
    options = config.load(file, drivers.load()).settings.targets["cloud"].options
    assert str(options["delete_credentials"]) == "/etc/stowage/credentials/cloud.pruning.json"


@pytest.mark.parametrize("nights, taken", [("", None), ("3", 3), (3, 3), ("all", 1)])
def test_what_the_role_writes_of_planning_is_understood(tmp_path, nights, taken):
    given = {
        **GIVEN, "first_nights": nights, "planning": {"estimate": "history", "estimate_time": "5 min"},
        "limits": {"bytes": "500 GiB soft", "window": "8 h", "targets": {"cloud": "20 Mbit/s x 8 h"}},
        "policies": {"fast": {"cycle": 3, "priority": "high", "schedule": {"incremental": "hourly"}}},
    }  # fmt: skip
    file = tmp_path / "stowage.yml"
    file.write_text(yaml.safe_dump(filters.server_config(given)))
    planning = config.load(file, drivers.load()).settings.planning
    assert (planning.first_nights, planning.estimate, planning.estimate_time) == (taken, "history", 300)
    assert set(planning.limits) == {"bytes", "seconds", "target:cloud"}


@pytest.mark.parametrize("days, taken", [("", 7), ("3", 3), (0, 0), (0.5, 0.5), ("off", 0), (False, 0)])
def test_interim_is_understood_as_yaml_gives_it(tmp_path, days, taken):
    file = tmp_path / "stowage.yml"
    file.write_text(yaml.safe_dump(filters.server_config({**GIVEN, "interim": days})))
    text = "clients: {web1: {sources: {etc: /etc, home: {path: /home, interim: 2}, tmp: {path: /tmp, interim: off}}}}\n"
    (tmp_path / "clients.d").mkdir()
    (tmp_path / "clients.d" / "web1.yml").write_text(text)
    found = config.load(file, drivers.load()).settings.clients["web1"].sources
    assert [found[name].timing.interim for name in ("etc", "home", "tmp")] == [taken, 2, 0]


def test_when_a_source_is_dumped_is_for_the_server_and_not_for_the_agent():
    sources = filters.merge_sources([["v", {"www": {
        "path": "/var/www", "cycle": 3, "days": "mon-fri", "earliest": "22:00", "strategy": "full", "priority": "low",
        "grace": 1, "max_chain": 2, "schedule": {"full": "sun 20:00"},
    }}]])  # fmt: skip
    assert sources["www"]["days"] == "mon-fri"
    agent = json.loads(filters.agent_config(sources, "web1", "/scratch", "/permits"))
    assert set(agent["sources"]["www"]["options"]) == {"path", *filters.TREE}
    with pytest.raises(AnsibleFilterError, match="unknown option 'dayz'; a tree has path, policy, cycle"):
        filters.merge_sources([["v", {"www": {"path": "/var/www", "dayz": "mon"}}]])


def test_a_server_without_holding_disk_is_refused_with_an_example():
    with pytest.raises(AnsibleFilterError, match="backup_server_holding"):
        filters.server_config({**GIVEN, "holding": []})


def test_sources_of_several_variables_are_merged_by_name():
    merged = filters.merge_sources(
        [
            ["backup_client_sources", {"etc": "/etc", "home": "/home", "root": "/root/"}],
            ["backup_client_sources_web", {"www": {"path": "/var/www", "exclude": ["cache/**"]}, "home": None}],
            ["backup_client_sources_x", {"www": {"policy": "fast"}, "etc": {"exclude": ["*.tmp"]}}],
        ]
    )
    assert merged == {
        "etc": {"type": "tree", "policy": "standard", "path": "/etc", "exclude": ["*.tmp"]},
        "root": {"type": "tree", "policy": "standard", "path": "/root"},
        "www": {"type": "tree", "policy": "fast", "path": "/var/www", "exclude": ["cache/**"]},
    }


@pytest.mark.parametrize(
    "source, told",
    [
        ({"path": "etc"}, "must be absolute"),
        ({"exclude": ["x"]}, "must be absolute"),
        ({"path": "/etc", "exlude": ["x"]}, "unknown option 'exlude'"),
        ({"path": "/etc", "exclude": "*.tmp"}, "must be a list"),
        ([1], "must be a mapping"),
    ],
)
def test_a_wrong_source_is_named(source, told):
    with pytest.raises(AnsibleFilterError, match=told) as error:
        filters.merge_sources([["backup_client_sources", {"etc": source}]])
    assert "etc" in str(error.value)


@pytest.mark.parametrize("name", ["../etc", "a/b", "", ".hidden", "a..b", "ü"])
def test_a_name_that_could_be_a_path_names_no_source(name):
    with pytest.raises(AnsibleFilterError, match="cannot name a source"):
        filters.merge_sources([["backup_client_sources", {name: "/etc"}]])


def test_the_agent_gets_every_option_and_the_server_keeps_the_policy():
    sources = filters.merge_sources([["s", {"etc": {"path": "/etc", "before": "sync", "policy": "fast"}}]])
    content = json.loads(filters.agent_config(sources, "web1", "/scratch", "/permit"))
    assert content["sources"]["etc"]["options"] == {
        "path": "/etc", "include": [], "exclude": [], "one_file_system": True, "before": "sync", "after": None,
    }  # fmt: skip
    assert (content["schema"], content["client"], content["scratch"]) == (1, "web1", "/scratch")
    assert "policy" not in json.dumps(content)


def test_host_keys_are_read_and_noise_is_not():
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIEAw0fz7NqQSuvQXS29oJQ8c8wYEGCuGOiqmmyB934io"
    text = f"ssh-ed25519 {key} root@web1\nssh-ed25519 {key}\n# comment\n@cert-authority * evil\nssh-rsa AAAA\n"
    assert filters.host_keys(text) == [f"ssh-ed25519 {key}"]


def test_copies_of_a_source_are_for_the_server_and_not_for_the_agent():
    given = {"path": "/srv", "copies": [{"target": "nas", "dumps": "none"}], "holding": "never", "min_copies": 2,
             "spindle": "sda"}  # fmt: skip
    sources = filters.merge_sources([["v", {"srv": given}]])
    assert sources["srv"]["copies"] == [{"target": "nas", "dumps": "none"}]
    agent = json.loads(filters.agent_config(sources, "web1", "/scratch", "/permits"))
    assert set(agent["sources"]["srv"]["options"]) == {"path", *filters.TREE}


def test_networks_and_retry_reach_the_engine(tmp_path):
    networks = {"wan": "20 Mbit/s", "branch": {"rate": {"mon-fri 08:00-18:00": "2 Mbit/s"}, "dumps": 2}}
    found = filters.server_config({**GIVEN, "networks": networks, "retry": {"time": "2 h"}})
    assert (found["networks"], found["retry"]) == (networks, {"time": "2 h"})
    assert not {"networks", "retry"} & set(filters.server_config({**GIVEN, "networks": {}, "retry": {}}))
    file = tmp_path / "stowage.yml"
    file.write_text(yaml.safe_dump({**found, "targets": {}, "policies": {}, "events": {}}))
    read = config.load(file, drivers.load()).settings
    assert (read.networks["wan"].rate.rest, read.networks["branch"].dumps) == (2_500_000, 2)
    assert read.retry.time == 7200


def test_who_is_told_has_its_secrets_in_files_and_the_engine_finds_them(tmp_path):
    events = {
        "alive": {"type": "ping", "url": "https://hc.example/S3CR3T-1"},
        "chat": {"type": "webhook", "url": "https://chat.example/S3CR3T-2", "secret": "S3CR3T-3",
                 "events": ["run-finished"]},
        "night": {"type": "mail", "to": "night@acme.example", "user": "u", "password": "S3CR3T-4", "security": "tls"},
    }  # fmt: skip
    given = {**GIVEN, "events": events}
    text = yaml.safe_dump(filters.server_config(given))
    assert "S3CR3T" not in text
    files = filters.credentials({}, GIVEN["mail_options"], events)
    assert files == {
        "alive.url": "https://hc.example/S3CR3T-1\n", "chat.url": "https://chat.example/S3CR3T-2\n",
        "chat.secret": "S3CR3T-3\n", "night.password": "S3CR3T-4\n", "mail.password": "hunter2\n",
    }  # fmt: skip
    file = tmp_path / "stowage.yml"
    file.write_text(text)
    found = config.load(file, drivers.load()).settings.events
    assert set(found) == {"alive", "chat", "night", "mail"}
    assert found["alive"].options["url_file"] == "/etc/stowage/credentials/alive.url"
    assert found["chat"].options["secret_file"] == "/etc/stowage/credentials/chat.secret"
    assert found["chat"].events == ("run-finished",)
    assert filters.server_config({**given, "mail": ""})["events"].keys() == events.keys()
    assert "S3CR3T-2" in events["chat"]["url"]  # the inventory's own is left as it is


def test_two_mails_of_one_name_and_secrets_of_two_lines_are_refused():
    with pytest.raises(AnsibleFilterError, match="keep one"):
        filters.server_config({**GIVEN, "events": {"mail": {"type": "mail", "to": "x@y.example"}}})
    with pytest.raises(AnsibleFilterError, match="more than one line"):
        filters.credentials({}, {}, {"chat": {"type": "webhook", "secret": "a\nb"}})


@pytest.mark.parametrize("role", ["backup_client", "backup_server"])
def test_no_description_of_a_variable_holds_a_template(role):
    """Ansible resolves the whole file when the role begins: a variable that an example names would be undefined."""
    text = (Path(__file__).resolve().parents[3] / "roles" / role / "meta" / "argument_specs.yml").read_text()
    assert "backup_" in text and "{{" not in text and "{%" not in text

"""The inventory that people copy means what it says: ansible reads it, and the engine reads what it becomes."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("backupcore.hookspecs")
from ansible.inventory.manager import InventoryManager  # noqa: E402
from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.vars.manager import VariableManager  # noqa: E402
from ansible_collections.stowage.backup.plugins.filter import config as filters  # noqa: E402

from backupcore.app import config, drivers  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def inventory():
    """(groups, variables of a host)."""
    loader = DataLoader()
    found = InventoryManager(loader=loader, sources=[str(ROOT / "examples/inventory.yml")])
    manager = VariableManager(loader=loader, inventory=found)
    return found.get_groups_dict(), lambda host: manager.get_vars(host=found.get_host(host))


def test_it_has_one_server_and_35_clients(inventory):
    groups, _variables = inventory
    assert groups["backup_server"] == ["backup1.acme.lan"]
    assert len(groups["backup_clients"]) == 35


def test_its_server_is_configured_by_what_it_says(inventory, tmp_path):
    _groups, variables = inventory
    given = variables("backup1.acme.lan")
    defaults = yaml.safe_load((ROOT / "roles/backup_server/defaults/main.yml").read_text())
    settings = {**defaults, **{key: value for key, value in given.items() if key in defaults}}
    names = ("holding", "targets", "policies", "mail", "mail_options", "cycle_days", "dumps_at_once", "copies_at_once",
             "first_nights", "limits", "planning")  # fmt: skip
    made = {name: settings[f"backup_server_{name}"] for name in (*names, "state_folder")}
    file = tmp_path / "stowage.yml"
    made.update(credentials_folder=str(tmp_path), more=settings["backup_server_config"])
    file.write_text(json.dumps(filters.server_config(made)))  # what is JSON is YAML
    read = config.load(file, drivers.load()).settings
    assert (read.holding[0].use, read.policies["dumps"].compress) == (500 * 1024**3, "none")
    assert read.planning.limits["seconds"].amount == 4 * 8 * 3600
    assert set(read.targets) == {"cloud"} and settings["backup_server_start"] == "21:30"


def test_sources_of_groups_are_merged(inventory):
    _groups, variables = inventory
    given = variables("web07.acme.lan")
    names = ["backup_client_sources", *sorted(name for name in given if name.startswith("backup_client_sources_"))]
    merged = filters.merge_sources([[name, given[name]] for name in names])
    assert {name: source["path"] for name, source in merged.items()} == {
        "etc": "/etc", "home": "/home", "root": "/root", "www": "/var/www",
    }  # fmt: skip
    assert variables("nb03.acme.lan")["backup_client_presence"] == "roaming"

"""The engine's wheel is the same bytes every time and holds what pip would put into it."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import configparser
import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from ansible_collections.stowage.backup.plugins.action import engine_file
from ansible_collections.stowage.backup.plugins.plugin_utils import _wheel

ROOT = Path(__file__).resolve().parents[3]


def test_the_same_sources_give_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = Path(_wheel.build_wheel(str(ROOT), str(tmp_path / "a"))).read_bytes()
    two = Path(_wheel.build_wheel(str(ROOT), str(tmp_path / "b"))).read_bytes()
    assert one == two


def test_every_module_of_the_engine_is_inside(tmp_path):
    with zipfile.ZipFile(_wheel.build_wheel(str(ROOT), str(tmp_path))) as wheel:
        inside = {name for name in wheel.namelist() if name.endswith(".py")}
        assert wheel.testzip() is None
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "backupcore").rglob("*.py")}
    there |= {f"backupcore/hookspecs/{path.name}" for path in (ROOT / "hookspecs").glob("*.py")}
    assert inside == there


def test_one_version_everywhere():
    from backupcore import __version__

    project = _wheel.read_project(str(ROOT))["project"]["version"]
    collection = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert __version__ == project == collection


@pytest.mark.slow
def test_pip_makes_the_same_wheel_of_it(tmp_path):
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in ("backupcore", "hookspecs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "COPYING"):
        shutil.copy(ROOT / name, copy / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path / "pip"), str(copy)],
        check=True,
    )
    ours, theirs = Path(_wheel.build_wheel(str(ROOT), str(tmp_path))), next((tmp_path / "pip").glob("*.whl"))
    assert ours.name == theirs.name
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(theirs) as two:
        code = [{n: z.read(n) for n in z.namelist() if n.endswith(".py")} for z in (one, two)]
        assert code[0] == code[1]
        info = next(n.split("/")[0] for n in one.namelist() if ".dist-info/" in n)
        heads = [email.message_from_bytes(z.read(f"{info}/METADATA")) for z in (one, two)]
        for key in ("Name", "Version", "Summary", "Requires-Python", "License-Expression"):
            assert heads[0][key] == heads[1][key], key
        for key in ("Requires-Dist", "Provides-Extra"):
            lists = [sorted(v.replace('"', "'") for v in head.get_all(key, [])) for head in heads]
            assert lists[0] == lists[1], key
        points = []
        for archive in (one, two):
            parser = configparser.ConfigParser()
            parser.read_string(archive.read(f"{info}/entry_points.txt").decode())
            points.append({section: dict(parser[section]) for section in parser.sections()})
        assert points[0] == points[1]


def test_a_checkout_builds_and_an_installed_collection_takes_what_ships(tmp_path):
    assert engine_file.is_checkout(str(ROOT))
    built = Path(engine_file.find("agent", str(ROOT), str(tmp_path)))
    assert zipfile.is_zipfile(built)
    files = tmp_path / "roles/backup_client/files"
    files.mkdir(parents=True)
    (files / "agent.pyz").write_bytes(b"shipped")
    assert engine_file.find("agent", str(tmp_path), str(tmp_path)) == str(files / "agent.pyz")
    # sources beside it that ansible-galaxy installed are no checkout
    (tmp_path / "backupcore").mkdir()
    (tmp_path / "MANIFEST.json").touch()
    assert engine_file.find("agent", str(tmp_path), str(tmp_path)) == str(files / "agent.pyz")


def test_a_collection_without_the_engine_says_how_to_build_it(tmp_path):
    with pytest.raises(ValueError, match="make build"):
        engine_file.find("wheel", str(tmp_path), str(tmp_path))

"""What ships is complete and of one version."""

from __future__ import annotations

import re
from pathlib import Path

import tomllib
import yaml

import backupcore

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_every_package_of_the_engine_ships():
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "backupcore").rglob("__init__.py")
    } | {"backupcore.hookspecs"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_engine_collection_and_distribution_have_one_version():
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text("utf-8"))
    assert backupcore.__version__ == PROJECT["project"]["version"] == galaxy["version"]


def test_no_path_of_a_machine_is_in_the_repository():
    suspects = re.compile(r"/work/(main|shared)|/root/\.pyenv|/home/[a-z]+/[a-z]+/stowage")
    wrong = [
        str(path.relative_to(ROOT))
        for top in ("backupcore", "hookspecs", "plugins", "roles", "playbooks", "docs", "bench", "tests", "examples")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path != Path(__file__) and "__pycache__" not in path.parts
        and suspects.search(path.read_bytes().decode("utf-8", "replace"))
    ]  # fmt: skip
    assert not wrong

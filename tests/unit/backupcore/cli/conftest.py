"""The command as a person calls it, for the tests of verbs whose `world` has a stowage.yml in its root."""

from __future__ import annotations

import pytest

from backupcore import cli


@pytest.fixture
def stowage(world, capsys):
    """Runs the command in this process; (exit status, standard output, standard error)."""

    def stowage(*words):
        status = cli.main(["--config", str(world.root / "stowage.yml"), *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return stowage

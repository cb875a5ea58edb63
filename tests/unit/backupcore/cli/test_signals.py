"""Signals are handled while the command runs, and by whoever called it afterwards."""

from __future__ import annotations

import signal

from backupcore import cli


def test_the_callers_signal_handlers_come_back(tmp_path, capsys):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    assert cli.main(["--config", str(tmp_path / "absent.yml"), "status"]) == 2

    assert {number: signal.getsignal(number) for number in before} == before

"""^C is remembered and answered at a good moment, never in the middle of somebody else's work."""

# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from ansible_collections.stowage.backup.plugins.plugin_utils import _job


@pytest.mark.parametrize("signum", _job.Stop.SIGNALS)
def test_a_signal_ends_the_sleep_but_not_the_work(signum):
    before = signal.getsignal(signum)
    with _job.Stop() as stop:
        threading.Timer(0.1, os.kill, (os.getpid(), signum)).start()
        began = time.monotonic()
        stop.sleep(30)
        assert time.monotonic() - began < 25
        assert stop.signum == signum
    assert signal.getsignal(signum) == before


def test_without_a_signal_the_sleep_is_whole():
    with _job.Stop() as stop:
        began = time.monotonic()
        stop.sleep(0.5)
        assert time.monotonic() - began >= 0.5 and not stop.signum

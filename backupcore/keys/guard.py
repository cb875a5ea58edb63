"""Keeps what this process holds in memory out of core files and away from other processes of the same user.

Here lives that one step; it is taken before a private key or a passphrase is read. It cannot be taken back: a
process that held a key stays so. Root and swap are not kept out: docs/security.md says so.
"""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def keep_secret() -> None:
    """No core file of this process or its children, no debugger by its own user. Does what the system can."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        pass
    try:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (OSError, AttributeError):
        pass  # no Linux

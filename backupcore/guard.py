"""Keeps what this process holds in memory out of core files and away from other processes of the same user.

Here lives that one step; it is taken before a key or a passphrase is read or made. It cannot be taken back: a process
that held a key stays so. Root and swap are not kept out: docs/security.md says so.
"""

from __future__ import annotations

_PR_SET_DUMPABLE = 4


def no_core() -> None:
    """No core file of this process or its children: who has a file's key or the signing key."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        pass  # no Unix, or not ours to say


def keep_secret() -> None:
    """The same, and no debugger by its own user: who has a private key or a passphrase. Does what the system can."""
    no_core()
    import ctypes

    try:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (OSError, AttributeError):
        pass  # no Linux

"""SHA-256 for the agent: the interpreter's own for little, OpenSSL's for much.

OpenSSL's is several times as fast, but loading it takes 4 ms: as long as the interpreter's own needs for a megabyte,
and most dumps are smaller.
"""

from __future__ import annotations

import sys

try:
    from _sha256 import sha256 as own  # up to Python 3.11
except ImportError:
    try:
        from _sha2 import sha256 as own
    except ImportError:  # an interpreter that was built without
        from hashlib import sha256 as own

LITTLE = 1 << 20  # bytes that the interpreter's own is good for

__all__ = ["LITTLE", "at_hand", "own", "quick"]

def quick() -> object:
    """OpenSSL's, loaded when it is not there yet."""
    from hashlib import sha256

    return sha256

def at_hand() -> object:
    """OpenSSL's when it is there already, else the interpreter's own."""
    return quick() if "_hashlib" in sys.modules else own

"""Starts the agent out of the installed package, for a restore to a folder of this very machine.

Here lives only the start, the same as that of agent.pyz, which need not be made for it: no sources of others are
needed to unpack, and Python keeps the byte code of what is installed. Run as a file, by `python -I`.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from backupcore.agent.serve import main

    status = main({}, sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the server waits for this

"""The engine's command as a module calls it: `stowage`, in a folder of a test's own.

Here lives that one file; what it is called with and what it answers is the test's.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = "import sys; from backupcore.cli import main; sys.exit(main())"


def make(folder: Path, note: bool = False) -> Path:
    """folder/stowage. note: it adds to folder/seen what others could have seen of it, words and environment."""
    command = folder / "stowage"
    seen = f'{{ echo "$@"; env; }} >>{folder}/seen\n' if note else ""
    command.write_text(f"#!/bin/sh\n{seen}exec env PYTHONPATH={ROOT} {sys.executable} -c '{CODE}' \"$@\"\n")
    command.chmod(0o755)
    return command

"""agent.pyz for tests: built once in a process, the same bytes for whoever wants it, with its byte code beside it.

Building takes half a second and the first start of an agent without byte code a quarter: hundreds of tests need one.
Building itself and byte code are tested in test_agent_build.py and test_bytecode.py, which do not take it from here.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Dict, Tuple

from backupcore.agent import bytecode
from backupcore.app.agent_build import build_agent

# What is 0.1 s old is not young and the heart beats quickly: tests need not wait.
HURRY = (
    ("archive", b"SAFE_AGE = 2_000_000_000", b"SAFE_AGE = 100_000_000"),
    ("line", b"BEAT = 5.0", b"BEAT = 0.2"),
)
_made: Dict[tuple, Tuple[bytes, bytes]] = {}


def put(path: Path, changes: tuple = (), code: bool = True) -> None:
    """Writes agent.pyz to path. changes: (module of the agent, bytes in it, bytes instead); code: byte code, too,
    where an agent would write it (as root)."""
    agent, kept = _made.get(changes) or _made.setdefault(changes, _make(changes))
    for place, data in ((path, agent), (Path(f"{path}.code"), kept)):
        place.unlink(missing_ok=True)
        if data and (place == path or code):
            place.write_bytes(data)
            place.chmod(0o644)


def _make(changes: tuple) -> Tuple[bytes, bytes]:
    """(agent.pyz, its byte code, empty when this is not root)."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "agent.pyz"
        build_agent(str(place))
        if changes:
            with zipfile.ZipFile(place) as archive:
                files = {name: archive.read(name) for name in archive.namelist()}
            for module, before, now in changes:
                name = f"backupcore/agent/{module}.py"
                assert files[name].count(before) == 1
                files[name] = files[name].replace(before, now)
            with zipfile.ZipFile(place, "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            place.chmod(0o644)
        bytecode.keep(str(place))
        code = Path(f"{place}.code")
        return place.read_bytes(), code.read_bytes() if code.exists() else b""

"""Builds the collection's tarball as it ships: the engine's wheel and agent.pyz inside the roles.

    python tests/build.py DIST

Only files that git tracks (or would) are taken, so that nothing of this machine ships. The wheel and agent.pyz
are byte-reproducible; the tarball of ansible-galaxy is not (it carries times).
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load(path: Path, name: str):
    """A module of the repository by its path, without installing anything."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tracked() -> list[str]:
    """Files of the checkout, tracked or new, without the ignored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def main(dist: str) -> int:
    """Builds into dist; prints the tarball's path."""
    target = Path(dist).resolve()
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("stowage-backup-*.tar.gz"):
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "stowage"
        for name in tracked():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
        wheel = load(ROOT / "plugins/plugin_utils/_wheel.py", "stowage_wheel")
        agent = load(ROOT / "backupcore/app/agent_build.py", "stowage_agent_build")
        server_files = copy / "roles/backup_server/files"
        client_files = copy / "roles/backup_client/files"
        server_files.mkdir(parents=True, exist_ok=True)
        client_files.mkdir(parents=True, exist_ok=True)
        wheel.build_wheel(str(copy), str(server_files))
        agent.build_agent(str(client_files / "agent.pyz"))
        subprocess.run(
            [str(Path(sys.executable).parent / "ansible-galaxy"), "collection", "build", str(copy),
             "--output-path", str(target), "--force"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    print(next(target.glob("stowage-backup-*.tar.gz")))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "dist"))

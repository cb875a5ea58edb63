"""The collection as the version before was: built from the newest release, else from an older state of this repository.

    python tests/lab/previous.py DIR      builds into DIR/dist, prints JSON: file, version, of (a tag or a commit), true

Where no release is tagged, the commit OLDER is taken and given the number of the minor version before this one. Where
the history of the clone does not reach so far, this very state under that number: then `true` is false, and it is said
on standard error, since nothing old is tried then.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDER = "1106fd89f8"  # before targets, retention and events of issue 5 and the resume of issue 6
NUMBERED = ("galaxy.yml", "pyproject.toml", "backupcore/__init__.py")


def git(*words: str) -> str:
    """What git says, '' when it fails."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def number(text: str) -> tuple[int, ...]:
    """1.2.3 as numbers that compare."""
    return tuple(int(word) for word in re.findall(r"\d+", text)[:3])


def version(tree: Path) -> str:
    """The version of a checkout."""
    return re.search(r'__version__ = "([^"]+)"', (tree / "backupcore/__init__.py").read_text())[1]


def before(now: str) -> str:
    """A version number of the minor version before."""
    major, minor = number(now)[:2]
    return f"{major}.{minor - 1}.9" if minor else f"{max(0, major - 1)}.9.9"


def released(now: str) -> str:
    """The newest tag of an older version, '' when there is none."""
    tags = [tag for tag in git("tag", "--list").splitlines() if re.fullmatch(r"v?\d+\.\d+\.\d+", tag)]
    return max((tag for tag in tags if number(tag) < number(now)), key=number, default="")


def export(commit: str, tree: Path) -> None:
    """The files of a commit as a checkout of their own."""
    tree.mkdir(parents=True)
    archive = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-xf", "-", "-C", str(tree)], stdin=archive.stdout, check=True)
    archive.stdout.close()
    if archive.wait():
        sys.exit(f"git archive {commit} failed")
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)


def main() -> int:
    place = Path(sys.argv[1]).resolve()
    tree, dist = place / "tree", place / "dist"
    shutil.rmtree(tree, ignore_errors=True)
    now = version(ROOT)
    of = released(now)
    lowered = not of
    of = of or (OLDER if git("cat-file", "-t", OLDER) == "commit" else "")
    if not of:
        print(f"WARNING: the history of this clone does not hold {OLDER}: the version before is this one with a lower "
              "number, and no old agent is tried", file=sys.stderr)  # fmt: skip
    export(of or "HEAD", tree)
    if lowered:
        for name in NUMBERED:
            path = tree / name
            text = path.read_text()
            path.write_text(text.replace(now, before(now), 1))
        if version(tree) != before(now):
            sys.exit(f"{of or 'this version'} is {version(tree)}, not {now}: choose another commit for OLDER")
    subprocess.run([sys.executable, str(tree / "tests/build.py"), str(dist)], cwd=tree, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    (tarball,) = dist.glob("stowage-backup-*.tar.gz")
    print(json.dumps({"file": str(tarball), "version": version(tree), "of": of or "HEAD", "true": bool(of)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

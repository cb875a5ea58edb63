"""agent.pyz: one file from the sources that the agent needs, the same bytes from the same sources.

Here live finding them (the closure of imports, from the agent's serve and the client halves of the sources) and
writing the zip; standard library only, since the Ansible controller builds it too. `python -m
backupcore.app.agent_build OUT`.
"""

from __future__ import annotations

import ast
import io
import os
import sys
import zipfile
from typing import Dict, Iterator, List, Mapping, Optional, Tuple

HALVES = {"tree": "backupcore.agent.tree"}
START = "backupcore.agent.serve"
BYTECODE = "backupcore.agent.bytecode"
# What the agent looks for at run time and works without.
OPTIONAL = frozenset(("_sha2", "_sha256", "_socket", "compression", "cryptography", "zstandard"))
_MAIN = '''"""Starts the agent."""
import os
import sys

if sys.version_info < (3, 8):
    sys.exit("the agent of Stowage needs Python 3.8 or newer, this is %%d.%%d" %% sys.version_info[:2])
from backupcore.agent import bytecode

archive = os.path.dirname(os.path.abspath(__file__))
kept = bytecode.use(archive)
from backupcore.agent.serve import main

status = main(%s, sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
if not kept and not status and sys.argv[-1] == "serve":
    bytecode.keep(archive)
os._exit(status)  # the server waits for this: all that was asked is done, and nothing needs to be taken apart
'''
_TIME = (1980, 1, 1, 0, 0, 0)


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _find(name: str, root: str) -> Optional[Tuple[str, bool]]:
    """(file, is a package) of a module below root or on the path, None when there is no such file."""
    for folder in (root, *sys.path):
        base = os.path.join(folder or ".", *name.split("."))
        if os.path.isfile(os.path.join(base, "__init__.py")):
            return os.path.join(base, "__init__.py"), True
        if os.path.isfile(base + ".py"):
            return base + ".py", False
    return None


def _imports(tree: ast.AST, package: str) -> Iterator[Tuple[str, ...]]:
    """What a module imports, also inside functions: for each import the dotted names it may mean."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.name,)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join(parts + ([base] if base else []))
            for alias in node.names:
                yield base, base + "." + alias.name


def closure(start: List[str], root: str) -> Tuple[Dict[str, str], List[str]]:
    """(module -> file, foreign modules imported) of everything that start needs. Raises ValueError for a module of
    ours that is missing."""
    ours = {name.split(".")[0] for name in start}
    found: Dict[str, str] = {}
    foreign = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        packages = (".".join(parts[:count]) for count in range(1, len(parts)))
        waiting.extend(package for package in packages if package not in found)
        if name in found:
            continue
        place = _find(name, root)
        if place is None:
            raise ValueError("the agent needs %s, which is not there" % name)
        path, is_package = place
        found[name] = path
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
        for names in _imports(tree, name if is_package else name.rpartition(".")[0]):
            if names[0].split(".")[0] not in ours:
                foreign.add(names[0])
                continue
            for one in names:
                if one not in found and _find(one, root) is not None:
                    waiting.append(one)
    return found, sorted(foreign)


def build_agent(dest: str, halves: Optional[Mapping[str, str]] = None) -> bytes:
    """Writes agent.pyz to dest; returns its bytes. halves: type of source -> module of its client half, besides
    the built-in ones. Raises ValueError."""
    every = dict(HALVES, **(halves or {}))
    root = _root()
    modules, foreign = closure([START, BYTECODE, *every.values()], root)
    known = getattr(sys, "stdlib_module_names", None)
    strange = [name for name in foreign if known and name.split(".")[0] not in known | OPTIONAL]
    if strange:
        raise ValueError("the agent may import the standard library only, not %s" % ", ".join(strange))
    files = {"__main__.py": (_MAIN % repr(dict(sorted(every.items())))).encode("utf-8")}
    for name, path in modules.items():
        inside = name.replace(".", "/") + ("/__init__.py" if os.path.basename(path) == "__init__.py" else ".py")
        with open(path, "rb") as file:
            files[inside] = file.read()
    packed = io.BytesIO()
    # stored, not deflated: no two zlibs pack alike, and it starts quicker
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    data = packed.getvalue()
    temporary = "%s.%d.tmp" % (dest, os.getpid())
    with open(temporary, "wb") as out:
        out.write(data)
    os.chmod(temporary, 0o644)
    os.replace(temporary, dest)
    return data


def main(argv: List[str]) -> int:
    """The command line: where to write it, and TYPE=MODULE for further client halves."""
    if not argv or argv[0].startswith("-"):
        sys.stderr.write("usage: python -m backupcore.app.agent_build OUT [TYPE=MODULE...]\n")
        return 2
    try:
        build_agent(argv[0], dict(word.split("=", 1) for word in argv[1:]))
    except (OSError, ValueError, SyntaxError) as error:
        sys.stderr.write("agent.pyz was not built: %s\n" % error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

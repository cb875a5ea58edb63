# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is **PRIVATE** to the collection. It can have breaking changes at any time.

"""Writes a wheel of the engine from its sources, the same bytes every time, with the standard library alone.

What goes in is read from pyproject.toml, so that nothing is said twice; a test compares it with ``pip wheel``.
What else the roles bring to a machine, agent.pyz, is made by backupcore/app/agent_build.py.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import zipfile

WHEEL = "Wheel-Version: 1.0\nGenerator: stowage.backup\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def read_project(root: str) -> dict:
    """The parsed pyproject.toml of a checkout. Raises ValueError on a Python that cannot read it."""
    try:
        import tomllib
    except ImportError:
        raise ValueError("building the engine from a checkout needs Python 3.11 or newer on the controller") from None
    with open(os.path.join(root, "pyproject.toml"), "rb") as stream:
        return tomllib.load(stream)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _metadata(project: dict) -> str:
    lines = [
        "Metadata-Version: 2.4",
        "Name: " + project["name"],
        "Version: " + project["version"],
        "Summary: " + project["description"],
        "License-Expression: " + project["license"],
        "Requires-Python: " + project["requires-python"],
    ]
    lines += ["Requires-Dist: " + need for need in project.get("dependencies", [])]
    for extra, needs in sorted(project.get("optional-dependencies", {}).items()):
        lines.append("Provides-Extra: " + extra)
        lines += ["Requires-Dist: %s; extra == '%s'" % (need, extra) for need in needs]
    return "\n".join(lines) + "\n"


def _entry_points(project: dict) -> str:
    groups = {"console_scripts": project.get("scripts", {})}
    groups.update(project.get("entry-points", {}))
    text = []
    for group, entries in sorted(groups.items()):
        text.append("[%s]" % group)
        text += ["%s = %s" % entry for entry in sorted(entries.items())]
        text.append("")
    return "\n".join(text)


def _package_files(root: str, tool: dict) -> dict[str, bytes]:
    """Name in the wheel -> content of every module of the packages that pyproject.toml lists."""
    places = tool.get("package-dir", {})
    files = {}
    for package in tool["packages"]:
        folder = os.path.join(root, *places.get(package, package.replace(".", "/")).split("/"))
        for name in os.listdir(folder):
            if name.endswith(".py"):
                with open(os.path.join(folder, name), "rb") as stream:
                    files["%s/%s" % (package.replace(".", "/"), name)] = stream.read()
    return files


def wheel_name(root: str) -> str:
    """The file name of the wheel of a checkout."""
    project = read_project(root)["project"]
    return "%s-%s-py3-none-any.whl" % (_normalised(project["name"]), project["version"])


def build_wheel(root: str, folder: str) -> str:
    """Writes the wheel of the sources below root into folder; returns its path."""
    whole = read_project(root)
    project = whole["project"]
    files = _package_files(root, whole["tool"]["setuptools"])
    info = "%s-%s.dist-info" % (_normalised(project["name"]), project["version"])
    described = {
        "METADATA": _metadata(project).encode(),
        "WHEEL": WHEEL.encode(),
        "entry_points.txt": _entry_points(project).encode(),
        "top_level.txt": b"backupcore\n",
    }
    entries = sorted(files.items()) + sorted(("%s/%s" % (info, name), data) for name, data in described.items())
    record = []
    for name, data in entries:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append("%s,sha256=%s,%d\n" % (name, digest, len(data)))
    record.append("%s/RECORD,,\n" % info)
    entries.append(("%s/RECORD" % info, "".join(record).encode()))
    path = os.path.join(folder, wheel_name(root))
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            # stored: deflate's output depends on the zlib at hand, and the bytes must not
            archive.writestr(entry, data, zipfile.ZIP_STORED)
    return path

"""Loading drivers: through the hooks, one broken package named and skipped, rivals refused by name."""

from __future__ import annotations

import sys
import textwrap

import pytest

from backupcore.app import drivers

HEAD = """
from pydantic import BaseModel
from backupcore.hookspecs import TargetDriver, EventDriver, hookimpl

class Options(BaseModel):
    pass
"""
WEBDAV = HEAD + """
@hookimpl
def stowage_targets():
    return [TargetDriver("webdav", "a WebDAV share", Options, None)]
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a distribution with an entry point of the group stowage, as pip would."""

    def install(name, code, version="1.2"):
        site = tmp_path / name
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[stowage]\n{name} = {name}_drivers\n")
        (site / f"{name}_drivers.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, f"{name}_drivers", raising=False)

    return install


def types(found, kind):
    return set(found.of(kind))


def test_the_built_in_drivers_come_in_through_the_hooks_without_being_installed():
    found = drivers.load()
    assert {"directory"} <= types(found, "target")
    assert types(found, "source") == {"tree"}
    assert types(found, "event") == {"mail", "ping", "textfile", "webhook"}
    assert {one.origin for one in found.loaded} == {"built in"}
    assert found.broken == ()


def test_a_third_partys_driver_is_found_and_named_with_its_package(package):
    package("acme", WEBDAV)
    (one,) = [one for one in drivers.load().loaded if one.driver.type == "webdav"]
    assert (one.kind, one.origin) == ("target", "acme 1.2")


def test_external_drivers_can_be_turned_off(package, monkeypatch):
    package("acme", WEBDAV)
    monkeypatch.setenv("STOWAGE_DISABLE_DRIVERS", "1")
    assert "webdav" not in types(drivers.load(), "target")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("raise SystemError('no')", "SystemError: no"),
        (HEAD + "@hookimpl\ndef stowage_targets():\n    return [object()]\n", "returned object, not TargetDriver"),
        (HEAD + "@hookimpl\ndef stowage_targets():\n    raise ValueError('x\\ny')\n", "ValueError: x y"),
        (HEAD + "@hookimpl\ndef stowage_targets():\n    return 3\n", "TypeError"),
        (HEAD + "@hookimpl\ndef stowage_tragets():\n    return []\n", "stowage_tragets"),
        (HEAD + "@hookimpl\ndef stowage_targets():\n    return [TargetDriver('x', '', dict, None)]\n", "pydantic"),
        ("x = 1", "brings no driver"),
    ],
)
def test_a_broken_driver_is_named_and_skipped(package, code, why):
    package("acme", code)
    found = drivers.load()
    assert "directory" in types(found, "target")
    (line,) = found.broken
    assert line.startswith("acme (acme 1.2): ")
    assert why in line
    assert "\n" not in line


def test_two_drivers_of_one_type_are_refused_by_name(package):
    package("acme", WEBDAV)
    package("zeta", WEBDAV)
    found = drivers.load()
    assert "webdav" not in types(found, "target")
    assert found.broken == ("target webdav: brought by acme 1.2 and zeta 1.2; none of them is used",)


def test_nobody_takes_the_place_of_a_built_in_driver(package):
    package("acme", WEBDAV.replace('"webdav"', '"directory"'))
    found = drivers.load()
    (one,) = [one for one in found.loaded if one.driver.type == "directory"]
    assert one.origin == "built in"
    assert found.broken == ("target directory of acme 1.2: there is a built-in driver of this type",)

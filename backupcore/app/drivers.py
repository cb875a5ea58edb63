"""The drivers: ours and third parties', all through the hooks of hookspecs/ and pluggy.

Here lives finding and loading; what a driver must hold lives in hookspecs/. One broken driver is named and
skipped; two drivers of one type are both refused by name, since nobody could tell which of them answers.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

import pluggy

from .. import hookspecs

KINDS = ("source", "target", "event")
_BUILT_IN = {"builtin-" + room: "backupcore." + room for room in ("sources", "targets", "events")}


@dataclass(frozen=True)
class Loaded:
    """One driver and where it comes from: `built in` or `package 1.2`."""

    kind: str
    driver: Any
    origin: str


@dataclass(frozen=True)
class Drivers:
    """All drivers at hand, and one line for each that could not be loaded."""

    loaded: Tuple[Loaded, ...]
    broken: Tuple[str, ...] = ()

    def of(self, kind: str) -> Mapping[str, Any]:
        """type -> driver of a kind: source, target or event."""
        return {one.driver.type: one.driver for one in self.loaded if one.kind == kind}

    def broken_message(self) -> str:
        """What to say where a driver is missing and others could not be loaded; '' when all were."""
        return "not loaded: " + "; ".join(self.broken) if self.broken else ""


def load() -> Drivers:
    """Loads the built-in drivers, and the external ones unless STOWAGE_DISABLE_DRIVERS is set."""
    broken: List[str] = []
    found: List[Loaded] = []
    for name, module in _BUILT_IN.items():
        found.extend(_drivers(name, importlib.import_module(module), "built in", broken))
    if not os.environ.get("STOWAGE_DISABLE_DRIVERS"):
        for entry, origin in _entry_points():
            try:
                plugin = entry.load()
            except Exception as error:  # a third party's code may raise anything: it is named and skipped
                broken.append(f"{entry.name} ({origin}): {_one_line(error)}")
                continue
            found.extend(_drivers(entry.name, plugin, origin, broken))
    return Drivers(tuple(_without_rivals(found, broken)), tuple(broken))


def _entry_points() -> List[Tuple[Any, str]]:
    """Entry points of third parties, once each, with `package version`."""
    from importlib.metadata import entry_points

    found = {}
    for entry in entry_points(group=hookspecs.PROJECT):
        if _BUILT_IN.get(entry.name) == entry.value:
            continue
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown package"
        found[(entry.name, entry.value)] = (entry, package)
    return [found[key] for key in sorted(found)]


def _drivers(name: str, plugin: Any, origin: str, broken: List[str]) -> List[Loaded]:
    """What one package brings, through its own plugin manager so that its failure is its own."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs.StowageSpec)
    found: List[Loaded] = []
    try:
        manager.register(plugin, name)
        manager.check_pending()
        for kind in KINDS:
            contract = {"source": hookspecs.SourceDriver, "target": hookspecs.TargetDriver}.get(
                kind, hookspecs.EventDriver
            )
            for drivers in getattr(manager.hook, f"stowage_{kind}s")():
                for driver in drivers:
                    if not isinstance(driver, contract):
                        raise TypeError(f"stowage_{kind}s returned {type(driver).__name__}, not {contract.__name__}")
                    if not hasattr(driver.options, "model_validate"):
                        raise TypeError(f"the options of {kind} {driver.type} are no pydantic model")
                    found.append(Loaded(kind, driver, origin))
    except Exception as error:  # as above
        if origin == "built in":
            raise
        broken.append(f"{name} ({origin}): {_one_line(error)}")
        return []
    if not found and origin != "built in":
        broken.append(f"{name} ({origin}): brings no driver")
    return found


def _without_rivals(found: List[Loaded], broken: List[str]) -> List[Loaded]:
    by_type: Dict[Tuple[str, str], List[Loaded]] = {}
    for one in found:
        by_type.setdefault((one.kind, one.driver.type), []).append(one)
    kept = []
    for (kind, word), rivals in by_type.items():
        if len(rivals) == 1:
            kept += rivals
        elif rivals[0].origin == "built in":
            kept.append(rivals[0])  # nobody takes the place of a built-in driver
            others = ", ".join(one.origin for one in rivals[1:])
            broken.append(f"{kind} {word} of {others}: there is a built-in driver of this type")
        else:
            origins = " and ".join(one.origin for one in rivals)
            broken.append(f"{kind} {word}: brought by {origins}; none of them is used")
    return kept


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

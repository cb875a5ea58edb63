"""What holds for the copies of a source: the layers of the configuration, one over the other, and where keys stand.

The layers are the configuration's own `copies`, the policy's, the client's and the source's. An entry for a target that
has one changes it key by key, another adds one, `dumps: none` takes it away. Where neither the configuration nor the
policy says a word of copies, the built-in ones are below. Here live the layers and what must not stand together in
them; the shape of an entry lives in schema.py, what the keys do in backupcore.stage.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .. import hours
from .. import settings as s
from . import schema
from .config_files import nearest
from .config_told import missing, path
from .yaml_lines import Loc, Place

# An entry where nobody wrote copies: of everything on every target, as long as people mostly want it.
BUILT_IN: Mapping[str, Any] = {"keep": schema.Keep(daily=14, weekly=8, monthly=12)}
KEPT = "the last of 14 days, 8 weeks and 12 months"


class Said(NamedTuple):
    """What a source has in the end: the fields of settings.Source of that name."""

    copies: Tuple[s.CopyRule, ...]
    holding: str
    min_copies: Optional[int]
    origins: Mapping[str, str]


class Copies:
    """Puts the layers together. wrong: takes (loc, message, hint)."""

    def __init__(self, root: schema.Root, places: Mapping[Loc, Place], wrong: Callable[..., None],
                 warnings: List[str]):  # fmt: skip
        self.root, self.places, self._wrong, self.warnings = root, places, wrong, warnings
        self._policies: Dict[str, Tuple[Dict[str, "_Entry"], Mapping[str, str]]] = {}

    def of_policy(self, name: str, one: schema.Policy) -> Tuple[s.CopyRule, ...]:
        """The rules of a policy's sources that say nothing themselves."""
        entries: Dict[str, _Entry] = {}
        if self.root.copies is None and one.copies is None:
            entries = {target: _Entry(dict(BUILT_IN), {}) for target in self.root.targets}
        self._lay(entries, ("copies",), self.root.copies)
        self._lay(entries, ("policies", name, "copies"), one.copies)
        origins = self._scalars(("policies", name), one)
        self._policies[name] = entries, origins
        return self._rules(entries, ("policies", name))

    def of_source(self, client: str, of_client: schema.Client, source: str, raw: schema.Source,
                  policy: s.Policy) -> Said:  # fmt: skip
        """What a source has, in the order of Said. of_policy() was asked for its policy before."""
        below, written = self._policies[policy.name]
        layers = ((("clients", client), of_client), (("clients", client, "sources", source), raw))
        copies, entries = policy.copies, below
        if any(one.copies for _loc, one in layers):
            entries = {target: _Entry(dict(entry.keys), dict(entry.locs)) for target, entry in below.items()}
            for loc, one in layers:
                self._lay(entries, (*loc, "copies"), one.copies)
            copies = self._rules(entries, layers[1][0])
        holding, least, origins = policy.holding, policy.min_copies, dict(written)
        for loc, one in layers:
            holding = one.holding or holding
            least = least if one.min_copies is None else one.min_copies
            origins.update(self._scalars(loc, one))
        for target, entry in entries.items():
            origins.update({f"copies.{target}.{key}": self._at(at) for key, at in entry.locs.items()})
        # an entry asks for a source's dumps as a whole: the most cautious word counts
        told = [entry.keys["min_copies"] for entry in entries.values()
                if entry.keys.get("min_copies") and entry.keys.get("dumps") != "none"]  # fmt: skip
        if told:
            least = max(least or 0, *told)
        return Said(copies, holding, least, origins)

    def _scalars(self, loc: Loc, one: Any) -> Dict[str, str]:
        """Keys that a section writes itself -> where."""
        said = [key for key in one.model_fields_set if key in _TOLD]
        return {key: self._at((*loc, key)) for key in said}

    def _at(self, loc: Loc) -> str:
        return str(nearest(self.places, loc))

    def _lay(self, entries: Dict[str, "_Entry"], loc: Loc, copies: Optional[Sequence[schema.Copy]]) -> None:
        seen = set()
        for number, copy in enumerate(copies or ()):
            here = (*loc, number)
            if copy.target not in self.root.targets:
                self._wrong((*here, "target"), *missing((*here, "target"), "target", copy.target, self.root.targets))
                continue
            if copy.target in seen:
                self._wrong((*here, "target"), f'{path(loc[:-1] or loc)}: target "{copy.target}" stands twice')
            seen.add(copy.target)
            entry = entries.setdefault(copy.target, _Entry({}, {}))
            if entry.keys.get("dumps") == "none" and "dumps" not in copy.model_fields_set:
                self._warn(here, f'"{copy.target}" is taken away by {self._at(entry.locs["dumps"])}: '
                                 "write dumps: all to have it back")  # fmt: skip
            for key in copy.model_fields_set - {"target"}:
                entry.keys[key] = getattr(copy, key)
                entry.locs[key] = (*here, key)
            entry.locs["target"] = (*here, "target")

    def _warn(self, loc: Loc, told: str) -> None:
        warning = f"{self._at(loc)}: {path(loc)}: {told}"
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _rules(self, entries: Mapping[str, "_Entry"], loc: Loc) -> Tuple[s.CopyRule, ...]:
        found = {}
        for target, entry in entries.items():
            if entry.keys.get("dumps") != "none":
                found[target] = self._rule(target, entry)
        for target, rule in found.items():
            self._look_at_after(entries[target].locs, rule, found)
        return tuple(found.values())

    def _rule(self, target: str, entry: "_Entry") -> s.CopyRule:
        said = {key: value for key, value in entry.keys.items() if value is not None}
        days, window = said.pop("days", None), said.pop("window", None)
        keep = said.pop("keep", None)
        said.pop("min_copies", None)  # of the source
        if isinstance(keep, schema.Keep):
            keep = keep.model_dump(exclude_none=True)
        windows = None
        if days is not None or window is not None:
            windows = (window or hours.ALWAYS).on(hours.ALL if days is None else days)
            if not windows.spans:
                loc = entry.locs["days" if "days" in entry.locs else "window"]
                self._wrong(loc, f"{path(loc)}: on none of these days a window begins")
        return s.CopyRule(target, windows=windows, keep=keep or {}, **said)

    def _look_at_after(self, locs: Mapping[str, Loc], rule: s.CopyRule, rules: Mapping[str, s.CopyRule]) -> None:
        if not rule.after:
            return
        loc = locs["after"]
        if rule.after not in self.root.targets:
            self._wrong(loc, *missing(loc, "target", rule.after, self.root.targets))
            return
        way = [rule.target]
        while (before := rules[way[-1]].after if way[-1] in rules else ""):
            if before == rule.target:
                told = "itself" if len(way) == 1 else " after ".join(f'"{name}"' for name in [*way[1:], before])
                self._wrong(loc, f'{path(loc)}: "{rule.target}" would wait for {told}')
                return
            if before in way:
                return  # that circle is told where it closes
            way.append(before)


class _Entry(NamedTuple):
    """What is said of a target so far, and where."""

    keys: Dict[str, Any]
    locs: Dict[str, Loc]


_TOLD = frozenset(
    (*schema.Timing.model_fields, "holding", "min_copies", "policy", "compress", "gzip_fallback", "encrypt", "rpo",
     "keep_on_holding", "part_size", "resume")
)  # fmt: skip

"""Reads stowage.yml and clients.d/*.yml into settings.Settings; every mistake is told with file, line and word.

Here live references between sections and messages; the files themselves are read in config_files.py, the shape of
the sections lives in schema.py, places in yaml_lines.py. Nothing here opens the catalog, a target or a connection.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from pydantic import ValidationError

from .. import settings as s
from ..agent import patterns
from ..hookspecs import EVENT_KINDS
from ..ids import is_name
from ..schedule import nights
from ..text import duration
from . import config_files, config_places, config_prices, schema
from .config_copies import Copies
from .config_files import Written, Wrong, nearest
from .config_told import add_all, missing, own_keys, path
from .drivers import Drivers
from .yaml_lines import Loc, Place

DEFAULT = Path("/etc/stowage/stowage.yml")


@dataclass(frozen=True)
class Configuration:
    """The settings, the place of each section in the files, and what is worth a warning."""

    settings: s.Settings
    places: Mapping[Loc, Place] = field(repr=False)
    warnings: Tuple[str, ...] = ()

    def place(self, *loc: Any) -> str:
        """`FILE:LINE` of a section such as ("clients", "web1"), or of the nearest one above that is written."""
        return str(nearest(self.places, loc))


def load(file: Union[str, Path], drivers: Drivers, written: Optional[Written] = None) -> Configuration:
    """The whole configuration; written: what was read of it already. Raises ConfigError, ConfigErrors for several."""
    written = written or config_files.read(file)
    places, wrong = written.places, written.wrong
    try:
        root = schema.Root.model_validate(written.content)
    except ValidationError as error:
        add_all(wrong, error, schema.Root, ())
        root = None
    wrong.stop()
    builder = _Builder(root, drivers, places, wrong, written.file)
    made = builder.settings()
    wrong.stop()
    return Configuration(made, places, tuple(builder.warnings))


class _Builder:
    """From the checked shape to Settings: names, references, driver options."""

    def __init__(self, root: schema.Root, drivers: Drivers, places: Dict[Loc, Place], wrong: Wrong, file: Path):
        self.root, self.drivers, self.places, self.wrong, self.file = root, drivers, places, wrong, file
        self.warnings: List[str] = []

    def settings(self) -> s.Settings:
        root, folder = self.root, self.file.parent
        for section in ("targets", "policies", "clients", "events", "networks"):
            for name in getattr(root, section):
                self._name((section, name), section[:-1] if section != "policies" else "policy")
        seen: Dict[str, int] = {}
        for number, disk in enumerate(root.holding):
            if seen.setdefault(disk.path, number) != number:
                self._wrong(("holding", number, "path"), f'the holding disk "{disk.path}" stands twice')
        targets = {
            name: s.TargetSettings(
                name, one.type, self._options("target", ("targets", name), one),
                None, self._is_remote(one.type), one.rate,
            )
            for name, one in root.targets.items()
        }  # fmt: skip
        targets = {name: config_prices.priced(self, one) for name, one in targets.items()}
        config_places.look(self, targets)
        events = {name: self._event(name, one) for name, one in root.events.items()}
        raw = {"standard": schema.Policy(), **root.policies}
        self.copies = Copies(root, self.places, self._wrong, self.warnings)
        policies = {name: self._policy(name, one) for name, one in raw.items()}
        state = Path(root.state)
        return s.Settings(
            file=self.file,
            state=state,
            keys=Path(root.keys.folder) if root.keys else state / "keys",
            holding=tuple(s.HoldingDisk(Path(one.path), one.use, one.warn) for one in root.holding),
            cycle_days=float(root.cycle.days),
            targets=types.MappingProxyType(targets),
            policies=types.MappingProxyType(policies),
            clients=types.MappingProxyType({n: self._client(n, one, policies) for n, one in root.clients.items()}),
            events=types.MappingProxyType(events),
            dumps_at_once=root.dumps_at_once,
            copies_at_once=root.copies_at_once,
            connect_timeout=root.timeouts.connect,
            silence_timeout=root.timeouts.silence,
            dump_timeout=root.timeouts.dump,
            known_hosts=Path(root.ssh.known_hosts or folder / "known_hosts.d"),
            ssh_key=Path(root.ssh.key or folder / "ssh/id_ed25519"),
            ssh_program=root.ssh.program,
            verify=s.VerifySettings(**root.verify.model_dump()),
            drill=s.DrillSettings(**root.drill.model_dump()),
            prune=s.PruneSettings(**root.prune.model_dump()),
            planning=self._planning(),
            networks=types.MappingProxyType(
                {name: s.Network(name, one.rate, one.dumps) for name, one in root.networks.items()}
            ),
            retry=s.RetrySettings(**root.retry.model_dump()),
        )

    def _planning(self) -> s.PlanningSettings:
        root, limits = self.root, {}
        given = root.limits
        if root.cycle.first_night and root.cycle.first_nights is not None:
            self._wrong(("cycle", "first_night"), "cycle.first_night and cycle.first_nights say the same: keep one")
        for name in given.targets:
            if name not in root.targets:
                self._missing(("limits", "targets", name), "target", name, root.targets)
        if given.bytes:
            limits["bytes"] = s.NightLimit(*given.bytes)
        if given.window:  # so many dumps run at once, each for so long
            limits["seconds"] = s.NightLimit(given.window[0] * root.dumps_at_once, given.window[1])
        if given.holding:
            limits["holding"] = s.NightLimit(*given.holding)
        limits.update({f"target:{name}": s.NightLimit(*one) for name, one in given.targets.items()})
        return s.PlanningSettings(
            estimate=root.planning.estimate,
            estimate_time=root.planning.estimate_time,
            first_nights=1 if root.cycle.first_night else root.cycle.first_nights,
            server_grace=root.cycle.server_grace,
            limits=types.MappingProxyType(limits),
        )

    def _timing(self, loc: Loc, *said: schema.Timing) -> s.Timing:
        """What holds for a source; said: by its policy, its client and itself, the last word first."""

        def pick(key: str, default: Any) -> Any:
            return next((found for one in reversed(said) if (found := getattr(one, key)) is not None), default)

        cycle = max(1, int(pick("cycle", self.root.cycle.days)))
        schedule = pick("schedule", None)
        full = schedule.full if schedule else None
        incremental = schedule.incremental if schedule else None
        if schedule and not full and not incremental:
            self._wrong((*loc, "schedule"), f"{path((*loc, 'schedule'))}: says neither full nor incremental")
        strategy = pick("strategy", "standard")
        if full and (strategy == "incremental" or strategy == "full" and incremental):
            self._contradicts(loc, said, strategy)
        return s.Timing(
            cycle=cycle,
            grace=pick("grace", self.root.cycle.grace),
            priority=pick("priority", 1),
            strategy=strategy,
            split=pick("split", ""),
            interim=pick("interim", self.root.cycle.interim),
            days=pick("days", nights.ALL),
            earliest=pick("earliest", None),
            max_chain=pick("max_chain", None if cycle <= 7 else 4),
            full=full,
            incremental=incremental,
        )

    def _contradicts(self, loc: Loc, said: Sequence[schema.Timing], strategy: str) -> None:
        """A strategy beside a schedule that says otherwise: one of the two would win in silence."""
        policy = ("policies", said[2].policy)
        by_strategy, by_schedule = (
            next(place for place, one in zip((loc, loc[:2], policy), reversed(said)) if getattr(one, key) is not None)
            for key in ("strategy", "schedule")
        )
        other = "schedule.full" if strategy == "incremental" else "schedule.incremental"
        where = "" if by_schedule == by_strategy else f" of {path(by_schedule)}"
        self._wrong(
            (*by_strategy, "strategy"),
            f"{path((*by_strategy, 'strategy'))}: {strategy} contradicts {other}{where}: keep one of the two",
            "strategy: standard goes with every schedule",
        )

    def _look_at_rpo(self, loc: Loc, source: s.Source) -> None:
        """Warns of a source that is past its rpo by what was asked for."""
        timing, policy = source.timing, source.policy
        if timing.strategy == "skip":
            return
        if timing.own:
            key, told = "schedule", "its schedule"
            days = nights.longest_gap(nights.parse_own(timing.full, timing.incremental)) / nights.DAY_NS
        else:
            key, told, chosen = "days", f"days: {nights.shown_days(timing.days)}", sorted(timing.days)
            days = max((later - day - 1) % 7 + 1 for day, later in zip(chosen, [*chosen[1:], chosen[0]]))
        if days > 1 and days * 86400 > policy.rpo:
            place = nearest(self.places, (*loc, key))
            self.warnings.append(
                f"{place}: {path(loc)}: {told} leaves {days:.3g} days without a dump, "
                f"and the rpo of policy {policy.name} is {duration(policy.rpo)}: it will be past it each time"
            )

    def _policy(self, name: str, one: schema.Policy) -> s.Policy:
        return s.Policy(
            name,
            compress=one.compress,
            gzip_fallback=one.gzip_fallback,
            encrypt=one.encrypt,
            copies=self.copies.of_policy(name, one),
            rpo=one.rpo,
            keep_on_holding=one.keep_on_holding,
            part_size=one.part_size,
            resume=one.resume,
            holding=one.holding or "auto",
            min_copies=one.min_copies,
        )

    def _client(self, name: str, one: schema.Client, policies: Mapping[str, s.Policy]) -> s.Client:
        sources = {}
        for source, raw in one.sources.items():
            loc = ("clients", name, "sources", source)
            self._name(loc, "source")
            if raw.policy not in policies:
                self._missing((*loc, "policy"), "policy", raw.policy, policies)
                continue
            options = self._options("source", loc, raw)
            policy = self.root.policies.get(raw.policy, schema.Policy())
            timing = self._timing(loc, policy, one, raw)
            said = self.copies.of_source(name, one, source, raw, policies[raw.policy])
            mine = (name, source, raw.type, policies[raw.policy], options, timing)
            sources[source] = s.Source(*mine, *said, spindle=raw.spindle or "")
            self._look_at_rpo(loc, sources[source])
        for ignored in one.ignore:
            if not ignored.startswith("/"):
                loc = ("clients", name, "ignore", ignored)
                self._wrong(loc, f'clients.{name}.ignore: "{ignored}" is no absolute path')
        if one.network is not None and one.network not in self.root.networks:
            self._missing(("clients", name, "network"), "network", one.network, self.root.networks)
        return s.Client(
            name,
            types.MappingProxyType(sources),
            address=one.address or name,
            network=one.network or "",
            ignore=types.MappingProxyType(dict(one.ignore)),
            **{
                key: getattr(one, key)
                for key in (
                    "transport", "port", "user", "presence", "agent_python", "agent", "agent_config", "state",
                    "dumps_at_once",
                )  # fmt: skip
            },
        )

    def _options(self, kind: str, loc: Loc, raw: schema.Driven) -> Mapping[str, Any]:
        """The options of a target, source or event, as its driver's model says. {} when they are wrong."""
        found = self.drivers.of(kind)
        driver = found.get(raw.type)
        if driver is None:
            broken = self.drivers.broken_message()
            self._missing((*loc, "type"), f"{kind} type", raw.type, found, broken or "stowage drivers")
            return {}
        given = dict(raw.model_extra or {})
        for key in ("include", "exclude") if kind == "source" else ():
            for pattern in given[key] if isinstance(given.get(key), list) else ():
                try:
                    patterns.check(pattern) if isinstance(pattern, str) else None
                except ValueError as error:
                    self._wrong((*loc, key), f"{path((*loc, key))}: {error}")
        try:
            return types.MappingProxyType(driver.options.model_validate(given).model_dump())
        except ValidationError as error:
            add_all(self.wrong, error, driver.options, loc, getattr(driver, "secrets", ()), own_keys(type(raw)))
        return {}

    def _event(self, name: str, one: schema.Event) -> s.EventSettings:
        options = self._options("event", ("events", name), one)
        driver = self.drivers.of("event").get(one.type)
        takes = driver.takes if driver is not None else ()
        for number, kind in enumerate(one.events or ()):
            loc = ("events", name, "events", number)
            if driver is not None and kind not in takes:
                what = f"event that {one.type} takes" if kind in EVENT_KINDS else "event"
                self._missing(loc, what, kind, takes)
        asked = one.events if one.events is not None else getattr(driver, "events", ())
        return s.EventSettings(name, one.type, options, tuple(dict.fromkeys(asked)))

    def _is_remote(self, kind: str) -> bool:
        """Whether targets of this type outlive this machine, as their driver says."""
        return bool(getattr(self.drivers.of("target").get(kind), "remote", False))

    def _name(self, loc: Loc, what: str) -> None:
        if not is_name(loc[-1]):
            self._wrong(loc, f'"{loc[-1]}" cannot name a {what}', "letters, digits, '.', '_' and '-' make a name")

    def _wrong(self, loc: Loc, message: str, hint: str = "") -> None:
        place = nearest(self.places, loc)
        self.wrong.add(place, f"{place}: {message}", hint)

    def _missing(self, loc: Loc, what: str, word: str, known: Iterable[str], hint: str = "") -> None:
        self._wrong(loc, *missing(loc, what, word, known, hint))

"""What `check` says of copies: rules that do not do what they seem to, and promises that are broken now.

Here live the findings, from the configuration and the catalog alone; targets themselves are asked in check.py.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Tuple

from .. import clock, hours, text
from ..settings import CopyRule, Source
from ..stage.wanted import Wishes
from . import promises
from .config_copies import KEPT
from .engine import Engine
from .pruning import MONTH_NS, for_ever

AHEAD_NS = 60 * clock.NS  # a dump that began just now is not ahead
Told = Tuple[str, str]  # what is wrong, and the next step


def default(engine: Engine) -> Optional[str]:
    """What holds where nobody wrote copies; None where everybody did."""
    places = engine.configuration.places
    if ("copies",) in places:
        return None
    named = sorted({
        source.policy.name for source in engine.settings.sources()
        if source.copies and ("policies", source.policy.name, "copies") not in places
    })  # fmt: skip
    if not named:
        return None
    return (
        f"nobody wrote copies for policy {', '.join(named)}: everything is copied to every target, where {KEPT} "
        f"stay: what is older is removed"
    )


def wrong(engine: Engine) -> Iterator[Told]:
    """Rules that may never take a dump, and dumps that no rule takes."""
    for what, sources in _by_text(engine).items():
        names = [f"{source.client}:{source.name}" for source in sources]
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        first = sources[0]
        yield f"{some}: {what}", f"stowage policy explain {first.client} {first.name}"


def _by_text(engine: Engine) -> Dict[str, List[Source]]:
    found: Dict[str, List[Source]] = {}
    for client in engine.settings.clients.values():
        for source in client.sources.values() if client.state != "retired" else ():
            if source.timing.strategy != "skip":
                for told in of_source(source, bool(engine.settings.targets)):
                    found.setdefault(told, []).append(source)
    return found


def of_source(source: Source, targets: bool = True) -> Iterator[str]:
    """What is worth a warning in the rules of one source. targets: there are some."""
    for rule in source.copies:
        told = _on_nights(source, rule)
        if told:
            yield told
    if not targets:
        return
    if not source.copies:
        yield "no copy is asked for: its images stay on the holding disk, and nowhere else"
        return
    levels = {"full": [0], "incremental": list(range(1, 10))}
    made = ["full"] if source.timing.strategy == "full" else ["full", "incremental"]
    for kind in made:
        every = [rule for rule in source.copies if any(map(rule.takes, levels[kind]))]
        if not any(not rule.every and rule.made_on is None for rule in every):
            some, rest = ("only some", "the others") if every else ("none", "they")
            yield f"{some} of its {kind}s go to a target: {rest} stay on the holding disk, and nothing removes them"
    if source.min_copies is not None and source.min_copies > len(source.copies):
        yield f"min_copies is {source.min_copies}, and it has {len(source.copies)} copies: all of them are waited for"


def _on_nights(source: Source, rule: CopyRule) -> str:
    """Whether fulls of the nights of `made_on` come by chance only."""
    if rule.made_on is None:
        return ""
    days = source.timing.days
    nights = hours.shown_days(rule.made_on)
    if not source.timing.own and not rule.made_on & days:
        return f"made_on {nights} of {rule.target}: no night of its days ({hours.shown_days(days)}) is one of them"
    if rule.dumps not in ("full", "0") or source.timing.full or source.timing.strategy == "full":
        return ""
    if days <= rule.made_on:
        return ""
    return (
        f"made_on {nights} with dumps: {rule.dumps} on {rule.target}: the planner decides in which nights fulls are "
        f"made, this copy may never come: write every: week instead, or a schedule of its own"
    )


def endless(engine: Engine) -> Iterator[str]:
    """Targets that only grow, since nobody said how long their copies stay."""
    for target, count in for_ever(engine).items():
        yield f"copies on {target} without keep stay for ever: it grew by {text.size(count)} in 30 days"


def stranded(engine: Engine) -> Iterator[Told]:
    """What lies on holding disks, is wanted at no target, and so stays for ever: how much, and how fast it grows."""
    if not engine.settings.targets:
        return
    wishes = Wishes(engine.settings, engine.catalog)
    since = clock.now_ns() - MONTH_NS
    sizes: Dict[Tuple[str, str], int] = {}
    count = grew = 0
    for dump in wishes.dumps:
        if dump.holding is not None and not wishes.of(dump):
            key = (dump.client, dump.source)
            sizes[key] = sizes.get(key, 0) + dump.stored_size
            count += 1
            grew += dump.stored_size if dump.begun_ns >= since else 0
    if not sizes:
        return
    most = sorted(sizes, key=lambda key: (-sizes[key], key))
    some = ", ".join(f"{client}:{source} {text.size(sizes[client, source])}" for client, source in most[:3])
    more = f" and {len(most) - 3} more" if len(most) > 3 else ""
    yield (
        f"{count} images on the holding disks go to no target, and nothing removes them: "
        f"{text.size(sum(sizes.values()))}, {text.size(grew)} of it in 30 days ({some}{more})"
    ), "stowage policy explain {} {}".format(*most[0])


def late(engine: Engine) -> Iterator[Told]:
    """Promises that are broken now, one line a target."""
    from ..report import promised

    for line in promised.trouble(promises.look(engine.settings, engine.catalog, clock.now_ns())):
        told, _arrow, hint = line.partition(" -> ")
        yield told, hint


def locks(engine: Engine, name: str, can_lock: bool) -> Iterator[Told]:
    """Sources whose copies shall be locked on a target that cannot."""
    if not can_lock:
        for source in engine.settings.sources():
            rule = source.rule(name)
            if rule is not None and rule.lock:
                where = source.origins.get(f"copies.{name}.lock", "")
                told = f"it cannot lock, and {where or 'a copy rule'} asks for it"
                yield told, "take lock away, or use a target of s3"
                return


def ahead(engine: Engine) -> Iterator[Told]:
    """Dumps that are dated in the future, since the clock ran ahead once."""
    now = clock.now_ns()
    found = [dump for dump in engine.catalog.dumps() if dump.begun_ns > now + AHEAD_NS]
    if found:
        last = max(found, key=lambda dump: dump.begun_ns)
        rules = any(rule.lock for source in engine.settings.sources() for rule in source.copies)
        locked = "; their locks run from when they were copied, those that were set before stay" if rules else ""
        yield (
            f"{len(found)} dumps are dated in the future, up to {clock.local(last.begun_ns)}: the clock ran ahead when "
            f"they, or those before them, were made; until then each dump is dated a second after the last{locked}"
        ), "keep this server's clock right: chronyc tracking"

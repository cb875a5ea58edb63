"""`stowage usage`: what targets take, are asked for and cost, by the month; the next one, and what a change costs."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Mapping, Sequence

from .. import clock, text
from ..errors import RequestError
from . import _output

FOLD = 20  # rows that are shown one by one


def add(parser: argparse.ArgumentParser) -> None:
    """Which month, by what, and what is foreseen."""
    parser.add_argument("--month", metavar="YYYY-MM", help="this one (default: the present)")
    parser.add_argument("--by", choices=("target", "client", "source"), default="target", help="a line for each")
    parser.add_argument("--forecast", action="store_true", help="also this month and the next to their ends")
    parser.add_argument("--what-if", metavar="FILE", help="also what another configuration would change: a whole one, "
                        "or some keys that are laid over the present one")  # fmt: skip


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Tells a month, and what is foreseen."""
    from ..app import using

    if args.month and (args.forecast or args.what_if):
        raise RequestError("--month tells what was, --forecast and --what-if what comes", "stowage usage --forecast")
    engine = open_engine()
    used = using.used(engine, args.month, args.by)
    lines = _used(used)
    data: Dict[str, Any] = {"by": args.by, **_month(used.month.name, used.rows), "so_far": used.so_far}
    data["prices"] = {name: one.price.listed or "price:" if one.price else None
                      for name, one in engine.settings.targets.items()}  # fmt: skip
    lines += _prices(engine.settings, used)
    now = None
    if args.forecast or args.what_if:
        tried = using.tried_out(engine, args.what_if) if args.what_if else None
        moment = clock.now_ns()
        now = using.ahead(engine, moment)
        data["forecast"] = _forecast(now)
        lines += ["", *_ahead(now)]
        if tried is not None:
            then = using.ahead(engine, moment, tried)
            changes = [using.changes(now.of_this, then.of_this), using.changes(now.of_next, then.of_next)]
            data["what_if"] = {
                "file": args.what_if, **_forecast(then),
                "changes": {then.this.name: [_change(one) for one in changes[0]],
                            then.next.name: [_change(one) for one in changes[1]]},
            }  # fmt: skip
            for name, found in ((then.this.name, changes[0]), (then.next.name, changes[1])):
                lines += ["", *_changes(name, found)]
            lines += _sum_of_changes(then.next.name, changes[1])
    lines.append(f"OK   {used.month.name}{' so far' if used.so_far else ''}: {_sum(used.rows)}")
    shown = ["stowage usage --by source"] if args.by == "target" else []
    return _output.Answer(data, lines, shown if now is not None or args.month else [*shown, "stowage usage --forecast"])


def _month(name: str, rows: Sequence[Any]) -> Dict[str, Any]:
    return {
        "month": name, "rows": [row.as_dict() for row in rows],
        "total": {currency: round(amount, 6) for currency, amount in sorted(_total(rows).items())},
        "unpriced": sorted({target for row in rows for target in row.unpriced}),
    }  # fmt: skip


def _forecast(found: Any) -> Dict[str, Any]:
    return {
        "this": _month(found.this.name, found.of_this), "next": _month(found.next.name, found.of_next),
        "dumps": found.dumps, "guessed": found.guessed,
    }  # fmt: skip


def _change(one: Any) -> Dict[str, Any]:
    def told(amounts: Mapping[str, float]) -> Dict[str, float]:
        return {name: round(amount, 6) for name, amount in sorted(amounts.items())}

    return {
        "target": one.target, "bytes": one.bytes, "bytes_then": one.bytes_then, "cost": told(one.cost),
        "cost_then": told(one.cost_then), "more": told(one.more),
    }  # fmt: skip


def _total(rows: Sequence[Any]) -> Dict[str, float]:
    from ..cost.usage import money_of

    return money_of(rows)


def _money(amounts: Mapping[str, float], sign: bool = False) -> str:
    """`$3.10 + 2.00 EUR`; '' for none."""
    from ..report.proven import money

    def one(currency: str, amount: float) -> str:
        told = money(abs(amount), currency)
        return ("-" if amount < 0 else "+") + told if sign else told

    return (" " if sign else " + ").join(one(name, amount) for name, amount in sorted(amounts.items()))


def _sum(rows: Sequence[Any]) -> str:
    """What rows cost, in words; what has no known price is not free."""
    told = _money(_total(rows))
    if any(row.unpriced for row in rows):
        return f"{told} and what has no known price" if told else "what nobody knows, since no price is known"
    return told or "nothing"


def _cost(row: Any) -> str:
    return _money(row.money) or "-"


def _used(used: Any) -> List[str]:
    if not used.rows:
        return [f"nothing lay on any target in {used.month.name}"]
    rows = [
        [text.escape(row.name) or "(nobody's)", text.size(row.bytes), f"{row.objects:,}", text.size(row.came),
         f"{row.amounts.spent.write:,} / {row.amounts.spent.read:,}", text.size(row.amounts.spent.got), _cost(row)]
        for row in used.rows[:FOLD]
    ]  # fmt: skip
    lines = _output.table((used.by, "stored", "files", "came", "writing / reading requests", "egress", "cost"), rows)
    rest = used.rows[FOLD:]
    if rest:
        size = text.size(sum(row.bytes for row in rest))
        lines.append(f"and {len(rest)} more: {size}, {_sum(rest)}")
    if used.by != "target" and used.counted:
        lines.append("     requests and egress are counted by target, and shared out here by what came and lay there")
    return lines


def _prices(settings: Any, used: Any) -> List[str]:
    lines = []
    for name in sorted({target for row in used.rows for target in row.targets}):
        target = settings.targets.get(name)
        if target is None:
            lines.append(f"     {text.escape(name)}: is no longer in the configuration, so it has no price")
        elif target.price is None:
            lines.append(f"     {name}: no price is known, bytes and requests only -> price: of targets in stowage.yml")
        elif target.price.listed:
            lines.append(f"     {name}: prices of {target.price.listed}")
    return lines


def _ahead(found: Any) -> List[str]:
    rows = []
    before, after = ({row.name: row for row in month} for month in (found.of_this, found.of_next))
    for name in {**after, **before}:
        one, other = before.get(name), after.get(name)
        cells = [text.escape(name)]
        for row in (one, other):
            cells += [text.size(row.bytes), _cost(row)] if row else ["-", "-"]
        spent = other.amounts.spent if other else None
        cells += [text.size(other.came), f"{spent.write:,} / {spent.read:,}"] if other and spent else ["-", "-"]
        rows.append(cells)
    head = ("target", f"end of {found.this.name}", "cost", f"end of {found.next.name}", "cost", "comes then",
            "requests then")  # fmt: skip
    lines = _output.table(head, rows)
    if found.guessed:
        lines.append(f"     {found.guessed} sources have no full yet: their sizes are guessed")
    lines.append(f"     {found.next.name} is expected to cost {_sum(found.of_next)}")
    return lines


def _changes(title: str, found: Sequence[Any]) -> List[str]:
    rows = [
        [text.escape(one.target), text.size(one.bytes), text.size(one.bytes_then), _money(one.cost) or "-",
         _money(one.cost_then) or "-", _money({key: value for key, value in one.more.items() if round(value, 6)}, True)
         or "-"]
        for one in found
    ]  # fmt: skip
    return _output.table((title, "stored as it is", "what if", "cost as it is", "what if", "difference"), rows)


def _sum_of_changes(name: str, found: Sequence[Any]) -> List[str]:
    more: Dict[str, float] = {}
    for one in found:
        for currency, amount in one.more.items():
            more[currency] = more.get(currency, 0.0) + amount
    if more and not any(round(amount, 6) for amount in more.values()):
        return [f"     {name} would cost the same"]
    told = [f"{_money({currency: abs(amount)})} {'less' if amount < 0 else 'more'}"
            for currency, amount in sorted(more.items())]  # fmt: skip
    return [f"     {name} would cost {', '.join(told)}"] if told else []

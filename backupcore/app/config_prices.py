"""What a target costs: a public list where its driver names a line of one, and over it what somebody wrote.

Here lives putting the two together; the list is backupcore.cost.aws, the shape schema.Price. What is written in another
currency than the list's takes its place as a whole: amounts of two currencies are never one price.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Optional

from pydantic import ValidationError

from .. import settings as s
from . import schema
from .config_told import add_all
from .yaml_lines import Loc

_KEYS = frozenset(one.name for one in fields(s.Price))


def priced(builder: Any, target: s.TargetSettings) -> s.TargetSettings:
    """The target with its price. builder: config._Builder, which is told what is wrong."""
    loc: Loc = ("targets", target.name, "price")
    said = builder.root.targets[target.name].price
    if isinstance(said, str):
        if said not in builder.root.prices:
            builder._missing(loc, "price", said, builder.root.prices)
            return target
        loc, said = ("prices", said), builder.root.prices[said]
    elif said is not None:
        try:
            said = schema.Price.model_validate(said)
        except ValidationError as error:
            add_all(builder.wrong, error, schema.Price, loc)
            return target
    return replace(target, price=_together(builder, loc, _listed(builder, target), said))


def _listed(builder: Any, target: s.TargetSettings) -> Optional[s.Price]:
    tariff = getattr(builder.drivers.of("target").get(target.type), "tariff", None)
    if tariff is None:
        return None
    from ..cost import aws

    try:
        return aws.listed(str(tariff(target.options)))
    except Exception:  # a third party's driver may raise anything: then nobody knows the price
        return None


def _together(builder: Any, loc: Loc, listed: Optional[s.Price], said: Optional[schema.Price]) -> Optional[s.Price]:
    if said is None:
        return listed
    given = {name: value for name, value in said.model_dump(exclude_none=True).items() if name in _KEYS}
    if "storage_gb" in given:
        given["storage_gb"] = ((None, given["storage_gb"]),)
    if listed is None or given.get("currency", listed.currency) != listed.currency:
        if "currency" not in given:
            builder._wrong(loc, f"{'.'.join(str(one) for one in loc)}.currency is missing", "currency: $")
        return s.Price(**{"read_gb": 0.0, "request_1000": 0.0, "currency": "", **given})
    if "read_gb" in given:  # all of it, in place of tiers and retrieval
        given.update(egress_gb=(), retrieval_gb=0.0)
    told = f"{listed.listed}, and price:" if set(given) - {"currency"} else listed.listed
    return replace(listed, **given, listed=told)

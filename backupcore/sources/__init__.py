"""Floor 3: the built-in source drivers, registered through the hooks of hookspecs/ as a third party's."""

from __future__ import annotations

from typing import List

from ..hookspecs import SourceDriver, hookimpl
from . import tree


@hookimpl
def stowage_sources() -> List[SourceDriver]:
    """The source drivers of this package."""
    return [tree.DRIVER]

"""How the property tests of this folder run: the same examples each time, without a stop-watch on busy machines."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("image", deadline=None, derandomize=True, database=None, max_examples=80)
settings.load_profile("image")

"""The engine of Stowage: fleet backup for Ansible.

Rooms are stacked in floors and import only downwards (docs/design.md, "The house";
tests/unit/test_floors.py holds it). Nothing lives in this file but the version.
"""

__version__ = "0.1.0"

"""Names of files of tests: pytest needs each once, since the folders are no packages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path


def test_no_two_files_of_tests_have_one_name():
    files = Path(__file__).parents[1].rglob("test_*.py")
    counts = Counter(file.name for file in files if "__pycache__" not in file.parts)
    assert [name for name, count in counts.items() if count > 1] == []

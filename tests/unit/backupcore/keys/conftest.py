"""Pairs of keys, made once: 3072 bits, since 4096 take seconds."""

from __future__ import annotations

import pytest

from backupcore.image import recipients


@pytest.fixture(scope="session")
def pairs():
    return [recipients.generate(bits=3072) for _ in range(3)]


@pytest.fixture()
def quick(monkeypatch, pairs):
    """generate() takes its pairs from a few that are there."""
    left = list(pairs)

    def give(name="", bits=4096):
        assert bits == 4096
        return recipients.PrivateKey(left.pop(0)._key, name)

    monkeypatch.setattr(recipients, "generate", give)
    return left

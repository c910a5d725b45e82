"""One seed, many independent named streams: what is drawn for one purpose never shifts another."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_for(seed: int, *names: object) -> int:
    """A 63-bit seed from a run seed and a path of names, the same on every machine."""
    digest = hashlib.sha256(repr((seed, *map(str, names))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, *names: object) -> np.random.Generator:
    """A numpy generator for the named purpose."""
    return np.random.Generator(np.random.Philox(seed_for(seed, *names)))

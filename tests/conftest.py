"""What all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> Iterator[None]:
    """Takes what the imports made out of the collector's sight: the pipeline collects once a phase, 60 ms each otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

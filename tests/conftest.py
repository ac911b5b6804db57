"""What all tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.cli_spy import Spy, put_module


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> Iterator[None]:
    """Takes what the imports made out of the collector's sight: the pipeline collects once a phase, 60 ms each otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Stands in the place of `compress` while the test runs."""
    spy = Spy()
    put_module(monkeypatch, "compress", compress=spy)
    return spy

from __future__ import annotations

import os

# Side by side on a few cores, several threads each would stand in each other's way. Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from support.kit import make_card, make_context, make_convnet

from dfkd_bench import StageContext

# Commands in tests run in their own process; the tests of the engines name theirs.
os.environ.setdefault("DFKD_BENCH_ENGINE", "inline")


@pytest.fixture
def toy_context() -> StageContext:
    """A teacher, a student that differs from it, and images of 3 x 8 x 8."""
    card = make_card()
    return make_context(card, make_convnet(card, seed=1), make_convnet(card, seed=2))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: what starts last should be short."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)

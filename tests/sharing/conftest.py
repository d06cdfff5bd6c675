from __future__ import annotations

from pathlib import Path

import pytest
from support.sharing_kit import OTHER, remade_table, write_run


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Two methods with three seeds each, and their table."""
    folder = tmp_path / "results"
    for seed in range(3):
        write_run(folder, seed, 300 + seed)
        write_run(folder, seed, 320 + seed, spec=OTHER)
    remade_table(folder)
    return folder

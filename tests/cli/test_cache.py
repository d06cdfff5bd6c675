from __future__ import annotations

import os

from support.e2e_kit import cli, own_cache  # noqa: F401


def test_the_cache_is_measured_and_its_oldest_files_go_first(own_cache):  # noqa: F811
    assert "0 files, 0B" in cli("cache").out.replace("\n", "")
    folder = own_cache / "dfkd-bench" / "stages" / "image-variation" / "ab"
    folder.mkdir(parents=True)
    for age, name in enumerate(("new", "old", "older")):
        (folder / name).write_bytes(b"0" * 2**20)
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    assert "3 files, 3.00 MiB" in cli("cache").out.replace("\n", "")
    shown = cli("cache", "--limit", 1.5 / 1024)
    assert "2 files deleted, 1.00 MiB left" in shown.out
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert "1 files deleted, 0B left" in cli("cache", "--limit", 0).out

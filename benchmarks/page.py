"""How usable the leaderboard's page is with 1,000 runs, each a row: first paint and sorting in headless Chromium.

PYTHONPATH=tests python benchmarks/page.py --runs 1000 --repeats 10
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from support.page_kit import browser, simulate, write_page

SORT = """button => {
  const start = performance.now();
  button.click();
  document.body.offsetHeight;  // the layout is part of it
  return (performance.now() - start) / 1000;
}"""
PAINT = """() => new Promise(resolve => new PerformanceObserver(
  list => resolve(list.getEntries()[0].startTime / 1000)).observe({ type: "paint", buffered: true }))"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    methods = tuple(f"method-{number}" for number in range(arguments.runs // 4 - 2))
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        root = simulate(Path(folder) / "results", seeds=1, methods=methods)
        page_file = write_page(root, Path(folder) / "leaderboard.html")
        paints, sorts = [], []
        for _ in range(arguments.repeats):
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            page.goto(page_file.as_uri())
            paints.append(page.evaluate(PAINT))
            buttons = [page.get_by_role("button", name=name, exact=True) for name in ("Seconds", "Accuracy")]
            sorts += [button.evaluate(SORT) for button in buttons]
            rows = page.locator("#board tr.row").count()
            page.close()
        print(f"{rows} rows, {page_file.stat().st_size / 1e6:.2f} MB")
        for what, found in (("first contentful paint", paints), ("sorting, with layout", sorts)):
            print(f"{what}: median {median(found):.3f} s, {min(found):.3f} to {max(found):.3f} (n = {len(found)})")


if __name__ == "__main__":
    main()

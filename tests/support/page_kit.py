"""A simulated results folder for the page, and a headless browser that lets nothing out."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from dfkd_bench.leaderboard.build import read_table
from dfkd_bench.leaderboard.page.pictures import Pictures
from dfkd_bench.leaderboard.page.render import page_text
from dfkd_bench.results.curves import CurvePoint
from dfkd_bench.results.records import Results
from support.e2e_kit import make_record, make_spec

HOSTILE = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
METHODS = ("dda", "cmi", "fast", "nayer", "deepinversion", "dfq", "zskt", "dfad")
PHASES = ("synthesis", "augmentation", "filtering", "distillation", "evaluation")


def simulate(root: Path, seeds: int = 3, methods: tuple[str, ...] = METHODS, epochs: int = 20) -> Path:
    """Two datasets, two pairs, methods with ties, a reference, failures and a name that is HTML."""
    random_ = random.Random(0)
    results = Results(root)
    for dataset in ("cifar10", "digits"):
        for student in ("wrn16_1", "wrn40_1"):
            pair = {"teacher": "wrn40_2", "student": student}
            for place, method in enumerate((*methods, HOSTILE, "real-data")):
                for seed in range(seeds):
                    spec = make_spec(method=method, dataset=dataset, pair=pair, seed=seed)
                    priors: Any = {"synthesizer": "data"} if method == "real-data" else {"synthesizer": "none"}
                    cost = {phase: _cost(random_, place) for phase in PHASES}
                    accuracy = min(99.0, 88 - 2.5 * (place // 2 % 16) + random_.gauss(0, 0.4))
                    if method == HOSTILE and seed == 1:
                        results.write(make_record(spec, None, reason=HOSTILE, priors=priors, cost=cost))
                        continue
                    curve = tuple(_point(epoch, accuracy * (1 - 0.8 * 0.8**epoch)) for epoch in range(1, epochs + 1))
                    images = "images.png" if method == "dda" else None
                    record = make_record(spec, accuracy, curve=curve, priors=priors, cost=cost, images=images)
                    folder = results.write(record).parent
                    if images:
                        Image.new("RGB", (240, 120), (40 * seed, 90, 200)).save(folder / images)
    return root


def _cost(random_: random.Random, place: int) -> dict[str, Any]:
    scale = 1.7 ** (place % 12) * random_.uniform(0.9, 1.1)
    return {
        "seconds": 20 * scale,
        "images": 8,
        "forward": {},
        "backward": {},
        "flops": 1e13 * scale,
        "peak_memory": 1e9,
    }


def _point(epoch: int, accuracy: float) -> CurvePoint:
    return CurvePoint(
        epoch=epoch, steps=epoch, lr=0.1, losses={"kd": 1.0}, accuracy=accuracy, accuracy_top5=99.0, agreement=90.0
    )


def write_page(root: Path, page: Path, known: Any = None, pictures: Pictures = Pictures.embed) -> Path:
    """The page of a results folder."""
    page.write_text(page_text(read_table(Results(root), known), root, pictures, page.parent), encoding="utf-8")
    return page


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()

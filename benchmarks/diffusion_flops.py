"""What DDA's `paper` preset computes on CIFAR-10, projected as `--dry-run` does, on networks without weights.

    python benchmarks/diffusion_flops.py

The U-Net, VAE and CLIP image encoder of Stable Diffusion 1 are built from their published configurations on PyTorch's
meta device, so that nothing is downloaded or computed. A dry run itself refuses a model that is not on the machine.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from dfkd_bench.datasets.cards import CIFAR10
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.planning.projection import in_flops, project
from dfkd_bench.planning.requests import Override, Request, resolve
from dfkd_bench.spec import Pair, TeacherRef
from dfkd_bench.stages.passes import Workload

#: What differs from the classes' defaults.
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
    },
    "image_encoder": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
}


def main() -> None:
    registry, pair = default_registry(), Pair(teacher="wrn40_2", student="wrn16_1")
    with tempfile.TemporaryDirectory() as folder:
        for name, config in CONFIGS.items():
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        local = [Override.parse(f"augmenter.model={folder}")]
        request = Request(["dda"], [pair], "cifar10", TeacherRef(sha256="0" * 64), "paper", overrides=local)
        # Resolved, not planned: planning asks for the weights.
        spec = resolve(registry.load("method", "dda"), request, pair, 0, registry)
        flops = project(spec, CIFAR10, registry)
        stage = registry.load("augmenter", spec.augmenter.name)
        sources = spec.schedule.warmup_rounds * int(spec.synthesizer.options["batch_size"])  # type: ignore[arg-type]
        passes = stage.projection(stage.Options(**spec.augmenter.options), Workload(CIFAR10, sources=sources)).passes
        parts = {each.network: (each.forward, each.flops()) for each in passes}
    for phase, count in flops.items():
        print(f"{phase:14} {'not projected' if count is None else in_flops(count):>12}")
    for network, (images, each) in parts.items():
        print(f"  {network:12} {images:12,} images, {in_flops(each)} each, {in_flops(images * each)}")


if __name__ == "__main__":
    main()

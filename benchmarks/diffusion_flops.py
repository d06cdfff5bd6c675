"""What DDA's `paper` preset spends on diffusion, counted on networks without weights.

    python benchmarks/diffusion_flops.py

The U-Net, VAE and CLIP image encoder of Stable Diffusion 1 are built from their published configurations on PyTorch's
meta device, so that nothing is downloaded or computed; the counter is that of the cost ledger.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.planning.requests import Request, resolve
from dfkd_bench.spec import Pair, TeacherRef
from dfkd_bench.stages.ledger import CostLedger


def counted(network: nn.Module, *inputs: torch.Tensor, **more: torch.Tensor) -> int:
    """FLOPs of a pass with one image."""
    ledger = CostLedger(torch.device("cpu"))
    ledger.watch(network, "network")
    with torch.no_grad(), ledger.phase("pass") as cost:
        network(*inputs, **more)
    return cost.flops


def main() -> None:
    registry, pair = default_registry(), Pair(teacher="wrn40_2", student="wrn16_1")
    request = Request(["dda"], [pair], "cifar10", TeacherRef(sha256="0" * 64), "paper")
    spec = resolve(registry.load("method", "dda"), request, pair, 0, registry)
    options = spec.augmenter.options
    with torch.device("meta"):
        unet = counted(
            UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
            torch.zeros(1, 4, 64, 64),
            torch.zeros(1),
            encoder_hidden_states=torch.zeros(1, 1, 768),
        )
        halves = "DownEncoderBlock2D", "UpDecoderBlock2D"
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=halves[:1] * 4,
            up_block_types=halves[1:] * 4,
            layers_per_block=2,
        )
        decoder = counted(vae.decoder, torch.zeros(1, 4, 64, 64))
        clip = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
        )
        encoder = counted(CLIPVisionModelWithProjection(clip), torch.zeros(1, 3, 224, 224))
    images = int(spec.schedule.warmup_rounds * spec.synthesizer.options["batch_size"])  # type: ignore[operator, arg-type]
    variants = images * int(options["variants"])  # type: ignore[arg-type]
    evaluations = variants * int(options["steps"]) * (2 if float(options["guidance"]) > 1 else 1)  # type: ignore[arg-type]
    print(f"{images:,} images, {variants:,} variants, {evaluations:,} evaluations of the U-Net")
    for name, passes, each in (
        ("U-Net", evaluations, unet),
        ("VAE decoder", variants, decoder),
        ("CLIP encoder", images, encoder),
    ):
        print(f"{name:12}  {each / 1e12:8.3f} TFLOP a pass  {passes * each / 1e18:8.3f} EFLOP in all")


if __name__ == "__main__":
    main()

"""DDA, diverse diffusion augmentation (arXiv 2410.17606), as a plugin. Importing it imports no torch.

The paper's order: contrastive inversion fills the bank, diffusion makes variants of its images, the cosine filter
drops those that went too far, the student is distilled on what is there. What the released repository runs under
this name is another method (CSD with other numbers).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfkd_bench import SMALL, Method, Preset, hookimpl, use

_BIBTEX = """\
@article{li2024towards,
  title = {Towards Effective Data-Free Knowledge Distillation via Diverse Diffusion Augmentation},
  author = {Li, Muquan and Zhang, Dongyang and He, Tao and Xie, Xiurui and Li, Yuan-Fang and Qin, Ke},
  journal = {arXiv preprint arXiv:2410.17606},
  year = {2024}
}"""


@hookimpl
def dfkd_augmenters(register: Callable[[str, Any], None]) -> None:
    """Diffusion augmenters and their controls."""
    register("self-diffusion", "dfkd_dda.self_diffusion:SelfDiffusion")
    register("image-variation", "dfkd_dda.image_variation:ImageVariation")
    register("unclip-variation", "dfkd_dda.image_variation:UnclipVariation")
    register("image-to-image", "dfkd_dda.image_to_image:ImageToImage")
    register("pixel-diffusion", "dfkd_dda.image_to_image:PixelDiffusion")
    register("vae-roundtrip", "dfkd_dda.image_to_image:VaeRoundtrip")
    register("identity", "dfkd_dda.controls:Identity")
    register("mixup", "dfkd_dda.controls:MixUp")
    register("cutmix", "dfkd_dda.controls:CutMix")


@hookimpl
def dfkd_filters(register: Callable[[str, Any], None]) -> None:
    """The cosine filter, and those by the teacher's confidence."""
    register("cosine", "dfkd_dda.cosine:CosineFilter")
    register("confidence", "dfkd_dda.confidence:ConfidenceFilter")
    register("lenient", "dfkd_dda.confidence:LenientFilter")


@hookimpl
def dfkd_distillers(register: Callable[[str, Any], None]) -> None:
    """DDA's distiller."""
    register("dda", "dfkd_dda.distiller:DdaDistiller")


@hookimpl
def dfkd_methods(register: Callable[[Method], None]) -> None:
    """The recipe."""
    register(
        Method(
            name="dda",
            summary="diverse diffusion augmentation: contrastive inversion, diffusion variants, cosine filter",
            paper="2410.17606",
            bibtex=_BIBTEX,
            # The bank stage of the repository's CMI: no adversary, since there is no student yet.
            synthesizer=use("cmi", adv=0.0, cr_tau=0.2, batch_size=200, steps=500, instance_bank=40_000),
            augmenter=use("self-diffusion"),
            filter=use("cosine"),
            distiller=use("dda"),
            schedule={"lr": 0.1, "batch_size": 128, "rounds_per_epoch": 0},
            presets=(
                Preset(
                    name="quick",
                    synthesizer=use("cmi", batch_size=96, steps=40, negatives=128, bn=0.03),
                    augmenter=use("self-diffusion", train_steps=300),
                    schedule={"warmup_rounds": 3, "epochs": 6, "steps_per_epoch": 80},
                ),
                # 0.5 PFLOP with its U-Net's training and the variants: see docs/small.md.
                Preset(
                    name="small",
                    synthesizer=use("cmi", batch_size=128, steps=270),
                    schedule={**SMALL, "warmup_rounds": 4, "rounds_per_epoch": 0},
                ),
                Preset(
                    name="paper",
                    augmenter=use("image-variation"),
                    schedule={"warmup_rounds": 400, "epochs": 200, "steps_per_epoch": 2000},
                ),
                Preset(
                    name="paper-unclip",
                    augmenter=use("unclip-variation"),
                    schedule={"warmup_rounds": 400, "epochs": 200, "steps_per_epoch": 2000},
                ),
                # CMI's own rule for this teacher, whose BatchNorm layers are too wide to tell images apart by.
                *(
                    Preset(name=name, teacher="resnet34", synthesizer=use("cmi", contrast_of="stage-inputs"))
                    for name in ("small", "paper", "paper-unclip")
                ),
            ),
            note=(
                "The source of the diffusion model is ambiguous: the paper says Stable Diffusion V2, and its "
                "repository links image variations made from Stable Diffusion 1. The preset paper takes the linked "
                "model, paper-unclip the one that is image variations with Stable Diffusion 2."
            ),
        )
    )
    register(
        Method(
            name="dda-released",
            summary="what DDA's repository runs under this name: CSD with other numbers, no diffusion, no filter",
            paper="2410.17606",
            bibtex=_BIBTEX,
            synthesizer=use("csd", batch_size=400),
            distiller=use("csd"),
            schedule={"lr": 0.1, "batch_size": 128},
            presets=(
                Preset(
                    name="quick",
                    synthesizer=use("csd", batch_size=128, warmup_batch_size=96, steps=30, warmup_steps=60, bn=0.03),
                    schedule={"warmup_rounds": 2, "epochs": 4, "steps_per_epoch": 80},
                ),
                Preset(
                    name="small",
                    synthesizer=use(
                        "csd", batch_size=128, warmup_batch_size=128, steps=133, warmup_steps=332, first_head="torch"
                    ),
                    schedule={**SMALL, "warmup_rounds": 1},
                ),
                Preset(
                    name="paper",
                    synthesizer=use("csd", first_head="torch"),
                    schedule={"warmup_rounds": 400, "epochs": 200, "steps_per_epoch": 2000},
                ),
            ),
        )
    )

"""The recipes: stages, options and schedules as data.

`paper` presets are the settings of the official repositories, per dataset and pair where those exist. `quick` presets
are for the bundled digits on a CPU: a minute or three. A teacher of digits has BatchNorm statistics whose distance is
some hundred times its cross-entropy, so there the published weights of that distance drown the wanted classes
(measured: the teacher gave 14 % of CMI's images their class); `quick` takes about a thirtieth.

`small` presets compare methods at one budget that a CPU can pay (docs/small.md): the same student for all, and
0.5 PFLOP of synthesis and augmentation with a WRN-40-2 teacher at 32 x 32. Weights are the official ones. The number of
rounds is cut; where the official rounds do not fit once in each epoch, first the images in a round, to no fewer than
128, then its steps.
"""

from __future__ import annotations

from dfkd_baselines.citations import CITATIONS
from dfkd_bench import SMALL, Method, Preset, use

_QUICK = {"epochs": 6, "steps_per_epoch": 80, "batch_size": 128, "lr": 0.1}
_QUICK_BANK = {**_QUICK, "warmup_rounds": 3, "rounds_per_epoch": 0}
_QUICK_STREAM = {**_QUICK, "epochs": 8, "rounds_per_epoch": 80}
_PAPER = {"epochs": 200, "steps_per_epoch": 400, "batch_size": 256, "lr": 0.1}
# Nothing is cut for null baselines and references: they spend next to nothing.
_SMALL_PLAIN = {**SMALL, "rounds_per_epoch": 10}
_SMALL_STREAM = {**SMALL, "rounds_per_epoch": 63}
_NAYER = {**_PAPER, "batch_size": 512, "lr": 0.2, "lr_min": 2e-4, "warmup_rounds": 20}
_NAYER_PRESETS = ("paper", "paper-100", "paper-200")
# FastDFKD's official script runs every pair with every number of inner steps: the number goes with the learning rates,
# the pair with the weights. WRN pairs have the weights that are the stage's defaults.
_FAST_STEPS = {
    2: {"latent_lr": 0.015, "lr": 5e-3},
    5: {"latent_lr": 0.01, "lr": 3e-3},
    10: {"latent_lr": 0.01, "lr": 2e-3},
}
_FAST_WEIGHTS = {"resnet34:resnet18": {"adv": 1.33, "oh": 0.5}, "vgg11:resnet18": {"adv": 1.0, "oh": 0.5}}
_FAST_PRESETS = {"paper": 10, "paper-2": 2, "paper-5": 5, "paper-10": 10}

_PLAIN_PRESETS = (
    Preset(name="quick", schedule=_QUICK),
    Preset(name="small", schedule=_SMALL_PLAIN),
    Preset(name="paper", schedule=_PAPER),
)

DEEPINVERSION = Method(
    name="deepinversion",
    summary="pixels optimized to match BatchNorm statistics, with a competing student (adaptive); the preset quick "
    "fills its bank before the student learns, so there it never competes",
    paper="1912.08795",
    bibtex=CITATIONS["1912.08795"],
    synthesizer=use("deepinversion"),
    presets=(
        Preset(name="quick", synthesizer=use("deepinversion", batch_size=96, steps=80, bn=0.03), schedule=_QUICK_BANK),
        Preset(name="small", synthesizer=use("deepinversion", batch_size=128, steps=276), schedule=SMALL),
        Preset(name="paper", schedule=_PAPER),
    ),
)

CMI = Method(
    name="cmi",
    summary="contrastive model inversion: a generator inverted anew each round, images kept apart by contrast; the "
    "preset quick fills its bank before the student learns, so there its adversary never plays",
    paper="2105.08584",
    bibtex=CITATIONS["2105.08584"],
    synthesizer=use("cmi"),
    presets=(
        Preset(
            name="quick", synthesizer=use("cmi", batch_size=96, steps=40, negatives=128, bn=0.03), schedule=_QUICK_BANK
        ),
        Preset(name="small", synthesizer=use("cmi", batch_size=128, steps=114), schedule=SMALL),
        # The released script that starts from nothing.
        Preset(name="paper", schedule={**_PAPER, "batch_size": 128}),
        *(
            Preset(name=name, teacher="resnet34", synthesizer=use("cmi", contrast_of="stage-inputs"))
            for name in ("small", "paper", "paper-bank")
        ),
        # Its headline starts from some 50,000 images of an earlier run, of which nothing else is kept. How those were
        # made is not scripted: this is our choice.
        Preset(
            name="paper-bank",
            synthesizer=use("cmi", oh=0.5, warmup_steps=500, restart_contrast=True),
            schedule={**_PAPER, "batch_size": 128, "warmup_rounds": 200, "epochs": 40, "steps_per_epoch": 2000},
        ),
    ),
)

DAFL = Method(
    name="dafl",
    summary="data-free learning of student networks: a generator for confident, active, balanced teacher outputs",
    paper="1904.01186",
    bibtex=CITATIONS["1904.01186"],
    synthesizer=use("generative", latent_dim=512, oh=1.0, act=1e-3, bal=20.0),
    distiller=use("kd", tau=1.0),
    presets=(
        Preset(name="quick", synthesizer=use("generative", batch_size=64), schedule=_QUICK_STREAM),
        Preset(name="small", schedule={**SMALL, "rounds_per_epoch": 65}),
        Preset(name="paper", schedule={**_PAPER, "rounds_per_epoch": 80}),
    ),
)

ZSKT = Method(
    name="zskt",
    summary="zero-shot knowledge transfer: a generator that seeks images on which student and teacher differ",
    paper="1905.09768",
    bibtex=CITATIONS["1905.09768"],
    synthesizer=use("generative", adv=1.0),
    distiller=use("kd", tau=1.0),
    presets=(
        Preset(name="quick", synthesizer=use("generative", batch_size=64), schedule=_QUICK_STREAM),
        Preset(name="small", schedule=_SMALL_STREAM),
        Preset(name="paper", schedule={**_PAPER, "rounds_per_epoch": 80}),
    ),
)

DFAD = Method(
    name="dfad",
    summary="data-free adversarial distillation: as zskt, with the mean distance of the logits for both players",
    paper="1912.11006",
    bibtex=CITATIONS["1912.11006"],
    synthesizer=use("generative", adv=1.0, adv_kind="l1"),
    distiller=use("l1"),
    presets=(
        Preset(name="quick", synthesizer=use("generative", batch_size=64), schedule=_QUICK_STREAM),
        Preset(name="small", schedule=_SMALL_STREAM),
        Preset(name="paper", schedule={**_PAPER, "rounds_per_epoch": 80}),
    ),
)

DFQ = Method(
    name="dfq",
    summary="data-free adversarial distillation with BatchNorm statistics and class balance",
    paper="2005.04136",
    bibtex=CITATIONS["2005.04136"],
    synthesizer=use("generative", bn=1.0, oh=1.0, adv=1.0, bal=20.0),
    distiller=use("kd", tau=1.0),
    presets=(
        Preset(
            name="quick",
            synthesizer=use("generative", batch_size=64, bn=0.03),
            schedule={**_QUICK_STREAM, "rounds_per_epoch": 40},
        ),
        Preset(name="small", schedule=_SMALL_STREAM),
        Preset(name="paper", schedule={**_PAPER, "rounds_per_epoch": 40}),
        Preset(name="paper", dataset="cifar100", pair="resnet34:resnet18", schedule={"lr": 0.05}),
    ),
)

FAST = Method(
    name="fast",
    summary="FastDFKD: a meta-learned generator that a few steps adapt to new images",
    paper="2112.06253",
    bibtex=CITATIONS["2112.06253"],
    synthesizer=use("fast"),
    presets=(
        Preset(
            name="quick",
            synthesizer=use("fast", batch_size=128, bn=0.3),
            schedule={**_QUICK, "warmup_rounds": 8, "rounds_per_epoch": 2},
        ),
        Preset(
            name="small",
            synthesizer=use("fast", steps=10, **_FAST_STEPS[10]),
            schedule={**SMALL, "warmup_rounds": 2, "rounds_per_epoch": 9},
        ),
        *(
            Preset(
                name=name,
                synthesizer=use("fast", steps=steps, **_FAST_STEPS[steps]),
                schedule={**_PAPER, "lr": 0.2, "lr_min": 2e-4, "warmup_rounds": 20},
            )
            for name, steps in _FAST_PRESETS.items()
        ),
        *(
            Preset(name=name, pair=pair, synthesizer=use("fast", **weights))
            for name in ("small", *_FAST_PRESETS)
            for pair, weights in _FAST_WEIGHTS.items()
        ),
    ),
)

CSD = Method(
    name="csd",
    summary="customized synthetic data: images on which the student's auxiliary head fails",
    paper="2307.04542",
    bibtex=CITATIONS["2307.04542"],
    synthesizer=use("csd"),
    distiller=use("csd"),
    presets=(
        Preset(
            name="quick",
            synthesizer=use("csd", batch_size=96, warmup_batch_size=96, steps=30, warmup_steps=60, bn=0.03),
            schedule={**_QUICK, "warmup_rounds": 2, "rounds_per_epoch": 1, "epochs": 3},
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
            schedule={**_PAPER, "batch_size": 128, "warmup_rounds": 400, "epochs": 100, "steps_per_epoch": 2000},
        ),
    ),
)

NAYER = Method(
    name="nayer",
    summary="noisy layer generation: label embeddings (random orthogonal, not CLIP's) through freshly drawn layers",
    paper="2310.00258",
    bibtex=CITATIONS["2310.00258"],
    synthesizer=use("nayer"),
    presets=(
        Preset(
            name="quick",
            synthesizer=use("nayer", batch_size=100, steps=30, loops=1, warmup_loops=2, bn=0.3),
            schedule={**_QUICK, "warmup_rounds": 2, "rounds_per_epoch": 1, "epochs": 5},
        ),
        Preset(
            name="small",
            synthesizer=use("nayer", batch_size=260, steps=30),
            schedule={**SMALL, "warmup_rounds": 1},
        ),
        *(
            Preset(name=name, schedule={**_NAYER, "epochs": epochs})
            for name, epochs in (("paper", 300), ("paper-100", 100), ("paper-200", 200))
        ),
        *(Preset(name=name, dataset="cifar10", synthesizer=use("nayer", steps=30)) for name in _NAYER_PRESETS),
        *(
            Preset(
                name=name,
                dataset="tiny_imagenet",
                synthesizer=use("nayer", batch_size=200, steps=60, loops=4, warmup_loops=20),
                schedule={"batch_size": 256, "lr": 0.1, "steps_per_epoch": 1000},
            )
            for name in _NAYER_PRESETS
        ),
    ),
)

NOISE = Method(
    name="noise",
    summary="null baseline: Gaussian noise, to show what nothing gives",
    kind="null",
    synthesizer=use("noise"),
    presets=_PLAIN_PRESETS,
)

UNTRAINED_GENERATOR = Method(
    name="untrained-generator",
    summary="null baseline: textures of a generator that was never trained, drawn anew for each batch",
    kind="null",
    synthesizer=use("untrained-generator"),
    presets=_PLAIN_PRESETS,
)

ONE_IMAGE = Method(
    name="one-image",
    summary="null baseline: crops of a single photograph",
    kind="null",
    paper="2112.00725",
    bibtex=CITATIONS["2112.00725"],
    synthesizer=use("one-image"),
    presets=_PLAIN_PRESETS,
)

OTHER_DATASET = Method(
    name="other-dataset",
    summary="null baseline: unlabeled images of another dataset (--set synthesizer.dataset=NAME)",
    kind="null",
    synthesizer=use("other-dataset"),
    presets=_PLAIN_PRESETS,
)

REAL_DATA = Method(
    name="real-data",
    summary="reference, not data-free: plain distillation on the training set",
    kind="reference",
    paper="1503.02531",
    bibtex=CITATIONS["1503.02531"],
    synthesizer=use("real-data"),
    presets=_PLAIN_PRESETS,
)

SCRATCH = Method(
    name="scratch",
    summary="reference, not data-free: the student trained on the training set without a teacher",
    kind="reference",
    synthesizer=use("real-data"),
    distiller=use("cross-entropy"),
    presets=_PLAIN_PRESETS,
)

METHODS = (
    DEEPINVERSION,
    CMI,
    DAFL,
    ZSKT,
    DFAD,
    DFQ,
    FAST,
    CSD,
    NAYER,
    NOISE,
    UNTRAINED_GENERATOR,
    ONE_IMAGE,
    OTHER_DATASET,
    REAL_DATA,
    SCRATCH,
)

"""The recipes: stages, options and schedules as data.

`paper` has the released settings, `quick` is for the bundled digits on a CPU, `small` has the budget of docs/small.md.
"""

from __future__ import annotations

from dfkd_bench import SMALL, Method, Preset, use

_QUICK = {"epochs": 6, "steps_per_epoch": 80, "batch_size": 128, "lr": 0.1}

GAPSSG = Method(
    name="gapssg",
    summary="images of a class that the teacher sees and the student does not yet, and that both together see",
    bibtex="""\
@article{wang2024unpacking,
  title = {Unpacking the Gap Box Against Data-Free Knowledge Distillation},
  author = {Wang, Yang and Qian, Biao and Liu, Haipeng and Rui, Yong and Wang, Meng},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume = {46},
  number = {9},
  pages = {6280--6291},
  year = {2024},
  doi = {10.1109/TPAMI.2024.3379505}
}""",
    synthesizer=use("gapssg"),
    presets=(
        Preset(
            name="quick",
            synthesizer=use("gapssg", batch_size=96, steps=40, lr=5e-3, bn=0.03),
            schedule={**_QUICK, "warmup_rounds": 2, "rounds_per_epoch": 1},
        ),
        Preset(name="small", synthesizer=use("gapssg", batch_size=128, steps=184), schedule=SMALL),
        # 4 (epoch + 1) steps, 80,400 in all.
        Preset(
            name="paper",
            schedule={"epochs": 200, "steps_per_epoch": 4, "growing": True, "batch_size": 128, "lr": 0.2},
        ),
    ),
)

SPACESHIPNET = Method(
    name="spaceshipnet",
    summary="mixtures of a generator's hidden maps feed the student, which also learns the teacher's class maps",
    bibtex="""\
@inproceedings{yu2023data,
  title = {Data-Free Knowledge Distillation via Feature Exchange and Activation Region Constraint},
  author = {Yu, Shikang and Chen, Jiachen and Han, Hu and Jiang, Shuqiang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages = {24266--24275},
  year = {2023},
  doi = {10.1109/CVPR52729.2023.02324}
}""",
    synthesizer=use("spaceshipnet"),
    distiller=use("spaceshipnet"),
    presets=(
        Preset(
            name="quick",
            synthesizer=use("spaceshipnet", batch_size=96, steps=40, bn=0.03, pool=2048),
            schedule={**_QUICK, "warmup_rounds": 3, "rounds_per_epoch": 1},
        ),
        Preset(
            name="small",
            synthesizer=use("spaceshipnet", batch_size=128, steps=174),
            distiller=use("spaceshipnet", bias=False),
            schedule=SMALL,
        ),
        Preset(
            name="paper",
            distiller=use("spaceshipnet", bias=False),
            schedule={"epochs": 200, "steps_per_epoch": 2000, "batch_size": 256, "lr": 0.1},
        ),
        Preset(name="paper", dataset="tiny_imagenet", schedule={"epochs": 400}),
    ),
    note=(
        "The student's initial weights are our networks' own (released: Xavier's). The pool keeps the hidden maps of "
        "the latest 51,200 images, all of CIFAR's schedule, in half precision."
    ),
)

TA_DFKD = Method(
    name="ta-dfkd",
    summary="a generator without a class prior; the student is fed what the confident one of two groups holds",
    bibtex="""\
@inproceedings{shin2024teacher,
  title = {Teacher as a Lenient Expert: Teacher-Agnostic Data-Free Knowledge Distillation},
  author = {Shin, Hyunjune and Choi, Dong-Wan},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year = {2024}
}""",
    synthesizer=use("ta-dfkd"),
    filter=use("ta-dfkd"),
    distiller=use("l1"),
    presets=(
        Preset(
            name="quick",
            synthesizer=use("ta-dfkd", batch_size=128, bn=0.3),
            schedule={**_QUICK, "epochs": 8, "rounds_per_epoch": 40},
        ),
        Preset(name="small", schedule={**SMALL, "rounds_per_epoch": 14}),
        Preset(
            name="paper",
            schedule={
                "epochs": 500,
                "rounds_per_epoch": 36,
                "steps_per_epoch": 360,
                "batch_size": 1024,
                "lr": 0.01,
                "weight_decay": 5e-4,
            },
        ),
        Preset(name="paper", dataset="cifar10", schedule={"epochs": 200}),
    ),
    note="Total variation and L2 norm are of normalized images, as in DeepInversion; the source does not say.",
)

VIT_INVERSION = Method(
    name="vit-inversion",
    summary="pixels optimized under a transformer: patches that differ, in place of BatchNorm statistics",
    paper="2203.02250",
    bibtex="""\
@inproceedings{li2022patch,
  title = {Patch Similarity Aware Data-Free Quantization for Vision Transformers},
  author = {Li, Zhikai and Ma, Liping and Chen, Mengjuan and Xiao, Junrui and Gu, Qingyi},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year = {2022},
  eprint = {2203.02250},
  archiveprefix = {arXiv}
}
@inproceedings{hu2024sparse,
  title = {Sparse Model Inversion: Efficient Inversion of Vision Transformers for Data-Free Applications},
  author = {Hu, Zixuan and Wei, Yongxian and Shen, Li and Wang, Zhenyi and Li, Lei and Yuan, Chun and Tao, Dacheng},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2024},
  eprint = {2510.27186},
  archiveprefix = {arXiv}
}""",
    synthesizer=use("vit-inversion"),
    presets=(
        Preset(
            name="quick",
            synthesizer=use("vit-inversion", batch_size=96, steps=50),
            schedule={**_QUICK, "warmup_rounds": 3, "rounds_per_epoch": 0},
        ),
        Preset(name="small", schedule=SMALL),
        Preset(
            name="paper",
            schedule={"epochs": 200, "steps_per_epoch": 400, "batch_size": 256, "lr": 0.1},
        ),
        Preset(
            name="paper-sparse",
            synthesizer=use("vit-inversion", steps=2000, pse=0.0, tv=1e-4, sparse_at=[0.0125, 0.025, 0.05, 0.075]),
            schedule={"epochs": 200, "steps_per_epoch": 400, "batch_size": 256, "lr": 0.1},
        ),
    ),
    note=(
        "The papers quantize a transformer or train a new head for one; a schedule for a student that learns from "
        "nothing is not published, and that of the preset paper is the CMI lineage's."
    ),
)

METHODS = (GAPSSG, SPACESHIPNET, TA_DFKD, VIT_INVERSION)

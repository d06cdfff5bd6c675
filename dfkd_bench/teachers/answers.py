"""What a teacher answers on the test split, kept beside its card: each run compares its student with it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dfkd_bench.errors import DfkdError
from dfkd_bench.evaluation import Evaluator
from dfkd_bench.files import replacing
from dfkd_bench.foreign import read_tensors
from dfkd_bench.stages.network import Network
from dfkd_bench.teachers.store import Teacher

__all__ = ["teacher_answers"]


def teacher_answers(teacher: Teacher, network: Network, evaluator: Evaluator, device: torch.device) -> Tensor:
    """The classes that a teacher names on the test split, int64 [N], in float32 arithmetic.

    Read from the teacher's folder if they were computed before, on this kind of device and with this PyTorch.

    Args:
        teacher: its card and folder.
        network: the teacher as the run sees it.
        evaluator: holds the test split.
        device: where the network is.
    """
    path = teacher.folder / f"answers-{evaluator.fingerprint[:16]}-{device.type}.safetensors"
    made_by = {
        "weights": teacher.card.sha256,
        "normalization": f"{teacher.card.mean} {teacher.card.std}",
        "test_split": evaluator.fingerprint,
        "device": device.type,
        "torch": torch.__version__,
    }
    found = _read(path, made_by, len(evaluator), teacher.card.num_classes)
    if found is not None:
        return found
    answers = evaluator.reference(network)
    # A folder that cannot be written costs the next run some time, and changes no result.
    with suppress(OSError, DfkdError, SafetensorError), replacing(path) as temporary:
        save_file({"answers": answers}, temporary, metadata=made_by)
    return answers


def _read(path: Path, made_by: dict[str, str], count: int, num_classes: int) -> Tensor | None:
    """The answers in a file; None if there is none, or it is damaged or another's: then they are computed anew."""
    try:
        tensors, texts = read_tensors(path, ["answers"])
    except (FileNotFoundError, DfkdError):
        return None
    answers = tensors["answers"]
    if texts != made_by or answers.dtype != torch.int64 or answers.shape != (count,):
        return None
    return answers if bool(((answers >= 0) & (answers < num_classes)).all()) else None

"""The student's captured steps, on a CPU: a tape stands for the graph."""

from types import SimpleNamespace

import pytest
import torch
from support.e2e_kit import bench, own_cache, specs  # noqa: F401
from support.method_kit import CPU, make_card, make_context
from support.tape import Tape

from dfkd_baselines.generative import Generative, GenerativeOptions
from dfkd_bench.runs import distillation, loop
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.runs.student_watch import StudentWatch
from dfkd_bench.stages.base import Round
from dfkd_bench.stages.graphs import WARM_UP, Graphs
from dfkd_bench.stages.network import frozen
from dfkd_bench.stages.plain import Distillation, DistillationOptions

SGD = torch.optim.SGD
EPOCHS = WARM_UP + 3


def play(capturer, precision=torch.float32):
    """Images, losses and cost of epochs of one step each, in which images are learned against the student, too."""
    card = make_card(side=4)
    plain = make_context(card)
    teacher, student, ledger = plain.teacher, plain.student.requires_grad_(True).train(), plain.ledger
    teacher.precision = student.precision = precision
    ledger.watch(teacher.body, "teacher")
    ledger.watch(student.body, "student")
    graphs = Graphs(ledger, capturer)
    context = make_context(card, teacher=teacher, student=student, precision=precision, ledger=ledger, graphs=graphs)
    options = GenerativeOptions(batch_size=4, steps=1, latent_dim=4, adv=1.0, bn=1.0)
    stages = SimpleNamespace(
        synthesizer=Generative(options, context), distiller=Distillation(DistillationOptions(), context)
    )
    schedule = SimpleNamespace(
        lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=False, batch_size=4, lr_schedule="cosine", lr_min=0.0,
        epochs=EPOCHS, steps_per_epoch=1,
    )  # fmt: skip
    parts = SimpleNamespace(
        spec=SimpleNamespace(schedule=schedule), student=student, teacher=teacher, device=CPU, graphs=graphs,
        ledger=ledger, watch=StudentWatch(student), emit=lambda *_: None, stage=lambda kind: kind, stages=stages,
    )  # fmt: skip
    made, found = distillation.Distillation(parts, SimpleNamespace(count=lambda **_: None)), []
    for epoch in range(EPOCHS):
        with ledger.phase("synthesis"), frozen(student):
            batch = stages.synthesizer.synthesize(Round(epoch, warmup=False))
        made.run(SimpleNamespace(steps=1, epoch=epoch))
        found.append((batch.images.tolist(), made.end_epoch(epoch)))
    costs = [(name, cost.forward, cost.backward, cost.flops) for name, cost in ledger.phases.items()]
    return found, costs


@pytest.fixture
def fused(monkeypatch):
    # As on a GPU, where alone steps are captured.
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **options: SGD(*args, **{**options, "fused": True}))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_captured_steps_teach_the_same_at_the_same_cost(fused, precision):
    tape = Tape()
    eager, captured = play(None, precision), play(tape, precision)
    for one, other in zip(eager[0], captured[0], strict=True):
        assert one == other
    assert eager[1] == captured[1]
    assert (tape.captures, tape.replays) == (2, 2 * (EPOCHS - WARM_UP))


def test_a_distiller_that_does_not_say_so_is_not_captured(fused, monkeypatch):
    monkeypatch.setattr(Distillation, "capturable", False)
    tape = Tape()
    play(tape)
    assert tape.captures == 1  # the generator's


def test_a_run_whose_step_cannot_be_captured_says_so_and_goes_on(tmp_path, fused, monkeypatch):
    losses = Distillation.losses
    monkeypatch.setattr(Distillation, "losses", lambda *a: {k: v + 0 * v.item() for k, v in losses(*a).items()})
    monkeypatch.setattr(loop, "Graphs", lambda ledger, _, remark: Graphs(ledger, Tape(), remark))
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise", f"noise:schedule.steps_per_epoch={WARM_UP + 1}")
    with pytest.warns(UserWarning, match="could not be captured") as seen:
        record = run_spec(spec, workbench.results, workbench.store)
    assert record.status == "finished"
    assert len([each for each in seen if "could not be captured" in str(each.message)]) == 1
    assert record.environment.notes[0].startswith("a step could not be captured as a CUDA graph")

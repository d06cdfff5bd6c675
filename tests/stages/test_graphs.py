"""Captured steps, on a CPU: a tape stands for the graph, which does the same operations on the same tensors again."""

import pytest
import torch
from support.method_kit import CPU, make_card, make_context
from support.tape import Tape

from dfkd_baselines.cmi import CmiOptions, ContrastiveInversion
from dfkd_baselines.deepinversion import DeepInversion, DeepInversionOptions
from dfkd_baselines.fast import FastInversion, FastOptions
from dfkd_baselines.generative import Generative, GenerativeOptions
from dfkd_baselines.nayer import NayerOptions, NoisyLayerInversion
from dfkd_bench.card import TrainTransform
from dfkd_bench.stages.base import Round
from dfkd_bench.stages.graphs import KEPT, WARM_UP, Graphs
from dfkd_bench.stages.ledger import CostLedger

STEPS = 5
CARD = make_card(side=4, transform=TrainTransform(padding=1, flip=True))
STAGES = {
    "deepinversion": (DeepInversion, DeepInversionOptions(batch_size=5, steps=STEPS, select="best")),
    "cmi": (ContrastiveInversion, CmiOptions(batch_size=5, steps=STEPS, latent_dim=4, negatives=3, instance_bank=10)),
    "fast": (FastInversion, FastOptions(batch_size=5, steps=STEPS, latent_dim=4, reset_round=2)),
    "nayer": (
        NoisyLayerInversion,
        NayerOptions(batch_size=5, steps=STEPS, loops=1, warmup_loops=1, noisy_dim=4, embedding_dim=4, life=2),
    ),
    "dfq": (Generative, GenerativeOptions(batch_size=5, steps=STEPS, latent_dim=4, bn=1.0, adv=1.0, bal=20.0)),
}
# Captures of four rounds, of which two are warm-up: with the adversary and without; where there is an average, before
# there was one, too; and for `cmi` for each filling of its bank, which in the last two rounds is full.
CAPTURES = {"deepinversion": 2, "cmi": 3, "fast": 3, "nayer": 3, "dfq": 1}


def play(name, precision, capturer):
    """Images of four rounds, between which the student learns, and what they cost."""
    context = make_context(CARD, precision=precision)
    context.teacher.precision = context.student.precision = precision
    context = make_context(
        CARD,
        teacher=context.teacher,
        student=context.student,
        precision=precision,
        graphs=Graphs(context.ledger, capturer),
        ledger=context.ledger,
    )
    for role in ("teacher", "student"):
        context.ledger.watch(getattr(context, role).body, role)
    kind, options = STAGES[name]
    made, images = kind(options, context), []
    with context.ledger.phase("synthesis"):
        for index in range(4):
            images.append(made.synthesize(Round(index, warmup=index < 2)).images)
            with torch.no_grad():
                for parameter in context.student.parameters():
                    parameter.mul_(1.5)
    cost = context.ledger.phases["synthesis"]
    return torch.stack(images), (cost.forward, cost.backward, cost.flops), made


# In bf16 the student's weights are kept in half precision, and are others in each round.
@pytest.mark.parametrize(
    ("name", "precision"), [*((name, torch.float32) for name in STAGES), ("deepinversion", torch.bfloat16)]
)
def test_captured_steps_make_the_same_images_at_the_same_cost(name, precision):
    tape = Tape()
    images, cost, _ = play(name, precision, None)
    again, same_cost, _ = play(name, precision, tape)
    assert torch.equal(images, again)
    assert cost == same_cost
    assert not torch.equal(images[2], images[3])
    assert tape.captures == CAPTURES[name]
    assert tape.replays == 4 * STEPS - tape.warm_ups == 4 * STEPS - WARM_UP * tape.captures


@pytest.mark.parametrize("name", STAGES)
def test_what_a_captured_step_reads_stays_in_its_place(name):
    _, _, made = play(name, torch.float32, Tape())
    places = _places(made)
    made.synthesize(Round(4, warmup=False))
    assert len(places) > 3
    assert _places(made) == places


def _places(made):
    """Where all the tensors are that the stage keeps, but for gradients and banks, of which its keys know."""
    found = {}
    for name, value in vars(made).items():
        if isinstance(value, torch.Tensor):
            found[name] = value.data_ptr()
        elif isinstance(value, torch.nn.Module):
            found |= {f"{name}.{key}": each.data_ptr() for key, each in value.state_dict(keep_vars=True).items()}
        elif isinstance(value, torch.optim.Optimizer):
            states = [each for state in value.state.values() for each in state.values()]
            found |= {f"{name}.{number}": each.data_ptr() for number, each in enumerate(states)}
        elif name in ("best", "average"):
            parts = [each for part in vars(value).values() for each in (part if isinstance(part, tuple) else (part,))]
            tensors = [each for each in parts if isinstance(each, torch.Tensor)]
            found |= {f"{name}.{number}": each.data_ptr() for number, each in enumerate(tensors)}
    return found


# --- the runner -------------------------------------------------------------------------------------------------------


class Counting:
    """A step that counts its calls in a tensor."""

    def __init__(self) -> None:
        self.calls, self.total = 0, torch.zeros(())

    def step(self) -> torch.Tensor:
        self.calls += 1
        self.total += 1
        return self.total.clone()


def test_without_a_capturer_a_step_is_the_function_itself():
    counting = Counting()
    context = make_context(CARD)
    assert context.step(counting.step, "key") == counting.step
    assert make_context(CARD, graphs=Graphs(CostLedger(CPU))).step(counting.step) == counting.step


def test_the_first_calls_are_its_own_and_then_python_has_no_part_in_it():
    counting, tape = Counting(), Tape()
    graphs = Graphs(CostLedger(CPU), tape)
    outputs = [float(graphs.step(counting.step, "key")()) for _ in range(WARM_UP + 4)]
    assert outputs == [1, 2, 3, 4, 5, 6, 7]
    assert (counting.calls, tape.warm_ups, tape.captures, tape.replays) == (WARM_UP + 1, WARM_UP, 1, 4)


def test_each_key_and_each_function_is_captured_by_itself():
    counting, tape = Counting(), Tape()
    graphs = Graphs(CostLedger(CPU), tape)
    for key in ("a", "b", "a"):
        step = graphs.step(counting.step, key)
        for _ in range(WARM_UP + 1):
            step()
    assert tape.captures == 2
    assert float(counting.total) == 3 * (WARM_UP + 1)


def test_only_the_latest_keys_of_a_function_are_kept():
    counting, tape = Counting(), Tape()
    graphs = Graphs(CostLedger(CPU), tape)
    first = graphs.step(counting.step, 0)
    for key in range(1, KEPT):
        graphs.step(counting.step, key)
    assert graphs.step(counting.step, 0) is first
    for key in range(KEPT, 2 * KEPT):
        graphs.step(counting.step, key)
    assert graphs.step(counting.step, 0) is not first


def test_loaded_state_is_captured_anew():
    counting, graphs = Counting(), Graphs(CostLedger(CPU), Tape())
    first = graphs.step(counting.step, "key")
    graphs.forget()
    assert graphs.step(counting.step, "key") is not first


def test_a_step_that_cannot_be_captured_is_called_as_it_is_with_one_warning():
    told, tape, calls = [], Tape(), []
    ledger = CostLedger(CPU)
    graphs = Graphs(ledger, tape, told.append)
    network = make_context(CARD).teacher
    ledger.watch(network.body, "teacher")

    def step():
        network(torch.zeros(2, *CARD.image_shape))
        calls.append(torch.ones(()).item())

    with (
        ledger.phase("synthesis") as cost,
        pytest.warns(UserWarning, match="not permitted when stream is capt") as seen,
    ):
        for _ in range(WARM_UP + 3):
            graphs.step(step, "key")()
    assert len(seen) == len(told) == 1
    assert (len(calls), tape.captures) == (WARM_UP + 3, 1)
    assert cost.forward == {"teacher": 2 * (WARM_UP + 3)}


def test_another_error_of_a_step_is_not_taken_for_a_failed_capture():
    graphs, answers = Graphs(CostLedger(CPU), Tape()), iter(range(WARM_UP))
    with pytest.raises(StopIteration):
        for _ in range(WARM_UP + 1):
            graphs.step(answers.__next__, "key")()


def test_a_static_tensor_is_the_same_one_ever_after():
    context = make_context(CARD)
    first = context.static("targets", (3,), torch.int64)
    assert first.tolist() == [0, 0, 0]
    assert context.static("targets", (3,), torch.int64) is first
    assert context.static("targets", (4,), torch.int64) is not first
    assert make_context(CARD).static("targets", (3,), torch.int64) is not first

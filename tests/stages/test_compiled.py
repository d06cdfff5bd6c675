from __future__ import annotations

import copy

import pytest
import torch
from support.kit import make_card, make_convnet, make_pencil
from torch.utils.flop_counter import FlopCounterMode

from dfkd_bench import CostLedger
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.stages import compiled
from dfkd_bench.stages.compiled import compiler_missing


class Backend:
    """A backend of `torch.compile` that leaves the graph as it is, and counts its calls."""

    def __init__(self):
        self.graphs = self.calls = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*args):
            self.calls += 1
            return graph.forward(*args)

        return run


def images(count=8):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def distilled(backend=None, precision=torch.float32, steps=3):
    """Losses, pixel gradients, the student and the ledger of steps that look, synthesize and distill."""
    card, ledger, seen = make_card(), CostLedger(torch.device("cpu")), []
    teacher, student = make_convnet(card, seed=0), make_convnet(card, seed=1).train().requires_grad_(True)
    for network, role in ((teacher, "teacher"), (student, "student")):
        network.precision = precision
        ledger.watch(network.body, role)
        if backend is not None:
            network.compile_passes(backend)
    optimizer = torch.optim.SGD(student.parameters(), 0.01)
    with ledger.phase("p"):
        for step in range(steps):
            batch = images() + 0.01 * step
            with torch.no_grad():
                wanted = teacher(batch)
            loss = (student(batch) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pixels = batch.requires_grad_()
            logits = teacher(pixels)
            first, second = (torch.autograd.grad(logits[:, k].sum(), pixels, retain_graph=True)[0] for k in (0, 1))
            bn_loss(teacher.observe(pixels, batchnorm=True).batchnorm).backward()
            seen += [loss.detach(), first, second, pixels.grad]
    (cost,) = ledger.state_dict().values()
    return seen, student, {name: cost[name] for name in ("forward", "backward", "flops")}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_compiled_passes_are_eager_ones_and_cost_the_same(precision):
    backend = Backend()
    expected, found = distilled(None, precision), distilled(backend, precision)
    # Of each of three kinds of pass the first is eager; what is observed is eager always.
    assert (backend.graphs, backend.calls) == (3, 3 * 2)
    for one, other in zip(expected[0], found[0], strict=True):
        torch.testing.assert_close(other, one)
    states = expected[1].state_dict(), found[1].state_dict()
    assert list(states[0]) == list(states[1])
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)
    assert found[2] == expected[2]
    assert found[2]["forward"] == {"teacher": 3 * 3 * 8, "student": 3 * 8}


def test_a_compiled_pass_can_be_differentiated_for_two_losses():
    expected, found = distilled(steps=2), distilled("aot_eager", steps=2)
    for one, other in zip(expected[0], found[0], strict=True):
        torch.testing.assert_close(other, one)
    assert found[2] == expected[2]


@pytest.mark.slow
@pytest.mark.skipif(compiler_missing("cpu") is not None, reason=f"no {compiler_missing('cpu')} on this machine")
def test_what_the_compiler_makes_of_it_is_the_same_to_rounding():
    expected, found = distilled(steps=2), distilled("inductor", steps=2)
    for one, other in zip(expected[0], found[0], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)
    assert found[2] == expected[2]


@pytest.fixture
def pencil():
    network, backend = make_pencil(make_card(), seed=0), Backend()
    network.compile_passes(backend)
    return network, backend


def test_who_looks_into_a_pass_sees_it_and_it_is_eager(pencil):
    network, backend = pencil
    plain, _ = network(images()), network(images())
    assert backend.calls == 1
    seen = []
    handle = network.body[0].register_forward_hook(lambda _, __, output: seen.append(output))
    torch.testing.assert_close(network(images()), plain)
    assert (len(seen), backend.calls) == (1, 1)
    handle.remove()
    network(images())
    assert (len(seen), backend.calls) == (1, 2)


def test_operations_that_are_counted_are_all_counted(pencil):
    network, backend = pencil
    network(images()), network(images())
    with FlopCounterMode(display=False) as counter:
        network(images())
    assert (backend.calls, counter.get_total_flops()) == (1, 8 * 2 * 3 * 3)


def test_a_copy_computes_with_its_own_weights(pencil):
    network, _ = pencil
    before = [network(images()) for _ in range(2)]
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.classifier.weight.zero_()
    for _ in range(2):
        torch.testing.assert_close(other(images()), other.classifier.bias.expand(8, -1))
    torch.testing.assert_close(network(images()), before[0])


def test_odd_sizes_stay_eager(pencil, monkeypatch):
    monkeypatch.setattr(compiled, "_MOST_KINDS", 2)
    network, backend = pencil
    for _ in range(3):
        for count in (1, 2, 3, 4):
            network(images(count))
    assert (backend.graphs, backend.calls) == (2, 2 * 2)


def test_nothing_of_it_stays_on_the_body(pencil):
    network, _ = pencil
    state = set(network.state_dict())
    with pytest.raises(RuntimeError):
        network(torch.rand(2, 4, 8, 8))
    network(images()), network(images())
    assert "forward" not in vars(network.body)
    assert set(network.state_dict()) == state == {f"body.{name}" for name in network.body.state_dict()}


def test_a_compiler_that_is_not_there_is_named(monkeypatch, tmp_path):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    assert compiler_missing("cpu") == "a C++ compiler"
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert compiler_missing("cuda") == "Triton"
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert compiler_missing("cuda") == "a C compiler"
    monkeypatch.setattr(compiled, "_finds_c", lambda: True)
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda name: str(tmp_path))
    assert compiler_missing("cuda") == "Python's headers"
    (tmp_path / "Python.h").touch()
    assert compiler_missing("cuda") is None

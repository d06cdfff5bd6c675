from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dfkd_bench import CostLedger

CPU = torch.device("cpu")
# Multiplications and additions: 2 x (4 outputs x 8 x 8 places x 3 inputs x 3 x 3), and 2 x (7 x 5).
CONV_FLOPS, LINEAR_FLOPS = 13_824, 70


def conv() -> nn.Module:
    return nn.Conv2d(3, 4, 3, padding=1)


def images(count: int, *, wanted: bool = False) -> Tensor:
    return torch.ones(count, 3, 8, 8, requires_grad=wanted)


def watched(module: nn.Module, role: str = "net") -> CostLedger:
    ledger = CostLedger(CPU)
    ledger.watch(module, role)
    return ledger


def test_a_convolution_and_a_linear_layer_cost_what_pencil_and_paper_say():
    for module, batch, each in ((conv(), images(6), CONV_FLOPS), (nn.Linear(5, 7), torch.ones(6, 5), LINEAR_FLOPS)):
        ledger = watched(module)
        with ledger.phase("p") as cost, torch.no_grad():
            module(batch)
            module(batch[:2])
        assert cost.flops == 8 * each
        assert (cost.forward, cost.backward) == ({"net": 8}, {})


def test_another_image_size_is_counted_anew():
    module = conv()
    ledger = watched(module)
    with ledger.phase("p") as cost, torch.no_grad():
        module(images(1))
        module(torch.ones(1, 3, 16, 8))
        module(images(1))
    assert cost.flops == 4 * CONV_FLOPS


def test_a_trained_networks_way_back_costs_twice_its_way_forward():
    module = conv()
    ledger = watched(module)
    with ledger.phase("p") as cost:
        module(images(5)).sum().backward()
    assert (cost.forward, cost.backward) == ({"net": 5}, {"net": 5})
    assert cost.flops == 5 * CONV_FLOPS * (1 + 2)


def test_a_frozen_networks_way_back_to_the_images_costs_once():
    module = conv().requires_grad_(False)
    ledger = watched(module)
    with ledger.phase("p") as cost:
        module(images(5, wanted=True)).sum().backward()
    assert (cost.forward, cost.backward) == ({"net": 5}, {"net": 5})
    assert cost.flops == 5 * CONV_FLOPS * (1 + 1)


def test_a_frozen_network_with_images_that_want_no_gradient_has_no_way_back():
    module, weight = conv().requires_grad_(False), torch.ones((), requires_grad=True)
    ledger = watched(module)
    with ledger.phase("p") as cost:
        (module(images(5)).sum() * weight).backward()
    assert (cost.forward, cost.backward) == ({"net": 5}, {})
    assert cost.flops == 5 * CONV_FLOPS


def test_images_that_are_used_twice_count_once_for_each_use():
    for trained in (False, True):
        module, batch = conv().requires_grad_(trained), images(5, wanted=True)
        ledger = watched(module)
        with ledger.phase("p") as cost:
            (module(batch).sum() + module(batch).square().sum() + batch.sum()).backward()
        assert (cost.forward, cost.backward) == ({"net": 10}, {"net": 10})
        assert cost.flops == 10 * CONV_FLOPS * (3 if trained else 2)


def test_images_that_are_optimized_over_several_steps_count_once_in_each():
    module, batch = conv().requires_grad_(False), images(5, wanted=True)
    ledger = watched(module)
    with ledger.phase("p") as cost:
        for _ in range(3):
            module(batch).sum().backward()
        module(batch)  # looked at, without a way back
        batch.sum().backward()
    assert (cost.forward, cost.backward) == ({"net": 20}, {"net": 15})


def test_images_that_come_from_a_generator_count_on_their_way_back():
    generator, teacher = nn.Linear(5, 7), nn.Linear(7, 5).requires_grad_(False)
    ledger = watched(generator, "generator")
    ledger.watch(teacher, "teacher")
    with ledger.phase("p") as cost:
        teacher(generator(torch.ones(4, 5))).sum().backward()
    assert cost.forward == cost.backward == {"generator": 4, "teacher": 4}
    assert cost.flops == 4 * (3 + 2) * LINEAR_FLOPS


def test_watching_does_not_change_what_a_network_computes():
    module, batch = conv(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    results = []
    for _ in range(2):
        module.zero_grad()
        batch.grad = None
        output = module(batch)
        output.square().sum().backward()
        results.append((output.detach(), batch.grad, module.weight.grad))
        ledger = watched(module)
    assert ledger.phases == {}
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(before, after)


def test_phases_do_not_nest():
    ledger = CostLedger(CPU)
    with ledger.phase("outer"):
        with pytest.raises(RuntimeError, match="phase 'inner' inside phase 'outer'"), ledger.phase("inner"):
            pass
        assert set(ledger.phases) == {"outer"}


def test_a_phase_that_failed_is_closed_and_booked():
    ledger = CostLedger(CPU)
    with pytest.raises(KeyError), ledger.phase("p"):
        time.sleep(0.02)
        raise KeyError
    with ledger.phase("q") as cost:
        pass
    assert ledger.phases["p"].seconds >= 0.02
    assert cost.seconds < 0.02


def test_a_phase_that_opens_again_goes_on_counting():
    module = conv()
    ledger = watched(module)
    for count in (1, 2):
        with ledger.phase("p") as cost, torch.no_grad():
            time.sleep(0.01)
            module(images(count))
            cost.images += count
    assert (cost.images, cost.forward) == (3, {"net": 3})
    assert cost.seconds >= 0.02
    assert cost.peak_memory > 1_000_000


def test_outside_a_phase_nothing_is_booked():
    module = conv()
    ledger = watched(module)
    module(images(3)).sum().backward()
    assert ledger.phases == {}
    with ledger.phase("p") as cost:
        output = module(images(2))
    output.sum().backward()
    assert (cost.forward, cost.backward, cost.flops) == ({"net": 2}, {}, 2 * CONV_FLOPS)


class _Fragile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 5)
        self.fails = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.fails:
            raise KeyError
        return self.second(x)


def test_a_pass_that_raises_books_nothing_and_leaves_no_counter_behind():
    module = _Fragile()
    ledger = watched(module)
    with ledger.phase("p") as cost:
        with pytest.raises(KeyError):
            module(torch.ones(3, 5))
        assert _get_current_dispatch_mode() is None
        assert (cost.forward, cost.flops) == ({}, 0)


def test_between_passes_that_raise_the_one_that_does_not_is_counted_in_full():
    module = _Fragile()
    ledger = watched(module)
    with ledger.phase("p") as cost, torch.no_grad():
        with pytest.raises(KeyError):
            module(torch.ones(3, 5))
        module.fails = False
        module(torch.ones(3, 5))
        module.fails = True
        with pytest.raises(KeyError):
            module(torch.ones(3, 5))
    assert (cost.forward, cost.flops) == ({"net": 3}, 3 * 2 * LINEAR_FLOPS)


def test_a_trained_network_counts_its_way_back_also_from_what_a_hook_took_out():
    module, taken = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 5)), []
    module[0].register_forward_hook(lambda _, __, output: taken.append(output))
    ledger = watched(module)
    with ledger.phase("p") as cost:
        module(torch.ones(3, 5))
        taken[0].sum().backward()
    assert cost.backward == {"net": 3}


def test_a_ledger_goes_on_from_its_state():
    module = conv()
    ledger = watched(module)
    with ledger.phase("p") as cost:
        module(images(2)).sum().backward()
        cost.images += 2
    other = watched(module, "other")
    other.load_state_dict(ledger.state_dict())
    assert other.state_dict() == ledger.state_dict()
    with other.phase("p") as more:
        module(images(3))
    assert (more.images, more.forward, more.backward) == (2, {"net": 2, "other": 3}, {"net": 2})
    assert more.flops == 2 * 3 * CONV_FLOPS + 3 * CONV_FLOPS
    assert more.seconds > cost.seconds
    assert cost.forward == {"net": 2}


def test_its_state_is_plain_data():
    ledger = watched(conv())
    with ledger.phase("p"):
        pass
    (state,) = ledger.state_dict().values()
    assert set(state) == {"seconds", "images", "forward", "backward", "flops", "peak_memory"}
    assert all(type(value) in (int, float, dict) for value in state.values())


def test_what_is_aside_of_a_phase_is_booked_elsewhere_with_its_seconds():
    module = nn.Linear(5, 7)
    ledger = watched(module)
    with ledger.phase("around") as around:
        module(torch.ones(2, 5))
        with ledger.aside("within") as within:
            module(torch.ones(3, 5))
            time.sleep(0.2)
        with ledger.aside("within"):
            time.sleep(0.1)
        module(torch.ones(4, 5))
    assert (around.forward, within.forward) == ({"net": 6}, {"net": 3})
    assert (around.flops, within.flops) == (6 * LINEAR_FLOPS, 3 * LINEAR_FLOPS)
    assert within.seconds >= 0.3
    assert 0 <= around.seconds < 0.2
    with ledger.phase("around"):
        time.sleep(0.01)
    assert 0.3 <= within.seconds < 0.5  # told once


def test_nothing_is_aside_of_no_phase():
    with pytest.raises(RuntimeError, match="aside of no phase"), CostLedger(CPU).aside("within"):
        pass


def test_a_part_that_was_measured_can_be_booked_again():
    ledger = CostLedger(torch.device("cpu"))
    layer = torch.nn.Linear(3, 2)
    ledger.watch(layer, "net")
    with ledger.phase("p"):
        layer(torch.zeros(5, 3))
        with ledger.measured() as part:
            layer(torch.zeros(4, 3)).sum().backward()
    assert (part.forward, part.backward, part.flops) == ({"net": 4}, {"net": 4}, 3 * 4 * 12)
    assert 0 < part.seconds <= ledger.phases["p"].seconds
    with ledger.phase("q"):
        ledger.repeat(part)
        ledger.repeat(part)
    again = ledger.phases["q"]
    assert (again.forward, again.backward, again.flops) == ({"net": 8}, {"net": 8}, 2 * part.flops)
    assert again.seconds >= 2 * part.seconds


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_attention_is_counted_on_the_cpu_too():
    ledger, layer = CostLedger(CPU), Attention()
    ledger.watch(layer, "net")
    with ledger.phase("p") as cost, torch.no_grad():
        layer(torch.rand(3, 2, 5, 8))  # 3 images of 2 heads of 5 tokens with 8 numbers each
    # Two products of [5, 8] and [8, 5] or back, in each head: 2 x 5 x 5 x 8 operations each.
    assert cost.flops == 3 * 2 * 2 * (2 * 5 * 5 * 8)

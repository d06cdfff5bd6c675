from __future__ import annotations

import pytest
import torch

from dfkd_bench.stages.seeds import global_stream, stream, stream_seed

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("root", "name", "seed"),
    [
        (0, "order", 5_231_958_647_509_549_229),
        (1, "order", 620_558_406_644_582_515),
        (0, "synthesizer", 5_425_042_936_946_136_248),
    ],
)
def test_a_streams_seed_is_half_of_the_first_eight_bytes_of_a_hash(root, name, seed):
    assert stream_seed(root, name) == seed


def test_seeds_fit_into_63_bits_and_differ():
    seeds = {stream_seed(root, name) for root in range(200) for name in ("synthesizer", "augmenter", "order", "1")}
    assert len(seeds) == 800
    assert min(seeds) >= 0 and max(seeds) < 2**63
    assert max(seeds) > 2**62


def test_streams_hang_on_root_and_name_alone():
    first, other = stream(3, "order"), stream(3, "synthesizer")
    torch.rand(100, generator=other)
    torch.rand(100)
    again = stream(3, "order")
    assert torch.equal(torch.rand(5, generator=first), torch.rand(5, generator=again))
    assert not torch.equal(torch.rand(5, generator=stream(3, "order")), torch.rand(5, generator=stream(4, "order")))
    assert first.device == CPU


def test_inside_a_global_stream_torch_draws_from_its_seed():
    with global_stream(5, CPU):
        drawn = torch.rand(4)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(5)))


def test_after_a_global_stream_torch_goes_on_where_it_was():
    torch.manual_seed(1)
    wanted = torch.rand(6)
    torch.manual_seed(1)
    first = torch.rand(2)
    with global_stream(5, CPU):
        torch.rand(100)
    with pytest.raises(KeyError), global_stream(6, CPU):
        torch.rand(100)
        raise KeyError
    assert torch.equal(torch.cat((first, torch.rand(4))), wanted)


def test_global_streams_nest():
    with global_stream(5, CPU):
        before = torch.rand(2)
        with global_stream(6, CPU):
            torch.rand(9)
        after = torch.rand(2)
    assert torch.equal(torch.cat((before, after)), torch.rand(4, generator=torch.Generator().manual_seed(5)))

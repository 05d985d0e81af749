"""Seeds never change: a changed value would silently change every run."""

import pytest
import torch

from reals.runtime.seed import derive_seed, seed_everything, torch_generator


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        ((), 8238016292129134938),
        ((0,), 6711488920161924273),
        ((0, "training", 17), 3645324453460183661),
        (("λ",), 2595505871999042895),
    ],
)
def test_values_are_fixed_for_ever(parts: tuple[int | str, ...], seed: int) -> None:
    assert derive_seed(*parts) == seed


def test_every_part_and_their_order_matter() -> None:
    different = [(0,), (1,), ("0",), ("a", "b"), ("b", "a"), ("ab",), ("a", "b", 0), (12,), (1, 2), (-1,)]
    assert len({derive_seed(*parts) for parts in different}) == len(different)


def test_seeds_fit_every_generator() -> None:
    seeds = [derive_seed("range", number) for number in range(1000)]
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62


def test_generators_start_where_their_parts_say() -> None:
    draws = [torch.randn(3, generator=torch_generator("noise", number)) for number in (4, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with torch.random.fork_rng():
        seed_everything("noise", 4)
        assert torch.equal(torch.randn(3), draws[0])

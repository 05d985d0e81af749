"""Alignment of hidden tokens: REPA's loss, on the right tokens, beside any objective."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reals.diffusion.repa import RepaConfig, RepaObjective, TokenTap, alignment_loss, to_grid


class Tokens(nn.Module):
    """A network whose tokens after block k are its patches (2 x 2 latent positions) times k."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.unused = nn.Parameter(torch.ones(1))

    def features(self, x: Tensor, t: Tensor, y: Tensor, block: int) -> tuple[Tensor, Tensor]:
        return x * self.unused, block * F.unfold(x, 2, stride=2).transpose(1, 2) * self.scale


class Squared(nn.Module):
    """The simplest objective there is; it calls its network ``calls`` times."""

    def __init__(self, network: nn.Module, calls: int = 1):
        super().__init__()
        self.network = network
        self.calls = calls

    def forward(self, latents: Tensor, labels: Tensor, noise: Tensor, quantile: Tensor) -> dict[str, Tensor]:
        outputs = [self.network(latents + noise, quantile, labels) for _ in range(self.calls)]
        return {"loss": sum(outputs, torch.zeros(1)).square().mean(), "more": torch.ones(())}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(rows: int = 4, columns: int = 6) -> dict[str, Tensor]:
    return {
        "latents": random(3, 2, rows, columns, seed=1),
        "labels": torch.zeros(3, dtype=torch.int64),
        "noise": random(3, 2, rows, columns, seed=2),
        "quantile": torch.rand(3, generator=torch.Generator().manual_seed(3)),
    }


def objective(make: Callable[[nn.Module], nn.Module] = Squared, **settings: float) -> RepaObjective:
    torch.manual_seed(0)
    config = RepaConfig(**({"weight": 0.5, "block": 2, "hidden": 16} | settings))  # pyright: ignore[reportArgumentType]
    return config.build(Tokens(), 8, 5, make)


def test_loss_is_the_objectives_and_minus_the_mean_cosine() -> None:
    """REPA's loop over images and normalised vectors, written out."""
    repa, inputs, patches = objective(), batch(), random(3, 2, 3, 5, seed=4)
    losses = repa(**inputs, patches=patches)
    noisy = inputs["latents"] + inputs["noise"]
    tokens = 2 * F.unfold(noisy, 2, stride=2).transpose(1, 2)
    layers = list(repa.projector)
    hidden = F.silu(layers[2](F.silu(layers[0](tokens))))
    total = torch.zeros(())
    for projected, wanted in zip(layers[4](hidden), patches.flatten(1, 2), strict=True):
        total = total - (F.normalize(projected, dim=-1) * F.normalize(wanted, dim=-1)).sum(-1).mean() / 3
    assert losses["repa"].item() == pytest.approx(total.item(), rel=1e-5)
    assert losses["diffusion"].item() == pytest.approx(noisy.square().mean().item(), rel=1e-5)
    assert losses["loss"].item() == pytest.approx((losses["diffusion"] + 0.5 * total).item(), rel=1e-5)
    assert losses["more"] == 1.0


def test_gradients_reach_network_and_projector_in_proportion_to_the_weight() -> None:
    gradients: list[Tensor] = []
    for weight in (0.5, 1.0):
        repa = objective(weight=weight)
        repa(**batch(), patches=random(3, 2, 3, 5))["loss"].backward()
        network = repa.network
        assert isinstance(network, Tokens)
        assert network.unused.grad is not None
        found = [network.scale.grad, *(parameter.grad for parameter in repa.projector.parameters())]
        gradients.append(torch.cat([one.flatten() for one in found if one is not None]))
        assert len(found) == 7
    torch.testing.assert_close(2.0 * gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0


def test_perfect_alignment_is_minus_one_whatever_the_lengths_of_the_vectors() -> None:
    patches = random(2, 3, 3, 5)
    assert alignment_loss(7.0 * patches.flatten(1, 2), patches, (3, 3)).item() == pytest.approx(-1.0)
    assert alignment_loss(-patches.flatten(1, 2), patches, (3, 3)).item() == pytest.approx(1.0)


def test_tokens_and_features_of_a_cell_meet_in_oblong_grids() -> None:
    """A feature that says which cell it is of is aligned with the token of that cell only."""
    cells = torch.eye(6).reshape(1, 2, 3, 6)
    assert alignment_loss(torch.eye(6)[None], cells, (2, 3)).item() == pytest.approx(-1.0)
    assert alignment_loss(torch.eye(6)[None].flip(1), cells, (2, 3)).item() == pytest.approx(0.0)
    repa = objective()
    losses = repa(**batch(4, 12), patches=random(3, 2, 6, 5))
    assert torch.isfinite(losses["loss"])


def test_features_of_a_finer_grid_are_averaged() -> None:
    fine = random(2, 4, 6, 3)
    coarse = to_grid(fine, (2, 3))
    torch.testing.assert_close(coarse[:, 1, 2], fine[:, 2:, 4:].mean(dim=(1, 2)))
    assert to_grid(fine, (4, 6)) is fine


@pytest.mark.parametrize("grid", [(3, 5), (8, 12)])
def test_features_of_other_grids_are_interpolated_without_shift(grid: tuple[int, int]) -> None:
    """A linear ramp stays the ramp at the centres of the new cells, away from the edges."""
    rows, columns = 6, 9
    ramp = ((torch.arange(columns) + 0.5) / columns).expand(rows, columns)[None, ..., None]
    resized = to_grid(ramp.contiguous(), grid)
    wanted = (torch.arange(grid[1]) + 0.5) / grid[1]
    assert resized.shape == (1, *grid, 1)
    torch.testing.assert_close(resized[0, 1, 2:-2, 0], wanted[2:-2], rtol=0, atol=1e-5)


def test_loss_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = objective()(**batch(), patches=random(3, 2, 3, 5))
    assert {value.dtype for value in losses.values()} == {torch.float32}


def test_every_parameter_has_one_name_and_the_network_is_the_given_one() -> None:
    repa = objective()
    names = [name for name, _ in repa.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == 8
    assert "objective.network.network.scale" in names
    assert isinstance(repa.network, Tokens)


def test_tokens_are_let_go_of() -> None:
    repa = objective()
    repa(**batch(), patches=random(3, 2, 3, 5))
    with pytest.raises(ValueError, match="0 times"):
        repa.tap.take()


def test_an_objective_that_calls_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="2 times"):
        objective(lambda network: Squared(network, 2))(**batch(), patches=random(3, 2, 3, 5))


def test_nonsense_is_refused() -> None:
    for setting in ({"weight": -1.0}, {"block": 0}, {"hidden": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(setting))} is"):
            RepaConfig(**setting)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Linear has no features"):
        TokenTap(nn.Linear(1, 1), 1)

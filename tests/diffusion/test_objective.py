"""Flow matching: what is regressed on what, and that learning it is possible."""

import pytest
import torch
from torch import Tensor, nn

from reals.diffusion.objective import FlowMatching


class Recorder(nn.Module):
    """A network that answers a constant and remembers what it was asked."""

    def __init__(self, answer: float = 0.0):
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(answer))
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.asked.append((x, t, y))
        return torch.zeros_like(x) + self.answer


LATENTS = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
LABELS = torch.arange(64)


def test_network_sees_the_point_of_the_path_and_the_loss_is_the_velocity_error() -> None:
    network = Recorder(0.5)
    torch.manual_seed(1)
    loss = FlowMatching().build(network)(LATENTS, LABELS)["loss"]
    torch.manual_seed(1)
    noise, t = torch.randn_like(LATENTS), torch.rand(64)
    x, times, labels = network.asked[0]
    weight = t[:, None, None, None]
    assert torch.allclose(x, weight * LATENTS + (1 - weight) * noise, atol=1e-6)
    assert torch.equal(times, t)
    assert torch.equal(labels, LABELS)
    assert loss.item() == pytest.approx((0.5 - (LATENTS - noise)).square().mean().item(), rel=1e-5)


def test_perfect_network_has_no_loss() -> None:
    objective = FlowMatching().build(Recorder())
    noise, t = torch.randn_like(LATENTS), torch.rand(64)

    def perfect(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return LATENTS - noise

    objective.network.forward = perfect
    assert objective.per_sample(LATENTS, LABELS, noise, t).max() == 0


def test_loss_is_random_by_the_global_generator_alone() -> None:
    objective = FlowMatching().build(Recorder())
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(objective(LATENTS, LABELS)["loss"].item())
    assert losses[0] == losses[1] != losses[2]


def test_quarters_average_to_the_loss_and_are_unbiased() -> None:
    class ErrorIsTime(nn.Module):
        def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            # Data and noise are equal here, so the target is 0 and the squared error is this squared.
            return t.sqrt()[:, None, None, None].expand_as(x)

    objective = FlowMatching().build(ErrorIsTime())
    torch.manual_seed(0)
    rounds = [
        {
            name: value.item()
            for name, value in objective.forward(torch.zeros(16, 1, 1, 1), torch.zeros(16).long()).items()
        }
        for _ in range(3)
    ]
    for losses in rounds:
        assert list(losses) == ["loss", "loss_t0.00", "loss_t0.25", "loss_t0.50", "loss_t0.75"]
        assert sum(list(losses.values())[1:]) / 4 == pytest.approx(losses["loss"], rel=1e-5)


def test_quarter_holds_the_errors_of_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr(torch, "rand", lambda n, device=None: torch.tensor([0.1, 0.1, 0.3, 0.99]))
    latents = torch.tensor([1.0, 3.0, 2.0, 4.0]).reshape(4, 1, 1, 1)
    losses = FlowMatching().build(Recorder())(latents, torch.zeros(4, dtype=torch.int64))
    assert losses["loss"].item() == pytest.approx(7.5)
    assert [losses[f"loss_t{q}"].item() for q in ("0.00", "0.25", "0.50", "0.75")] == [10.0, 4.0, 0.0, 16.0]


def test_loss_is_float32_and_differentiable_for_half_precision_networks() -> None:
    network = Recorder(0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = FlowMatching().build(network)(LATENTS.bfloat16(), LABELS)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    losses["loss"].backward()
    assert network.answer.grad is not None
    assert not losses["loss_t0.25"].requires_grad


def test_gradient_descent_finds_the_mean_velocity() -> None:
    network = Recorder()
    objective = FlowMatching().build(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.manual_seed(0)
    for _ in range(60):
        optimiser.zero_grad()
        objective(LATENTS, LABELS)["loss"].backward()
        optimiser.step()
    assert network.answer.item() == pytest.approx(LATENTS.mean().item(), abs=0.1)

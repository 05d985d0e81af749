"""Likelihood against the exact density of Gaussian data, in every gradient mode."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reals.diffusion.flow import CountedVelocity, Flow
from reals.diffusion.interpolant import GVP, VP, Linear
from reals.diffusion.likelihood import (
    Divergence,
    ExactDivergence,
    GaussianProbes,
    Likelihood,
    LogLikelihood,
    RademacherProbes,
)
from reals.diffusion.noise import PerImageNoise
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, Prediction, ScorePrediction, VelocityPrediction
from reals.diffusion.solvers import Dopri5, Euler, Heun
from reals.runtime.config import from_dict, to_dict
from tests.diffusion.normal_data import linear_flow, prediction_of, silence

MEAN, STD = torch.tensor([0.7, -0.4, 1.2]), torch.tensor([1.6, 0.5, 1.0])
DATA = MEAN + STD * torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
EXACT = torch.distributions.Normal(MEAN, STD).log_prob(DATA).sum(1)


def normal_flow(path: Linear | GVP | VP, prediction: Prediction) -> Flow:
    return FlowMatching(interpolant=path, prediction=prediction).flow(prediction_of(path, prediction, MEAN, STD))


def shear(rotation: Tensor) -> Flow:
    """A flow with a dense Jacobian: Gaussian data turned by ``rotation``, so that probes differ from the trace."""
    straight = prediction_of(Linear(), VelocityPrediction(), MEAN, STD)
    return linear_flow(lambda x, t: straight(x.double() @ rotation, t) @ rotation.T)


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("prediction", [VelocityPrediction(), ScorePrediction(), NoisePrediction()])
def test_density_of_normal_data_is_exact(path: Linear | GVP | VP, prediction: Prediction) -> None:
    result = Likelihood(divergence=ExactDivergence()).measure(normal_flow(path, prediction), DATA, silence)
    assert torch.allclose(result.nats, EXACT, atol=0.02)
    assert torch.allclose(result.noise, (DATA - MEAN) / STD, atol=0.03)


@pytest.mark.parametrize("solver", [Euler(steps=250), Heun(steps=30, float64=True), Dopri5(float64=True)])
def test_every_solver_measures_it(solver: Euler | Heun | Dopri5) -> None:
    flow = normal_flow(Linear(), VelocityPrediction())
    result = Likelihood(solver=solver, divergence=ExactDivergence()).measure(flow, DATA, silence)
    assert torch.allclose(result.nats.float(), EXACT, atol=0.05 if isinstance(solver, Euler) else 0.02)


@pytest.mark.parametrize("kind", [RademacherProbes, GaussianProbes])
def test_probes_are_unbiased_and_more_of_them_better(kind: type[RademacherProbes] | type[GaussianProbes]) -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    flow, data = shear(rotation), (DATA[:1].double() @ rotation.T).expand(400, 3)
    spreads = []
    for probes in (1, 16):
        likelihood = Likelihood(solver=Heun(steps=10), divergence=kind(probes=probes))
        nats = likelihood.measure(flow, data, PerImageNoise(0, range(400))).nats
        error = (nats - EXACT[0]).mean().abs().item()
        assert error < 4 * nats.std().item() / math.sqrt(400) + 0.1
        spreads.append(nats.std().item())
    assert spreads[0] == pytest.approx(4 * spreads[1], rel=0.2)


def test_estimate_of_an_image_does_not_depend_on_its_batch() -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    likelihood = Likelihood(solver=Heun(steps=10))
    together = likelihood.measure(shear(rotation), DATA, PerImageNoise(7, range(5))).nats
    alone = likelihood.measure(shear(rotation), DATA[3:4], PerImageNoise(7, [3])).nats
    assert alone.item() == pytest.approx(together[3].item(), abs=1e-5)
    other = likelihood.measure(shear(rotation), DATA, PerImageNoise(8, range(5))).nats
    assert not torch.allclose(other, together)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * t[:, None, None, None]


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_works_in_every_gradient_mode_and_leaves_no_trace(mode: type[AbstractContextManager[Any]]) -> None:
    torch.manual_seed(0)
    network = Network()
    flow = FlowMatching().flow(network)
    with mode():
        data = torch.linspace(-1, 1, 64).reshape(2, 2, 4, 4) * 1.0
        result = Likelihood(solver=Heun(steps=3)).measure(flow, data, PerImageNoise(0, [0, 1]))
    assert not result.nats.requires_grad
    assert not result.noise.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    reference = Likelihood(solver=Heun(steps=3)).measure(
        flow, torch.linspace(-1, 1, 64).reshape(2, 2, 4, 4), PerImageNoise(0, [0, 1])
    )
    assert torch.equal(result.nats, reference.nats)


def test_convolutional_divergence_is_that_of_automatic_differentiation() -> None:
    torch.manual_seed(0)
    network, x = Network(), torch.randn(1, 2, 2, 2)
    # One Euler step of the whole length, from the data at t = 1: log p = log N(x - v) - tr dv/dx.
    result = Likelihood(solver=Euler(steps=1), divergence=ExactDivergence()).measure(
        FlowMatching().flow(network), x, silence
    )
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, torch.ones(1)), x).reshape(8, 8)
    noise = x - network(x, torch.ones(1))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum() - torch.trace(jacobian)
    assert result.nats.item() == pytest.approx(expected.item(), rel=1e-5)


def test_probe_is_fixed_along_the_path_and_costs_one_evaluation() -> None:
    draws = 0

    def noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.randn(5, *shape)

    flow = normal_flow(Linear(), VelocityPrediction())
    velocity = CountedVelocity(flow.velocity)
    counted = Flow(velocity=velocity, interpolant=flow.interpolant, start=flow.start, end=flow.end)
    Likelihood(solver=Heun(steps=4), divergence=GaussianProbes(probes=2)).measure(counted, DATA, noise)
    assert draws == 2
    assert velocity.times == [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0]


def test_bits_of_standard_normal_data() -> None:
    result = LogLikelihood(nats=torch.tensor([-6.0 * math.log(2.0), 0.0]), noise=torch.zeros(2, 1, 2, 3))
    assert result.bits_per_dimension().tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("divergence", [RademacherProbes(probes=3), GaussianProbes(), ExactDivergence()])
def test_settings_survive_json(divergence: Divergence) -> None:
    likelihood = Likelihood(solver=Heun(steps=5), divergence=divergence)
    assert from_dict(Likelihood, to_dict(likelihood)) == likelihood


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="probes is 0"):
        RademacherProbes(probes=0)
    with pytest.raises(ValueError, match="needs a flow from noise to data"):
        Likelihood().measure(normal_flow(Linear(), VelocityPrediction()).reverse(), DATA, silence)

"""Flow matching: what is regressed on what, how it is weighted, and that learning it is possible."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reals.diffusion.guidance import Guidance, guide
from reals.diffusion.interpolant import GVP, VP, Interpolant, Linear
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, Prediction, ScorePrediction, VelocityPrediction
from reals.diffusion.time_sampling import LogitNormal, Uniform
from reals.diffusion.weighting import LikelihoodWeighting, NoWeighting, VelocityWeighting
from reals.runtime.config import from_dict, to_dict


class Recorder(nn.Module):
    """A network that answers a constant and remembers what it was asked."""

    def __init__(self, answer: float = 0.0):
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(answer))
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        self.asked.append((x, t, y))
        return torch.zeros_like(x) + self.answer


GENERATOR = torch.Generator().manual_seed(0)
LATENTS = torch.randn(64, 2, 4, 4, generator=GENERATOR) * 3 + 1
NOISE = torch.randn(64, 2, 4, 4, generator=GENERATOR)
QUANTILE = torch.rand(64, generator=GENERATOR)
LABELS = torch.arange(64)
PATHS: list[Interpolant] = [Linear(), GVP(), VP()]


def test_network_sees_the_point_of_the_path_and_the_loss_is_the_velocity_error() -> None:
    network = Recorder(0.5)
    loss = FlowMatching().build(network)(LATENTS, LABELS, NOISE, QUANTILE)["loss"]
    x, times, labels = network.asked[0]
    weight = QUANTILE[:, None, None, None]
    assert torch.allclose(x, weight * LATENTS + (1 - weight) * NOISE, atol=1e-6)
    assert torch.equal(times, QUANTILE)
    assert torch.equal(labels, LABELS)
    assert loss.item() == pytest.approx((0.5 - (LATENTS - NOISE)).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_losses_of_noise_and_score_are_sits(path: Linear | GVP | VP) -> None:
    t = torch.linspace(0.1, 0.9, 64)
    sigma = path.sigma(t)[:, None, None, None]
    noise_loss = FlowMatching(interpolant=path, prediction=NoisePrediction()).build(Recorder(0.3))
    assert torch.allclose(
        noise_loss.per_sample(LATENTS, LABELS, NOISE, t), (0.3 - NOISE).square().mean((1, 2, 3)), rtol=1e-5
    )
    score_loss = FlowMatching(interpolant=path, prediction=ScorePrediction()).build(Recorder(0.3))
    assert torch.allclose(
        score_loss.per_sample(LATENTS, LABELS, NOISE, t), (0.3 * sigma + NOISE).square().mean((1, 2, 3)), rtol=1e-5
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", [NoisePrediction(), ScorePrediction()])
def test_weightings_are_sits(path: Linear | GVP | VP, prediction: Prediction) -> None:
    t = torch.linspace(0.1, 0.9, 64)
    variance = path.alpha_derivative(t) / path.alpha(t) * path.sigma(t) ** 2 - path.sigma(t) * path.sigma_derivative(t)

    def errors(weighting: Any) -> Tensor:
        config = FlowMatching(interpolant=path, prediction=prediction, weighting=weighting)
        return config.build(Recorder(0.3)).per_sample(LATENTS, LABELS, NOISE, t)

    plain = errors(NoWeighting())
    assert torch.allclose(errors(VelocityWeighting()), (variance / path.sigma(t)) ** 2 * plain, rtol=1e-4)
    assert torch.allclose(errors(LikelihoodWeighting()), variance / path.sigma(t) ** 2 * plain, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", [NoisePrediction(), ScorePrediction()])
def test_velocity_weighting_makes_the_loss_that_of_the_velocity(
    path: Linear | GVP | VP, prediction: Prediction
) -> None:
    t = torch.linspace(0.1, 0.9, 64)
    config = FlowMatching(interpolant=path, prediction=prediction, weighting=VelocityWeighting())
    weighted = config.build(Recorder(0.3)).per_sample(LATENTS, LABELS, NOISE, t)
    x = path.interpolate(NOISE, LATENTS, t)
    velocity = prediction.velocity(path, torch.full_like(x, 0.3), x, t)
    expected = (velocity - path.velocity(NOISE, LATENTS, t)).square().mean((1, 2, 3))
    assert torch.allclose(weighted, expected, rtol=1e-3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", [VelocityPrediction(), ScorePrediction(), NoisePrediction()])
def test_perfect_network_has_no_loss_and_flows_along_the_path(path: Linear | GVP | VP, prediction: Prediction) -> None:
    config = FlowMatching(interpolant=path, prediction=prediction)
    objective = config.build(Recorder())
    start, end = config.training_interval()
    t = start + (end - start) * QUANTILE
    sigma = path.sigma(t)[:, None, None, None]
    perfect = {
        VelocityPrediction: path.velocity(NOISE, LATENTS, t),
        ScorePrediction: -NOISE / sigma,
        NoisePrediction: NOISE,
    }[type(prediction)]
    objective.network.forward = lambda x, t, y: perfect
    assert objective.per_sample(LATENTS, LABELS, NOISE, t).max() < 1e-9
    x = path.interpolate(NOISE, LATENTS, t)
    velocity = config.flow(lambda x, t: perfect).velocity(x, t)
    assert torch.allclose(velocity, path.velocity(NOISE, LATENTS, t), rtol=1e-3, atol=2e-3)


def test_flow_is_that_of_the_configuration() -> None:
    flow = FlowMatching(interpolant=VP(), prediction=NoisePrediction()).flow(lambda x, t: x)
    assert (flow.interpolant, flow.start, flow.end) == (VP(), 0.0, 0.999)


@pytest.mark.parametrize("prediction", [ScorePrediction(), NoisePrediction()])
def test_guiding_outputs_is_guiding_velocities(prediction: Prediction) -> None:
    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(x + y[:, None])

    x, t, labels, null = torch.randn(3, 4), torch.tensor([0.2, 0.5, 0.8]), torch.tensor([1, 2, 3]), 9
    config = FlowMatching(interpolant=GVP(), prediction=prediction)
    guided = config.flow(guide(network, labels, null, Guidance(scale=3.0))).velocity(x, t)
    conditional = config.flow(lambda x, t: network(x, t, labels)).velocity(x, t)
    without = config.flow(lambda x, t: network(x, t, torch.full_like(labels, null))).velocity(x, t)
    assert torch.allclose(guided, without + 3.0 * (conditional - without), atol=1e-4)


def test_loss_is_a_function_of_its_arguments_alone() -> None:
    objective = FlowMatching().build(Recorder())
    losses = []
    for seed, noise in ((3, NOISE), (4, NOISE), (4, -NOISE)):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        losses.append(objective(LATENTS, LABELS, noise, QUANTILE)["loss"].item())
        assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    "config",
    [
        FlowMatching(),
        FlowMatching(prediction=NoisePrediction(), weighting=VelocityWeighting()),
        FlowMatching(times=LogitNormal(mean=0.5)),
        FlowMatching(interpolant=VP(), prediction=ScorePrediction(), weighting=LikelihoodWeighting()),
    ],
)
def test_quarters_average_to_the_loss_at_all_quantiles(config: FlowMatching) -> None:
    quantile = torch.cat([torch.tensor([0.0, 1 - 2**-24]), QUANTILE[2:]])
    losses = config.build(Recorder(0.3))(LATENTS, LABELS, NOISE, quantile)
    assert list(losses) == ["loss", "loss_t0.00", "loss_t0.25", "loss_t0.50", "loss_t0.75"]
    values = [value.item() for value in losses.values()]
    assert sum(values[1:]) / 4 == pytest.approx(values[0], rel=1e-5)
    assert values[0] < float("inf")


def test_quarter_holds_the_errors_of_its_times() -> None:
    latents = torch.tensor([1.0, 3.0, 2.0, 4.0]).reshape(4, 1, 1, 1)
    losses = FlowMatching().build(Recorder())(
        latents, torch.zeros(4, dtype=torch.int64), torch.zeros_like(latents), torch.tensor([0.1, 0.1, 0.3, 0.99])
    )
    assert losses["loss"].item() == pytest.approx(7.5)
    assert [losses[f"loss_t{q}"].item() for q in ("0.00", "0.25", "0.50", "0.75")] == [10.0, 4.0, 0.0, 16.0]


def test_loss_is_float32_and_differentiable_for_half_precision_networks() -> None:
    network = Recorder(0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = FlowMatching().build(network)(LATENTS.bfloat16(), LABELS, NOISE.bfloat16(), QUANTILE)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    losses["loss"].backward()
    assert network.answer.grad is not None
    assert not losses["loss_t0.25"].requires_grad


def test_gradient_descent_finds_the_mean_velocity() -> None:
    network = Recorder()
    objective = FlowMatching().build(network)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        noise = torch.randn(LATENTS.shape, generator=generator)
        loss = objective(LATENTS, LABELS, noise, torch.rand(64, generator=generator))["loss"]
        (gradient,) = torch.autograd.grad(loss, network.answer)
        network.answer.data -= 0.3 * gradient
    assert network.answer.item() == pytest.approx(LATENTS.mean().item(), abs=0.1)


def test_uniform_times_fill_the_interval() -> None:
    assert torch.allclose(Uniform()(torch.tensor([0.0, 0.5, 1.0]), 0.1, 0.9), torch.tensor([0.1, 0.5, 0.9]))


def test_logit_normal_times_have_the_distribution() -> None:
    quantile = (torch.arange(20_000) + 0.5) / 20_000
    times = LogitNormal(mean=0.4, std=0.8)(quantile, 0.0, 1.0)
    logits = torch.logit(times)
    assert logits.mean().item() == pytest.approx(0.4, abs=1e-3)
    assert logits.std().item() == pytest.approx(0.8, abs=1e-3)
    # Above 0, the mean leans to the data.
    assert LogitNormal(mean=1.0)(torch.tensor([0.5]), 0.0, 1.0).item() > 0.7


@settings(deadline=None, max_examples=30)
@given(
    quantiles=st.lists(st.floats(0.0, 1 - 2**-24, width=32), min_size=2, max_size=2, unique=True).map(sorted),
    mean=st.floats(-3, 3),
    std=st.floats(0.1, 3),
)
def test_times_rise_with_the_quantile_and_stay_in_the_interval(quantiles: list[float], mean: float, std: float) -> None:
    for times in (Uniform(), LogitNormal(mean=mean, std=std)):
        low, high = times(torch.tensor(quantiles), 1e-3, 1 - 1e-5).tolist()
        assert 1e-3 - 1e-9 <= low <= high <= 1 - 1e-5 + 1e-7


def test_settings_survive_json() -> None:
    config = FlowMatching(
        interpolant=VP(rate_at_data=0.2),
        prediction=NoisePrediction(),
        weighting=LikelihoodWeighting(),
        times=LogitNormal(mean=0.5, std=2.0),
        train_margin=1e-4,
    )
    assert from_dict(FlowMatching, to_dict(config)) == config


@pytest.mark.parametrize("weighting", [VelocityWeighting(), LikelihoodWeighting()])
def test_weight_of_a_velocity_is_refused(weighting: VelocityWeighting | LikelihoodWeighting) -> None:
    message = f"weighting is {type(weighting).__name__}, but a velocity's loss is not weighted; use NoWeighting"
    with pytest.raises(ValueError, match=message):
        FlowMatching(weighting=weighting)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mean": float("nan")}, "mean is nan"), ({"std": 0.0}, "std is 0"), ({"std": float("inf")}, "std is inf")],
)
def test_impossible_distributions_of_times_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogitNormal(**change)

"""The hybrid loss: DiT's values and gradients, hand-computed terms, and what reaches what."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reals.diffusion.gaussian.bound import discretised_surprise, gaussian_divergence
from reals.diffusion.gaussian.objective import GaussianObjective
from reals.diffusion.gaussian.process import GaussianDiffusion
from reals.diffusion.gaussian.schedule import LinearBetas
from reals.diffusion.gaussian.variance import FixedLarge, FixedSmall, LearnedRange, interpolate_log_variance
from reals.runtime.errors import UserError


class Answer(nn.Module):
    """A network that answers the same, whatever it is asked, and remembers that."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = nn.Parameter(output)
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        self.asked.append((x, t, labels))
        return self.output


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENTS, NOISE, OUTPUT = draw(5, 2, 3, 3), draw(5, 2, 3, 3, seed=1), draw(5, 4, 3, 3, seed=2)
LABELS = torch.arange(5)
TIMESTEPS = torch.tensor([1, 30, 250, 600, 999])


def objective(network: nn.Module, **settings: object) -> GaussianObjective:
    return GaussianDiffusion(**settings).build(network)  # pyright: ignore[reportArgumentType]


@pytest.mark.golden
def test_terms_and_gradients_are_dits(golden: Path) -> None:
    values = {
        k: torch.from_numpy(v) for k, v in np.load(golden / "diffusion/dit_process.npz", allow_pickle=False).items()
    }
    network = Answer(values["output"])
    labels = torch.zeros(8, dtype=torch.int64)
    timesteps = values["t"]
    terms = objective(network).per_sample(values["x0"], labels, values["noise"], timesteps)
    torch.testing.assert_close(network.asked[0][0], values["x_t"], rtol=1e-6, atol=1e-6)
    assert network.asked[0][1].tolist() == timesteps.tolist()
    for name in ("mse", "vb"):
        torch.testing.assert_close(terms[name].detach(), values[name], rtol=1e-4, atol=1e-6)
    (terms["mse"] + terms["vb"]).mean().backward()
    assert network.output.grad is not None
    torch.testing.assert_close(network.output.grad, values["gradient"], rtol=1e-3, atol=1e-6)


def test_timesteps_are_floored_quantiles() -> None:
    quantile = torch.tensor([0.0, 0.0009999, 0.001, 0.5, 0.9999, 1 - 2**-24, 1.0])
    assert objective(Answer(OUTPUT)).timesteps(quantile).tolist() == [0, 0, 1, 500, 999, 999, 999]


def test_network_sees_float_timesteps_and_labels() -> None:
    network = Answer(OUTPUT)
    objective(network)(LATENTS, LABELS, NOISE, torch.tensor([0.0, 0.2, 0.5, 0.7, 0.999]))
    x, t, labels = network.asked[0]
    assert t.dtype == torch.float32
    assert t.tolist() == [0.0, 200.0, 500.0, 700.0, 999.0]
    assert torch.equal(labels, LABELS)
    alpha_bar = LinearBetas().schedule().alpha_bar[200].item()
    assert torch.allclose(x[1], alpha_bar**0.5 * LATENTS[1] + (1 - alpha_bar) ** 0.5 * NOISE[1], atol=1e-6)


def test_bound_is_the_divergence_of_the_two_reverse_steps() -> None:
    terms = objective(Answer(OUTPUT)).per_sample(LATENTS, LABELS, NOISE, TIMESTEPS)
    schedule = LinearBetas().schedule()
    noise, v = OUTPUT.double().split(2, dim=1)
    for row, index in enumerate(TIMESTEPS.tolist()):
        ab = schedule.alpha_bar[index].item()
        x = LATENTS[row].double()
        x_t = ab**0.5 * x + (1 - ab) ** 0.5 * NOISE[row].double()
        predicted = (x_t - (1 - ab) ** 0.5 * noise[row]) / ab**0.5
        weights = schedule.posterior_data_weight[index], schedule.posterior_state_weight[index]
        true, model = (weights[0] * data + weights[1] * x_t for data in (x, predicted))
        share = (v[row] + 1) / 2
        variance = schedule.betas[index] ** share * schedule.posterior_variance[index] ** (1 - share)
        p = torch.distributions.Normal(true, schedule.posterior_variance[index].sqrt().expand_as(true))
        q = torch.distributions.Normal(model, variance.sqrt())
        bits = torch.distributions.kl_divergence(p, q).mean().item() / math.log(2)
        assert terms["vb"][row].item() == pytest.approx(bits, rel=1e-4)


def test_divergence_of_equals_is_zero_and_grows_with_the_distance() -> None:
    zero = torch.zeros(1, 1)
    assert gaussian_divergence(zero, zero + 3, zero + 3).item() == 0
    # Two standard normals one apart: half a nat.
    assert gaussian_divergence(zero + 1, zero, zero).item() == pytest.approx(0.5 / math.log(2))


def test_surprise_is_that_of_the_exact_distribution_function() -> None:
    data = torch.linspace(-0.99, 0.99, 45, dtype=torch.float64)[None]
    for deviation in (0.02, 0.3):
        difference = torch.linspace(-2.5, 2.5, 45, dtype=torch.float64)[None] * deviation
        log_variance = torch.full_like(data, 2 * math.log(deviation))
        upper, lower = (torch.erf((difference + half) / deviation / 2**0.5) for half in (1 / 255, -1 / 255))
        exact = -((upper - lower) / 2).log2()
        assert (discretised_surprise(data, difference, log_variance) - exact).abs().max() < 0.06


def test_outermost_bins_reach_to_infinity() -> None:
    data = torch.tensor([[-1.0, 1.0, -3.0, 3.0]], dtype=torch.float64)
    difference, log_variance = torch.tensor([[0.4, -0.4, -0.1, 0.1]], dtype=torch.float64), torch.zeros(1, 4)
    surprise = discretised_surprise(data, difference, log_variance.double())
    inwards = torch.tensor([0.4, 0.4, -0.1, -0.1], dtype=torch.float64) + 1 / 255
    assert torch.allclose(surprise[0], -torch.special.ndtr(inwards).log2(), atol=1e-3)


def test_surprise_is_finite_however_wrong() -> None:
    far = torch.tensor([[0.0, -2.0, 2.0]])
    surprise = discretised_surprise(far, far.new_tensor([[50.0, -50.0, 50.0]]), far.new_full((1, 3), -9.0))
    assert surprise.tolist()[0] == pytest.approx([-math.log2(1e-12)] * 3)


def test_first_timestep_has_the_surprise_and_no_other() -> None:
    timesteps = torch.tensor([0, 1, 0, 2, 0])
    vb = objective(Answer(OUTPUT)).per_sample(LATENTS, LABELS, NOISE, timesteps)["vb"]
    schedule = LinearBetas().schedule()
    noise, v = OUTPUT.split(2, dim=1)
    difference = schedule.data_from_noise[0].item() * (noise - NOISE)
    log_variance = interpolate_log_variance(v, schedule.posterior_log_variance[1].item(), math.log(1e-4))
    surprise = discretised_surprise(LATENTS, difference, log_variance).flatten(1).mean(1)
    at_start = timesteps == 0
    assert torch.allclose(vb[at_start], surprise[at_start], rtol=1e-4)
    assert not torch.allclose(vb[~at_start], surprise[~at_start], rtol=0.1)


def test_bound_teaches_the_variance_and_never_the_mean() -> None:
    network = Answer(OUTPUT.clone())
    terms = objective(network).per_sample(LATENTS, LABELS, NOISE, torch.tensor([0, 1, 250, 600, 999]))
    (gradient,) = torch.autograd.grad(terms["vb"].mean(), network.output, retain_graph=True)
    assert (gradient[:, :2] == 0).all()
    assert (gradient[:, 2:].flatten(1).abs().sum(1) > 0).all()
    (gradient,) = torch.autograd.grad(terms["mse"].mean(), network.output)
    assert torch.allclose(gradient[:, :2], 2 * (OUTPUT[:, :2] - NOISE) / NOISE.numel(), atol=1e-7)
    assert (gradient[:, 2:] == 0).all()


@pytest.mark.parametrize("index", [1, 20, 400])
def test_bound_is_least_at_the_variance_that_makes_sampling_exact(index: int) -> None:
    # Data N(0, 0.6²): the best noise prediction is linear, and the reverse step's variance β̃ + a² Var[x | x_t].
    schedule, std = LinearBetas().schedule(), 0.6
    ab = schedule.alpha_bar[index].item()
    latents, noise = std * draw(1, 1, 100, 100), draw(1, 1, 100, 100, seed=1)
    predicted = (1 - ab) ** 0.5 * (ab**0.5 * latents + (1 - ab) ** 0.5 * noise) / (ab * std**2 + 1 - ab)
    unsure = std**2 * (1 - ab) / (ab * std**2 + 1 - ab)
    best = (schedule.posterior_variance[index] + schedule.posterior_data_weight[index] ** 2 * unsure).log()
    low, high = schedule.posterior_log_variance[index], schedule.betas[index].log()
    v = 2 * (best - low) / (high - low) - 1
    network = Answer(torch.cat([predicted, torch.full_like(predicted, v.item())], 1))
    bound = objective(network).per_sample(latents, LABELS[:1], noise, torch.tensor([index]))["vb"].sum()
    (gradient,) = torch.autograd.grad(bound, network.output)
    # Were the sample infinite, 0; its sign decides on a variance a few per cent above or below.
    slope = gradient[:, 1].sum().item() / (0.25 / math.log(2) * (high - low).item())
    assert abs(slope) < 0.04


def test_loss_is_the_sum_with_the_weight_of_the_bound() -> None:
    quantile = torch.tensor([0.0, 0.2, 0.4, 0.7, 0.9])
    for weight in (0.0, 1.0, 2.5):
        config = LearnedRange(bound_weight=weight)
        losses = objective(Answer(OUTPUT), variance=config)(LATENTS, LABELS, NOISE, quantile)
        total = losses["mse"] + weight * losses["vb"]
        assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-6)
        assert losses["mse"].item() == pytest.approx((OUTPUT[:, :2] - NOISE).square().mean().item(), rel=1e-5)


def test_learned_variance_at_its_extremes_is_either_bound() -> None:
    schedule = LinearBetas().schedule()
    for index in (0, 1, 500, 999):
        low, high = (0.5 * schedule.posterior_log_variance[index]).exp().item(), schedule.betas[index].sqrt().item()
        for v, expected in ((-1.0, low), (1.0, high)):
            deviation = LearnedRange().standard_deviation(schedule, index, torch.full((2, 1, 1), v))
            assert deviation.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-6)
        # Not clamped: half a range beyond the upper bound.
        deviation = LearnedRange().standard_deviation(schedule, index, torch.full((1, 1), 2.0)).item()
        assert deviation == pytest.approx(high * (high / low) ** 0.5, rel=1e-5)
        assert FixedLarge().standard_deviation(schedule, index, torch.zeros(1, 0)) == pytest.approx(high, rel=1e-12)
        assert FixedSmall().standard_deviation(schedule, index, torch.zeros(1, 0)) == pytest.approx(low, rel=1e-12)


@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge()])
def test_fixed_variance_leaves_the_plain_error(variance: FixedSmall | FixedLarge) -> None:
    losses = objective(Answer(OUTPUT[:, :2]), variance=variance)(LATENTS, LABELS, NOISE, torch.rand(5))
    assert "vb" not in losses
    assert losses["loss"].item() == losses["mse"].item()
    assert losses["loss"].item() == pytest.approx((OUTPUT[:, :2] - NOISE).square().mean().item(), rel=1e-5)


def test_quarters_hold_the_losses_of_their_noise_levels() -> None:
    network = Answer(torch.tensor([1.0, 3.0, 2.0, 4.0]).reshape(4, 1, 1, 1))
    zeros = torch.zeros(4, 1, 1, 1)
    train = objective(network, variance=FixedSmall())
    losses = train(zeros, torch.zeros(4).long(), zeros, torch.tensor([0.1, 0.2499, 0.25, 0.99]))
    assert losses["loss"].item() == pytest.approx(7.5)
    names = ["loss_noise0.00", "loss_noise0.25", "loss_noise0.50", "loss_noise0.75"]
    assert [losses[name].item() for name in names] == [10.0, 4.0, 0.0, 16.0]
    assert not any(losses[name].requires_grad for name in [*names, "mse"])
    assert losses["loss"].requires_grad


def test_loss_is_a_function_of_its_inputs() -> None:
    train, quantile = objective(Answer(OUTPUT)), torch.tensor([0.0, 0.2, 0.4, 0.7, 0.9])
    state = torch.get_rng_state()
    first = train(LATENTS, LABELS, NOISE, quantile)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    second = train(LATENTS, LABELS, NOISE, quantile)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # Each sample's terms are its own.
    alone = objective(Answer(OUTPUT[1:2])).per_sample(LATENTS[1:2], LABELS[1:2], NOISE[1:2], TIMESTEPS[1:2])
    together = objective(Answer(OUTPUT)).per_sample(LATENTS, LABELS, NOISE, TIMESTEPS)
    assert all(torch.allclose(alone[name], together[name][1:2], rtol=1e-6) for name in alone)


def test_training_never_waits_for_the_device() -> None:
    # A tensor on the device "meta" has no values, so that looking at one is an error.
    train = objective(Answer(OUTPUT)).to("meta")
    losses = train(*(x.to("meta") for x in (LATENTS, LABELS, NOISE, torch.rand(5))))
    assert {value.device.type for value in losses.values()} == {"meta"}


def test_state_dict_is_the_networks_alone() -> None:
    assert list(objective(Answer(OUTPUT)).state_dict()) == ["network.output"]


def test_loss_is_float32_for_half_precision_networks() -> None:
    network = Answer(OUTPUT.bfloat16())
    losses = objective(network)(LATENTS.bfloat16(), LABELS, NOISE.bfloat16(), torch.rand(5))
    assert {value.dtype for value in losses.values()} == {torch.float32}


@pytest.mark.parametrize(("variance", "channels"), [(LearnedRange(), 2), (FixedSmall(), 4)])
def test_network_with_other_outputs_is_refused(variance: LearnedRange | FixedSmall, channels: int) -> None:
    train = objective(Answer(OUTPUT[:, :channels]), variance=variance)
    with pytest.raises(UserError, match=f"predicts {channels} channels for latents of 2.*needs {6 - channels}"):
        train(LATENTS, LABELS, NOISE, torch.rand(5))


def test_impossible_weight_of_the_bound_is_refused() -> None:
    for weight in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="bound_weight is"):
            LearnedRange(bound_weight=weight)

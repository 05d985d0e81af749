"""The paths against SiT's values in float64, against automatic differentiation, and at their ends."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reals.diffusion.diffusion_coefficient import (
    ConstantDiffusion,
    DecreasingDiffusion,
    DiffusionCoefficient,
    IncreasingDecreasingDiffusion,
    LinearDiffusion,
    SBDMDiffusion,
    SigmaDiffusion,
)
from reals.diffusion.interpolant import GVP, VP, Interpolant, Linear, expand
from reals.runtime.config import from_dict, to_dict

ALL: list[Interpolant] = [Linear(), GVP(), VP()]
FORMS: dict[str, DiffusionCoefficient] = {
    "SBDM": SBDMDiffusion(),
    "sigma": SigmaDiffusion(),
    "linear": LinearDiffusion(),
    "decreasing": DecreasingDiffusion(),
    "inccreasing-decreasing": IncreasingDecreasingDiffusion(),  # the original's spelling
    "constant": ConstantDiffusion(),
}


def name_of(value: object) -> str:
    return type(value).__name__


Values = Callable[[Interpolant], dict[str, Tensor]]


@pytest.fixture
def values(golden: Path) -> Values:
    recorded = np.load(golden / "transport/paths.npz", allow_pickle=False)

    def of(path: Interpolant) -> dict[str, Tensor]:
        inputs = {name: recorded[name].astype(np.float64) for name in ("x0", "x1", "t", "velocity", "score")}
        prefix = f"{name_of(path)}/"
        names = [name for name in recorded.files if name.startswith(prefix) and name.endswith("_f64")]
        truth = {name.removeprefix(prefix).removesuffix("_f64"): recorded[name] for name in names}
        return {name: torch.from_numpy(value) for name, value in {**inputs, **truth}.items()}

    return of


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-9) -> bool:
    return torch.allclose(actual, expected.reshape(actual.shape), rtol=rtol, atol=1e-12)


@pytest.mark.golden
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_coefficients(values: Values, path: Interpolant) -> None:
    truth = values(path)
    t = truth["t"]
    assert close(path.alpha(t), truth["alpha"])
    assert close(path.sigma(t), truth["sigma"])
    assert close(path.alpha_derivative(t), truth["d_alpha"])
    assert close(path.sigma_derivative(t), truth["d_sigma"])


@pytest.mark.golden
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_point_velocity_and_drift(values: Values, path: Interpolant) -> None:
    truth = values(path)
    x0, x1, t, x = truth["x0"], truth["x1"], truth["t"], truth["xt"]
    assert close(path.interpolate(x0, x1, t), x)
    assert close(path.velocity(x0, x1, t), truth["ut"])
    assert close(-expand(path.drift_rate(t), x) * x, truth["drift_mean"])
    assert close(path.score_weight(t), truth["drift_var"])


@pytest.mark.golden
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_conversions(values: Values, path: Interpolant) -> None:
    truth = values(path)
    t, x, v = truth["t"], truth["xt"], truth["velocity"]
    assert close(path.score_from_velocity(v, x, t), truth["score_from_velocity"])
    assert close(path.noise_from_velocity(v, x, t), truth["noise_from_velocity"])
    assert close(path.velocity_from_score(truth["score"], x, t), truth["velocity_from_score"])


@pytest.mark.golden
@pytest.mark.parametrize("path", ALL, ids=name_of)
@pytest.mark.parametrize("name", FORMS)
def test_diffusion_forms(values: Values, path: Interpolant, name: str) -> None:
    truth = values(path)
    assert close(FORMS[name](path, truth["t"]), truth[f"diffusion/{name}"])


@pytest.mark.golden
@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_float32_is_within_rounding_of_the_truth(values: Values, path: Interpolant) -> None:
    truth = values(path)
    single = {name: value.float() for name, value in truth.items()}
    t, x, v = single["t"], single["xt"], single["velocity"]
    for actual, expected in (
        (path.sigma(t), truth["sigma"]),
        (path.sigma_derivative(t), truth["d_sigma"]),
        (path.velocity(single["x0"], single["x1"], t), truth["ut"]),
        (path.noise_from_velocity(v, x, t), truth["noise_from_velocity"]),
        (path.score_from_velocity(v, x, t), truth["score_from_velocity"]),
        (path.velocity_from_score(single["score"], x, t), truth["velocity_from_score"]),
    ):
        error = (actual.double() - expected).abs().max() / expected.abs().max()
        assert error < 1e-6


@pytest.mark.parametrize("path", ALL, ids=name_of)
@settings(deadline=None, max_examples=15)
@given(t=st.floats(0.01, 0.99))
def test_conversions_invert_each_other(path: Interpolant, t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, data = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    times = torch.full((3,), t, dtype=torch.float64)
    x, v = path.interpolate(noise, data, times), path.velocity(noise, data, times)
    score = path.score_from_velocity(v, x, times)
    assert close(path.noise_from_velocity(v, x, times), noise)
    assert close(path.data_from_velocity(v, x, times), data)
    assert close(score, -noise / path.sigma(times)[:, None])
    assert close(path.velocity_from_score(score, x, times), v)
    assert close(path.velocity_from_noise(noise, x, times), v)


@pytest.mark.parametrize("path", [*ALL, VP(rate_at_data=0.5, rate_at_noise=8.0)], ids=repr)
@settings(deadline=None, max_examples=15)
@given(t=st.floats(1e-4, 0.9999))
def test_derivatives_agree_with_automatic_differentiation(path: Interpolant, t: float) -> None:
    times = torch.tensor([t], dtype=torch.float64, requires_grad=True)
    for function, derivative in ((path.alpha, path.alpha_derivative), (path.sigma, path.sigma_derivative)):
        (expected,) = torch.autograd.grad(function(times).sum(), times)
        assert close(derivative(times), expected)
    wronskian = path.alpha_derivative(times) * path.sigma(times) - path.alpha(times) * path.sigma_derivative(times)
    assert close(path.wronskian(times), wronskian, rtol=1e-7)
    assert close(path.score_weight(times), path.sigma(times) * wronskian / path.alpha(times), rtol=1e-7)


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_score_is_finite_at_pure_noise(path: Interpolant) -> None:
    x, zero = torch.randn(3, 2), torch.zeros(3)
    v = path.velocity(x, torch.zeros(3, 2), zero)
    assert torch.allclose(path.score_from_velocity(v, x, zero), -x, atol=1e-4)


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_path_ends_at_the_data_exactly(path: Interpolant) -> None:
    noise, data = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(path.interpolate(noise, data, torch.ones(2)), data)


def test_path_starts_at_noise_exactly_but_for_vp() -> None:
    noise, data = torch.randn(2, 3), torch.randn(2, 3)
    for path in (Linear(), GVP()):
        assert torch.equal(path.interpolate(noise, data, torch.zeros(2)), noise)
    assert VP().alpha(torch.zeros(1)).item() == pytest.approx(np.exp(-0.25 * 19.9 - 0.05), rel=1e-6)


def test_vp_is_accurate_near_the_data_in_float32() -> None:
    # 1 - α² would cancel here: half of its digits are lost at t = 1 - 1e-5.
    t = torch.tensor([1 - 2**-16])
    exact = VP().sigma(t.double())
    assert VP().sigma(t).double().item() == pytest.approx(exact.item(), rel=1e-6)
    naive = (1 - VP().alpha(t).square()).sqrt().double()
    assert abs(naive.item() / exact.item() - 1) > 1e-3


@pytest.mark.parametrize("path", ALL, ids=name_of)
@pytest.mark.parametrize("form", FORMS.values(), ids=name_of)
def test_diffusion_is_finite_and_not_negative_on_the_whole_path(path: Interpolant, form: DiffusionCoefficient) -> None:
    t = torch.linspace(0.0, 1.0 - 1e-6, 1001)
    values = form(path, t)
    assert values.isfinite().all()
    assert values.min() >= 0


def test_bound_on_sbdm_matters_only_where_alpha_vanishes() -> None:
    t = torch.tensor([1e-3, 0.02, 0.5])
    for path in ALL:
        assert torch.allclose(SBDMDiffusion()(path, t), path.score_weight(t), rtol=1e-5)
    assert SBDMDiffusion()(Linear(), torch.zeros(1)).item() == pytest.approx(1000.0)
    assert SBDMDiffusion()(VP(), torch.zeros(1)).item() == pytest.approx(10.0)
    assert SBDMDiffusion(smallest_alpha=0.1)(Linear(), torch.zeros(1)).item() == pytest.approx(10.0)


def test_forms_survive_json_and_scale() -> None:
    form = SigmaDiffusion(scale=2.0)
    assert from_dict(SigmaDiffusion, to_dict(form)) == form
    t = torch.tensor([0.25])
    assert form(Linear(), t).item() == pytest.approx(1.5)
    assert ConstantDiffusion(scale=0.3)(Linear(), t).item() == pytest.approx(0.3)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="scale is -1"):
        SigmaDiffusion(scale=-1.0)
    with pytest.raises(ValueError, match="smallest_alpha is 0"):
        SBDMDiffusion(smallest_alpha=0.0)
    with pytest.raises(ValueError, match=r"scale is -1"):
        SBDMDiffusion(scale=-1.0)
    with pytest.raises(ValueError, match=r"rates are 5.0 at data and 1.0 at noise"):
        VP(rate_at_data=5.0, rate_at_noise=1.0)
    with pytest.raises(ValueError, match=r"rates are 0.0"):
        VP(rate_at_data=0.0)

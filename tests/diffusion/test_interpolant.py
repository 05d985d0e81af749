"""The linear path against SiT's values in float64, and against automatic differentiation."""

from pathlib import Path

import numpy as np
import pytest
import torch
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
from reals.diffusion.interpolant import Linear, expand
from reals.runtime.config import from_dict, to_dict

PATH = Linear()


@pytest.fixture
def paths(golden: Path) -> dict[str, Tensor]:
    values = np.load(golden / "transport/paths.npz", allow_pickle=False)
    inputs = {name: values[name].astype(np.float64) for name in ("x0", "x1", "t", "velocity", "score")}
    truth = {name[7:-4]: values[name] for name in values.files if name.startswith("Linear/") and name.endswith("_f64")}
    return {name: torch.from_numpy(value) for name, value in {**inputs, **truth}.items()}


def close(actual: Tensor, expected: Tensor) -> bool:
    return torch.allclose(actual, expected.reshape(actual.shape), rtol=1e-9, atol=1e-12)


@pytest.mark.golden
def test_coefficients(paths: dict[str, Tensor]) -> None:
    t = paths["t"]
    assert close(PATH.alpha(t), paths["alpha"])
    assert close(PATH.sigma(t), paths["sigma"])
    assert close(PATH.alpha_derivative(t), paths["d_alpha"])
    assert close(PATH.sigma_derivative(t), paths["d_sigma"])


@pytest.mark.golden
def test_point_and_velocity(paths: dict[str, Tensor]) -> None:
    x0, x1, t = paths["x0"], paths["x1"], paths["t"]
    assert close(PATH.interpolate(x0, x1, t), paths["xt"])
    assert close(PATH.velocity(x0, x1, t), paths["ut"])


@pytest.mark.golden
def test_drift_pieces(paths: dict[str, Tensor]) -> None:
    t, x = paths["t"], paths["xt"]
    assert close(-expand(PATH.drift_rate(t), x) * x, paths["drift_mean"])
    assert close(PATH.score_weight(t), paths["drift_var"])


@pytest.mark.golden
def test_conversions(paths: dict[str, Tensor]) -> None:
    t, x = paths["t"], paths["xt"]
    assert close(PATH.score_from_velocity(paths["velocity"], x, t), paths["score_from_velocity"])
    assert close(PATH.noise_from_velocity(paths["velocity"], x, t), paths["noise_from_velocity"])
    assert close(PATH.velocity_from_score(paths["score"], x, t), paths["velocity_from_score"])


@pytest.mark.golden
@pytest.mark.parametrize(
    ("form", "name"),
    [
        (SBDMDiffusion(), "SBDM"),
        (SigmaDiffusion(), "sigma"),
        (LinearDiffusion(), "linear"),
        (DecreasingDiffusion(), "decreasing"),
        (IncreasingDecreasingDiffusion(), "inccreasing-decreasing"),  # the original's spelling
        (ConstantDiffusion(), "constant"),
    ],
)
def test_diffusion_forms(paths: dict[str, Tensor], form: DiffusionCoefficient, name: str) -> None:
    assert torch.allclose(form(PATH, paths["t"]), paths[f"diffusion/{name}"].reshape(-1), rtol=1e-7, atol=1e-12)


@pytest.mark.golden
def test_conversions_invert_each_other(paths: dict[str, Tensor]) -> None:
    x0, x1, t, x = paths["x0"], paths["x1"], paths["t"], paths["xt"]
    velocity = PATH.velocity(x0, x1, t)
    assert close(PATH.noise_from_velocity(velocity, x, t), x0)
    assert close(PATH.data_from_velocity(velocity, x, t), x1)
    score = PATH.score_from_velocity(velocity, x, t)
    assert close(score, -x0 / expand(PATH.sigma(t), x))
    assert close(PATH.velocity_from_score(score, x, t), velocity)


def test_derivatives_agree_with_automatic_differentiation() -> None:
    t = torch.linspace(0.0, 1.0, 7, dtype=torch.float64, requires_grad=True)
    for function, derivative in ((PATH.alpha, PATH.alpha_derivative), (PATH.sigma, PATH.sigma_derivative)):
        (expected,) = torch.autograd.grad(function(t).sum(), t)
        assert torch.equal(derivative(t), expected)


def test_score_is_finite_at_pure_noise() -> None:
    x = torch.randn(3, 2)
    assert torch.equal(PATH.score_from_velocity(torch.randn(3, 2), x, torch.zeros(3)), -x)


def test_path_starts_at_noise_and_ends_at_data() -> None:
    noise, data = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(PATH.interpolate(noise, data, torch.zeros(2)), noise)
    assert torch.equal(PATH.interpolate(noise, data, torch.ones(2)), data)


def test_forms_survive_json_and_scale() -> None:
    form = SigmaDiffusion(scale=2.0)
    assert from_dict(SigmaDiffusion, to_dict(form)) == form
    t = torch.tensor([0.25])
    assert form(PATH, t).item() == pytest.approx(1.5)
    assert ConstantDiffusion(scale=0.3)(PATH, t).item() == pytest.approx(0.3)


def test_negative_diffusion_is_refused() -> None:
    with pytest.raises(ValueError, match="scale is -1"):
        SigmaDiffusion(scale=-1.0)

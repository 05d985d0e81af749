import numpy as np
import pytest
import torch

from reals.latents.analysis.information import DEAD_BELOW, dead_channels, kl_per_channel, signal_share


def _posterior() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 3, 4, 4)).astype(np.float32), rng.normal(-2, 0.3, (5, 3, 4, 4)).astype(np.float32)


def test_kl_of_channels_adds_up_to_the_distributions_own() -> None:
    mean, log_variance = _posterior()
    normal = torch.distributions.Normal(torch.from_numpy(mean), torch.from_numpy(np.exp(0.5 * log_variance)))
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(normal, prior).sum((1, 2, 3))
    np.testing.assert_allclose(kl_per_channel(mean, log_variance).sum(1), expected, rtol=1e-5)


def test_a_channel_at_the_prior_has_no_kl() -> None:
    mean, log_variance = _posterior()
    mean[:, 1], log_variance[:, 1] = 0.0, 0.0
    kl = kl_per_channel(mean, log_variance)
    assert kl.shape == (5, 3)
    assert (kl[:, 1] == 0).all()
    assert (kl[:, [0, 2]] > 1).all()


@pytest.mark.parametrize("unit", [1.0, 4.6, 0.01])
def test_channels_are_dead_by_their_share_whatever_the_unit(unit: float) -> None:
    rng = np.random.default_rng(1)
    shares = np.array([0.02, 0.12, 0.2, 0.9])
    mean = rng.normal(size=(400, 4, 4, 4)) * shares[:, None, None] * unit
    log_variance = np.broadcast_to(np.log((1 - shares**2) * unit**2)[:, None, None], mean.shape)
    np.testing.assert_allclose(signal_share(mean, log_variance), shares, rtol=0.05)
    assert dead_channels(mean, log_variance).tolist() == [True, True, False, False]
    assert DEAD_BELOW == 0.16

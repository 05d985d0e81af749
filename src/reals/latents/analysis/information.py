"""How much each channel of a posterior says: KL divergence in nats, and channels that say nothing."""

import numpy as np
from jaxtyping import Bool, Float

DEAD_BELOW = 0.16
"""A channel is dead if its mean's share of the channel's standard deviation is below this.

At 0.16 the mean has 2.6 % of the variance, and a Gaussian channel with that signal carries ½ ln(1 / (1 - 0.16²)), 0.013
nats per cell: nothing to decode, yet noise that a generator has to model all the same.
"""


def kl_per_channel(
    mean: Float[np.ndarray, "n c h w"], log_variance: Float[np.ndarray, "n c h w"]
) -> Float[np.ndarray, "n c"]:
    """Return KL(q(z | x) ‖ N(0, 1)) of every image and channel in nats, summed over positions.

    The sum over channels is the KL term of the autoencoder's loss.
    """
    mu, log_sigma2 = mean.astype(np.float64), log_variance.astype(np.float64)
    return 0.5 * (np.square(mu) + np.exp(log_sigma2) - 1.0 - log_sigma2).sum(axis=(2, 3))


def signal_share(
    mean: Float[np.ndarray, "n c h w"], log_variance: Float[np.ndarray, "n c h w"]
) -> Float[np.ndarray, " c"]:
    """Return, per channel, the deviation of the posterior mean relative to that of posterior samples, in [0, 1].

    The variance of samples is that of the mean plus the average posterior variance. Relative, because latents have no
    unit: SD-VAE's deviate by 4.6, those of a stronger KL term by 1. Where samples deviate by 1, this is simply the
    standard deviation of the mean.
    """
    signal = mean.astype(np.float64).var(axis=(0, 2, 3))
    total = signal + np.exp(log_variance.astype(np.float64)).mean(axis=(0, 2, 3))
    return np.sqrt(signal / total)


def dead_channels(
    mean: Float[np.ndarray, "n c h w"], log_variance: Float[np.ndarray, "n c h w"], threshold: float = DEAD_BELOW
) -> Bool[np.ndarray, " c"]:
    """Return which channels are noise: their :func:`signal_share` is below ``threshold``."""
    return signal_share(mean, log_variance) < threshold

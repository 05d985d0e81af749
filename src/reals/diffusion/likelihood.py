"""How probable data is under a flow: log p(x) by the change of variables along the probability flow.

d log p(x_t)/dt = -∇·v, so log p(x₁) = log N(x₀) - ∫ ∇·v dt over the path that ends at x₁ (Chen et al., 2018). The
divergence is estimated by Hutchinson's trace estimator with probes that stay fixed along the path (Grathwohl et al.,
2019: FFJORD), so that an adaptive solver integrates a smooth function; SiT draws new ones at every evaluation.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from reals.diffusion.flow import Flow
from reals.diffusion.noise import NoiseSource
from reals.diffusion.solvers import DeterministicSolver, Dopri5


@dataclass(frozen=True, kw_only=True)
class _Hutchinson:
    probes: int = 1
    """Random directions averaged; each costs a backward pass at every evaluation of the velocity."""

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"probes is {self.probes}; it must be at least 1")

    def directions(self, x: Float[Tensor, " b *dims"], noise: NoiseSource) -> list[Float[Tensor, " b *dims"]]:
        """Return e₁ … e_k, random and different for every image, for which Σ eᵢᵀ J eᵢ is the trace of J on average."""
        draws = (noise(tuple(x.shape[1:]), x.device).to(x.dtype) for _ in range(self.probes))
        return [self._from_normal(draw) / math.sqrt(self.probes) for draw in draws]

    def _from_normal(self, draw: Tensor) -> Tensor:
        return draw


@dataclass(frozen=True, kw_only=True)
class GaussianProbes(_Hutchinson):
    """Estimate the divergence along standard normal directions."""


@dataclass(frozen=True, kw_only=True)
class RademacherProbes(_Hutchinson):
    """Estimate the divergence along directions of ±1, whose variance is the least."""

    def _from_normal(self, draw: Tensor) -> Tensor:
        return torch.where(draw < 0, -1.0, 1.0).to(draw.dtype)


@dataclass(frozen=True, kw_only=True)
class ExactDivergence:
    """Compute the divergence exactly, by one backward pass per dimension: for few dimensions only."""

    def directions(self, x: Float[Tensor, " b *dims"], noise: NoiseSource) -> list[Float[Tensor, " b *dims"]]:
        """Return the unit vectors, for which Σ eᵢᵀ J eᵢ is the trace of J; ``noise`` is not used."""
        units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return [unit.reshape(1, *x.shape[1:]).expand_as(x) for unit in units]


Divergence = RademacherProbes | GaussianProbes | ExactDivergence
"""Any way to find ∇·v."""


@dataclass(frozen=True, kw_only=True)
class LogLikelihood:
    """What is known of a batch of data under a flow."""

    nats: Float[Tensor, " b"]
    """log p(x) of each sample, the natural logarithm of a density: it depends on the units that x is measured in."""
    noise: Float[Tensor, " b *dims"]
    """The noise that the flow would carry to each sample."""

    def bits_per_dimension(self) -> Float[Tensor, " b"]:
        """Return -log₂ p(x) divided by the number of dimensions: of latents where x is one, not of pixels."""
        return -self.nats / (self.noise[0].numel() * math.log(2.0))


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How log p(x) is computed."""

    solver: DeterministicSolver = field(default_factory=Dopri5)
    """How the flow is followed from the data back to noise."""
    divergence: Divergence = field(default_factory=RademacherProbes)
    """How ∇·v is found."""

    def measure(self, flow: Flow, data: Float[Tensor, " b *dims"], noise: NoiseSource) -> LogLikelihood:
        """Return log p of each sample of ``data``, whatever the global gradient mode; weights get no gradients.

        It is the density of what ``flow`` makes of standard normal noise at its start, taken at its end. Where the
        interval of the flow has a margin, as for scores and noise, that is not quite the density of the data.

        Args:
            flow: from noise to data, as for sampling; its velocity must be differentiable in ``x``.
            data: normalised latents, or whatever the flow makes.
            noise: the random directions; give every image a stream of its own (``PerImageNoise``) and its estimate
                does not depend on its batch.

        Raises:
            ValueError: the flow runs from data to noise.
        """
        if flow.start > flow.end:
            raise ValueError("likelihood needs a flow from noise to data; this one runs the other way")
        # Tensors made in inference mode can never be differentiated, so the whole computation leaves it.
        with torch.inference_mode(False), torch.no_grad():
            data = data.to(self.solver.dtype).clone()
            joint = _Joint(flow, self.divergence.directions(data, noise), tuple(data.shape[1:]))
            reverse = Flow(velocity=joint, interpolant=flow.interpolant, start=flow.end, end=flow.start)
            state = torch.cat([data.flatten(1), data.new_zeros(len(data), 1)], dim=1)
            end = self.solver.integrate(reverse, state)
            # Integrated from the data to the noise, so the sum is -∫ ∇·v dt already.
            prior, gained = end[:, :-1], end[:, -1]
            normal = -0.5 * (prior.square().sum(1) + prior.shape[1] * math.log(2.0 * math.pi))
            return LogLikelihood(nats=normal + gained, noise=prior.reshape(data.shape))


class _Joint:
    """The velocity of a sample and its log-density together: states are [b, dimensions + 1]."""

    def __init__(self, flow: Flow, directions: list[Tensor], shape: tuple[int, ...]):
        self._flow = flow
        # They, too, may have been made in inference mode.
        self._directions = [direction.clone() for direction in directions]
        self._shape = shape

    def __call__(self, state: Float[Tensor, "b joint"], t: Float[Tensor, " b"]) -> Float[Tensor, "b joint"]:
        """Return the velocity, and ∇·v in the last column."""
        with torch.enable_grad():
            x = state[:, :-1].reshape(-1, *self._shape).detach().clone().requires_grad_()
            velocity = self._flow.velocity(x, t.clone())
            divergence = state.new_zeros(len(state))
            for index, direction in enumerate(self._directions):
                (product,) = torch.autograd.grad(
                    velocity, x, direction.to(velocity.dtype), retain_graph=index + 1 < len(self._directions)
                )
                divergence = divergence + (product * direction).detach().flatten(1).sum(1)
        return torch.cat([velocity.detach().to(state.dtype).flatten(1), divergence[:, None]], dim=1)

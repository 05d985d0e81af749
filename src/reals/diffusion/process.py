"""Either kind of diffusion, and how each is sampled: a path integrated by a solver, or a chain walked back.

What a network was trained by decides which solvers fit it; everything else about sampling is the same for both.
"""

from jaxtyping import Float
from torch import Tensor

from reals.diffusion.gaussian import DDIM, DDPM, GaussianDiffusion, GaussianSolver
from reals.diffusion.guidance import NoiseLevel, Output, flow_noise_level
from reals.diffusion.noise import NoiseSource
from reals.diffusion.objective import FlowMatching
from reals.diffusion.solvers import Solver, StepCallback
from reals.diffusion.solvers.grid import ignore_step
from reals.runtime.errors import UserError

Process = FlowMatching | GaussianDiffusion
"""What a network is trained by."""

Sampler = Solver | GaussianSolver
"""What its samples are made by."""


def check_sampler(process: Process, sampler: Sampler) -> None:
    """Check that ``sampler`` can sample ``process``.

    Raises:
        UserError: it belongs to the other kind, or asks for values where the process has none.
    """
    gaussian, name = isinstance(process, GaussianDiffusion), type(sampler).__name__
    if gaussian != isinstance(sampler, (DDPM, DDIM)):
        trained, fitting = (
            ("Gaussian diffusion", "DDPM or DDIM")
            if gaussian
            else ("flow matching", "Euler, Heun, Dopri5, EulerMaruyama or StochasticHeun")
        )
        raise UserError(f"{name} cannot sample a network trained by {trained}; use {fitting}")
    try:
        evaluation_times(process, sampler)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def evaluation_times(process: Process, sampler: Sampler) -> list[float] | None:
    """Return the times at which the network is evaluated, or None for a sampler that chooses them as it goes."""
    if isinstance(process, GaussianDiffusion):
        assert isinstance(sampler, (DDPM, DDIM))
        return process.times(sampler)
    assert not isinstance(sampler, (DDPM, DDIM))
    return sampler.times(*process.sampling_interval())


def steps_of(sampler: Sampler) -> int | None:
    """Return how many steps ``sampler`` reports, or None if it does not know in advance."""
    return sampler.steps if isinstance(sampler, (DDPM, DDIM)) else sampler.intervals


def noise_level(process: Process) -> NoiseLevel:
    """Return the noise level of a time of ``process``, the unit of guidance intervals."""
    return process.noise_level if isinstance(process, GaussianDiffusion) else flow_noise_level


def sample(
    process: Process,
    sampler: Sampler,
    output: Output,
    x: Float[Tensor, "b c *dims"],
    noise: NoiseSource,
    on_step: StepCallback = ignore_step,
) -> Float[Tensor, "b c *dims"]:
    """Carry standard normal ``x`` to data.

    Args:
        process: what the network was trained by.
        sampler: fits it, see :func:`check_sampler`.
        output: the network's output at ``(x, t)``, guidance included.
        x: noise, one for each sample.
        noise: the source of fresh noise, for samplers that need it.
        on_step: told the number of finished steps and the state.

    Raises:
        UserError: the sampler belongs to the other kind of process.
    """
    check_sampler(process, sampler)
    if isinstance(process, GaussianDiffusion):
        assert isinstance(sampler, (DDPM, DDIM))
        return process.sample(sampler, output, x, noise, on_step)
    assert not isinstance(sampler, (DDPM, DDIM))
    return sampler.integrate(process.flow(output), x, noise, on_step).float()

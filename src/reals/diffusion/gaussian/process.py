"""The settings of a Gaussian diffusion process, from which training and sampling follow."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from reals.diffusion.gaussian.chain import Chain
from reals.diffusion.gaussian.objective import GaussianObjective
from reals.diffusion.gaussian.schedule import LinearBetas
from reals.diffusion.gaussian.solvers import GaussianSolver
from reals.diffusion.gaussian.variance import LearnedRange, Variance
from reals.diffusion.guidance import Output
from reals.diffusion.noise import NoiseSource
from reals.diffusion.solvers.grid import StepCallback, ignore_step


@dataclass(frozen=True, kw_only=True)
class GaussianDiffusion:
    """Denoising diffusion as DiT trains and samples it (Ho et al., 2020; Nichol & Dhariwal, 2021).

    The network predicts the noise, and for a learned variance as many channels again. It is called with the trained
    process's timesteps, 0 (least noisy) to T - 1, as floats, also where a sampler visits only some of them.
    """

    betas: LinearBetas = field(default_factory=LinearBetas)
    """How much noise each timestep adds."""
    variance: Variance = field(default_factory=LearnedRange)
    """The variance of a reverse step."""

    def build(self, network: nn.Module) -> GaussianObjective:
        """Return the objective that trains ``network``."""
        return GaussianObjective(network, self.betas.schedule(), self.variance)

    def outputs(self, channels: int) -> int:
        """Return the channels that the network must predict for latents of ``channels``."""
        return self.variance.outputs(channels)

    def times(self, solver: GaussianSolver) -> list[float]:
        """Return the timesteps at which ``solver`` evaluates the network, noisiest first.

        Raises:
            UserError: the process has no such timesteps.
        """
        return [float(timestep) for timestep in solver.timesteps(self.betas.steps)]

    def noise_level(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return t / (T - 1), the unit of guidance intervals: 0 at the least noisy timestep, 1 at the noisiest.

        As with flow matching it is the share of the process's time, so an interval costs the same number of forward
        passes. It is not the same ratio of noise to signal: at level 0.75 that is 17 here and 3 on the linear path.
        """
        return t / (self.betas.steps - 1)

    def chain(self, output: Output) -> Chain:
        """Return what a sampler walks back, for the network's guided ``output(x, t)``."""
        return Chain(output=output, schedule=self.betas.schedule(), variance=self.variance)

    def sample(
        self,
        solver: GaussianSolver,
        output: Output,
        x: Float[Tensor, "b c *dims"],
        noise: NoiseSource,
        on_step: StepCallback = ignore_step,
    ) -> Float[Tensor, "b c *dims"]:
        """Carry standard normal ``x`` to data.

        Args:
            solver: how.
            output: the network's output at ``(x, t)``, guidance included.
            x: noise.
            noise: the source of fresh noise, for solvers that need it.
            on_step: told the number of finished steps and the state.

        Raises:
            UserError: the process has no such timesteps, or the network predicts a wrong number of channels.
        """
        return solver.integrate(self.chain(output), x, noise, on_step)

"""The adversarial term of stage 1 (ReaLS, Eq. 3): a PatchGAN with the hinge loss, as in latent diffusion."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from reals.latents.adaptive import AdaptiveWeight, LastLayer, weighed, weighing
from reals.models.discriminator import PatchDiscriminator, PatchDiscriminatorConfig


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """When the discriminator plays, and how strongly it pulls."""

    weight: float = 0.1
    """λ_g, multiplied by the adaptive weight (Eq. 3; Table 1); 0 trains without a discriminator."""
    start: int = 1000
    """Step at which the discriminator begins to learn; before it, it is not even run."""
    warm_up: int = 1000
    """Steps from then on over which the autoencoder comes to feel it, linearly."""
    adaptive: bool = True
    """Whether it pulls on the decoder's last layer as strongly as the reconstruction does, times ``weight``."""
    largest_adaptive: float = 1e4
    """The adaptive weight is clamped to this, as in latent diffusion."""
    discriminator: PatchDiscriminatorConfig = field(default_factory=PatchDiscriminatorConfig)
    """The network."""
    learning_rate: float = 5e-5
    """Of the discriminator's own AdamW."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Its moment decays, as in latent diffusion."""

    def __post_init__(self) -> None:
        for name in ("weight", "start", "warm_up", "largest_adaptive"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.learning_rate <= 0.0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")

    def ramp(self, step: int) -> float:
        """Return the share of its pull that the autoencoder feels at ``step``, in [0, 1]."""
        if step < self.start:
            return 0.0
        return min((step - self.start + 1) / self.warm_up, 1.0) if self.warm_up else 1.0


class AdversarialTerm(nn.Module):
    """Both sides of the game. It does not own the discriminator, which has an optimiser of its own."""

    def __init__(self, config: AdversarialConfig, last_layer: nn.Conv2d):
        """Measure the adaptive weight at ``last_layer``, the decoder's convolution to pixels."""
        super().__init__()
        self.config = config
        self.balance = AdaptiveWeight(config.largest_adaptive, adaptive=config.adaptive)
        self._last_layer = LastLayer(last_layer)

    def active(self, step: int) -> bool:
        """Return whether the discriminator plays at ``step``."""
        return step >= self.config.start

    def reference(self, gradient: Tensor) -> None:
        """Be told the gradient of the reconstruction losses with respect to the reconstruction."""
        self._note("reference", gradient)

    def _term(self, gradient: Tensor) -> None:
        self._note("term", gradient)

    def _note(self, name: str, gradient: Tensor) -> None:
        if self.balance.adaptive:
            self.balance.note(name, self._last_layer.weight_gradient(gradient))

    def generator(
        self, discriminator: PatchDiscriminator, reconstruction: Float[Tensor, "b 3 h w"], step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return λ_g · adaptive weight · L_GAN, L_GAN = -E[D(x̂)], and its parts; the discriminator is not trained."""
        balance = self.balance.current()
        factor = balance * (self.config.weight * self.config.ramp(step))
        seen = weighing(reconstruction, factor, self._term)
        # Detached weights: the game's gradients for the discriminator come from its own loss alone.
        frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        fooled = -torch.func.functional_call(discriminator, frozen, (seen,)).float().mean()
        return weighed(fooled, factor), {"adversarial": fooled, "adaptive_weight": balance}

    def discriminator(
        self,
        discriminator: PatchDiscriminator,
        reconstruction: Float[Tensor, "b 3 h w"],
        pixels: Float[Tensor, "b 3 h w"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the discriminator's hinge loss ½ E[(1 - D(x))₊ + (1 + D(x̂))₊], and the mean logits of both."""
        real = discriminator(pixels).float()
        fake = discriminator(reconstruction.detach()).float()
        return hinge_loss(real, fake), {"logits_real": real.mean(), "logits_fake": fake.mean()}


def hinge_loss(real: Float[Tensor, "*shape"], fake: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return ½ (mean (1 - real)₊ + mean (1 + fake)₊): 1 for a discriminator that always says 0, 0 for a perfect one."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


class DiscriminatorHealth:
    """Looks at each line of the log and names, once, what has gone wrong between the two players."""

    # Lines in a row before a state counts as one: single lines are noise.
    _PATIENCE = 5
    _SAID: Mapping[str, str] = {
        "won": "the discriminator has won (it tells every reconstruction from its photo: logits {real:.2g} and "
        "{fake:.2g}): what it asks of the decoder is noise; lower objective.adversarial.learning-rate or raise its "
        "warm-up",
        "blind": "the discriminator sees no difference (logits {real:.2g} and {fake:.2g}): it teaches the decoder "
        "nothing; raise objective.adversarial.learning-rate, or start it later",
        "clamped": "the adversarial term's adaptive weight is at its limit ({weight:.3g}): the discriminator's "
        "gradient has all but vanished, so noise is being amplified; lower objective.adversarial.largest-adaptive",
    }

    def __init__(self, largest_adaptive: float, say: Callable[[str], None]):
        self._largest = largest_adaptive
        self._say = say
        self._in_a_row: dict[str, int] = {}
        self.named: list[str] = []
        """The states that were named, in order."""

    def __call__(self, step: int, averages: Mapping[str, float]) -> None:
        """Take note of a line."""
        if "logits_real" not in averages or "logits_fake" not in averages:
            return
        real, fake = averages["logits_real"], averages["logits_fake"]
        weight = averages.get("adaptive_weight", 0.0)
        states = {
            "won": averages.get("discriminator_loss", 1.0) < 0.02,
            "blind": abs(real - fake) < 0.01 and averages.get("discriminator_loss", 0.0) > 0.98,
            "clamped": weight >= 0.99 * self._largest,
        }
        for state, holds in states.items():
            self._in_a_row[state] = self._in_a_row.get(state, 0) + 1 if holds else 0
            if self._in_a_row[state] == self._PATIENCE:
                self.named.append(state)
                self._say(f"step {step}: {self._SAID[state].format(real=real, fake=fake, weight=weight)}")

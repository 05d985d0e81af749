"""The game between autoencoder and discriminator: losses by hand, and where each gradient goes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reals.latents.adaptive import AdaptiveWeight
from reals.latents.adversarial import AdversarialConfig, DiscriminatorHealth, hinge_loss
from reals.latents.objective import AutoencoderObjective, ObjectiveConfig
from reals.latents.perceptual import FeaturePerceptualLoss
from reals.models.autoencoder import decode, posterior
from reals.models.discriminator import PatchDiscriminatorConfig
from reals.training.config import LoopConfig, OptimiserConfig
from reals.training.loop import fit
from reals.training.state import TrainState
from tests.latents import tiny

PIXELS = torch.randn(4, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
NOISE = torch.randn(4, tiny.CHANNELS, *tiny.GRID, generator=torch.Generator().manual_seed(4))


def objective(weight: float = 0.3, **changes: Any) -> AutoencoderObjective:
    """Return an objective whose discriminator plays from the first step, at full strength."""
    small = PatchDiscriminatorConfig(width=4, layers=1, norm="group")
    settings: dict[str, Any] = {"weight": weight, "start": 0, "warm_up": 0, "discriminator": small}
    config = ObjectiveConfig(kl=1e-3, perceptual=0.5, adversarial=AdversarialConfig(**(settings | changes)))
    torch.manual_seed(1)
    return AutoencoderObjective(tiny.autoencoder(), config, perceptual=FeaturePerceptualLoss(tiny.Encoder()))


def by_hand(whole: AutoencoderObjective) -> dict[str, Tensor]:
    """Return the terms as public trainers write them down, for gradients by ``torch.autograd.grad``."""
    mean, log_variance = posterior(whole.autoencoder, PIXELS)
    reconstruction = decode(whole.autoencoder, mean + torch.exp(0.5 * log_variance) * NOISE)
    assert whole.discriminator is not None
    perceptual = FeaturePerceptualLoss(tiny.Encoder())(reconstruction, PIXELS)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).sum(1).mean()
    return {
        "reconstruction": (reconstruction - PIXELS).square().mean() + 0.5 * perceptual,
        "kl": 1e-3 * kl,
        "fooled": -whole.discriminator(reconstruction).mean(),
        "discriminator": hinge_loss(whole.discriminator(PIXELS), whole.discriminator(reconstruction.detach())),
    }


def last_layer(whole: AutoencoderObjective) -> Tensor:
    return nn.Module.get_parameter(whole.autoencoder, "decoder.conv_out.weight")


def test_hinge_loss_by_hand() -> None:
    real, fake = torch.tensor([3.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert hinge_loss(torch.zeros(3), torch.zeros(3)).item() == 1.0
    assert hinge_loss(torch.full((3,), 2.0), torch.full((3,), -2.0)).item() == 0.0


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer() -> None:
    """Read off one backward pass, it is what two extra passes give: Esser et al., Eq. 7."""
    whole = objective()
    terms = by_hand(whole)
    reference, term = (
        torch.autograd.grad(terms[name], last_layer(whole), retain_graph=True)[0].norm()
        for name in ("reconstruction", "fooled")
    )
    losses = whole(PIXELS, noise=NOISE)
    assert losses["adaptive_weight"].item() == 0.0
    (losses["loss"] + losses["discriminator_loss"]).backward()
    whole.after_backward()
    following = whole(PIXELS, noise=NOISE)["adaptive_weight"]
    torch.testing.assert_close(following, reference / (term + 1e-4), rtol=1e-4, atol=1e-6)


def test_loss_and_gradients_are_those_of_the_weighted_sum() -> None:
    whole = objective(weight=0.3)
    assert whole.adversarial is not None
    whole.adversarial.balance.weight.fill_(2.5)
    terms = by_hand(whole)
    expected = terms["reconstruction"] + terms["kl"] + 0.3 * 2.5 * terms["fooled"]
    losses = whole(PIXELS, noise=NOISE)
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["discriminator_loss"], terms["discriminator"])
    torch.testing.assert_close(losses["adversarial"], terms["fooled"].detach())
    own = [parameter for name, parameter in whole.named_parameters() if name.startswith("autoencoder")]
    theirs = list(whole.discriminator.parameters()) if whole.discriminator is not None else []
    wanted = torch.autograd.grad(expected, own, retain_graph=True)
    wanted_theirs = torch.autograd.grad(terms["discriminator"], theirs)
    (losses["loss"] + losses["discriminator_loss"]).backward()
    for parameter, gradient in zip(own + theirs, wanted + wanted_theirs, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_neither_player_trains_the_other() -> None:
    whole = objective()
    assert whole.adversarial is not None
    whole.adversarial.balance.weight.fill_(1.0)
    losses = whole(PIXELS, noise=NOISE)
    losses["discriminator_loss"].backward(retain_graph=True)
    for name, parameter in whole.named_parameters():
        assert (parameter.grad is not None) == name.startswith("discriminator"), name
    whole.zero_grad()
    losses["loss"].backward()
    for name, parameter in whole.named_parameters():
        assert (parameter.grad is not None) == name.startswith("autoencoder"), name


def test_accumulation_equals_the_large_batch() -> None:
    large, small = objective(), objective()
    for step in range(2):
        # The second step has the adaptive weight that the first one found.
        losses = large(PIXELS, noise=NOISE, step=step)
        large.zero_grad()
        (losses["loss"] + losses["discriminator_loss"]).backward()
        small.zero_grad()
        for part in range(2):
            cut = slice(2 * part, 2 * part + 2)
            losses = small(PIXELS[cut], noise=NOISE[cut], step=step)
            ((losses["loss"] + losses["discriminator_loss"]) / 2).backward()
        large.after_backward()
        small.after_backward()
        assert losses["adaptive_weight"].item() == 0.0 if step == 0 else losses["adaptive_weight"].item() > 0.0
    for one, other in zip(large.parameters(), small.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def train(directory: Path, steps: int, objective_: AutoencoderObjective) -> TrainState:
    def batches(step: int) -> Iterator[dict[str, Any]]:
        while True:
            yield {"pixels": PIXELS, "noise": NOISE, "step": step}
            step += 1

    config = LoopConfig(steps=steps, batch_size=4, learning_rate=1e-3, precision="float32", checkpoint_every=2)
    rule = OptimiserConfig(learning_rate=1e-3, betas=(0.5, 0.9))
    return fit(objective_, batches, config, directory, seed=0, description="game", others={"discriminator": rule})


def test_a_resumed_game_is_an_uninterrupted_one(tmp_path: Path) -> None:
    """The adaptive weight and both optimisers go on where they were, also across the discriminator's start."""
    settings: dict[str, Any] = {"start": 2, "warm_up": 3}
    whole = train(tmp_path / "whole", 8, objective(**settings))
    for stop in (2, 4, 5, 8):
        parts = train(tmp_path / "parts", stop, objective(**settings))
    for (name, one), other in zip(
        whole.objective.state_dict().items(), parts.objective.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    game = whole.objective
    assert isinstance(game, AutoencoderObjective)
    assert game.adversarial is not None
    assert game.adversarial.balance.weight.item() > 0.0
    started, ended = (objective(**settings).discriminator, game.discriminator)
    assert started is not None
    assert ended is not None
    assert not torch.equal(next(started.parameters()), next(ended.parameters()))


def test_before_its_start_the_discriminator_is_not_run() -> None:
    whole = objective(start=3, warm_up=4)

    def explode(*arguments: object) -> None:
        raise AssertionError("was run")

    assert whole.discriminator is not None
    handle = whole.discriminator.register_forward_pre_hook(explode)
    assert set(whole(PIXELS, noise=NOISE, step=2)) == {"loss", "mse", "perceptual", "kl"}
    with pytest.raises(AssertionError, match="was run"):
        whole(PIXELS, noise=NOISE, step=3)
    handle.remove()
    config = whole.config.adversarial
    assert [config.ramp(step) for step in (2, 3, 4, 6, 60)] == [0.0, 0.25, 0.5, 1.0, 1.0]


def test_without_adaptation_the_weight_is_constant() -> None:
    whole = objective(weight=0.3, adaptive=False)
    terms = by_hand(whole)
    losses = whole(PIXELS, noise=NOISE)
    torch.testing.assert_close(losses["loss"], terms["reconstruction"] + terms["kl"] + 0.3 * terms["fooled"])


def test_a_game_in_bfloat16_stays_finite_and_float32() -> None:
    whole = objective()
    exact = objective()
    for network, dtype in ((whole, torch.bfloat16), (exact, torch.float32)):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            losses = network(PIXELS, noise=NOISE)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        (losses["loss"] + losses["discriminator_loss"]).backward()
        network.after_backward()
    assert whole.adversarial is not None
    assert exact.adversarial is not None
    torch.testing.assert_close(whole.adversarial.balance.weight, exact.adversarial.balance.weight, rtol=0.05, atol=0.0)


def test_the_adaptive_weight_is_clamped_and_outlives_a_broken_step() -> None:
    balance = AdaptiveWeight(largest=10.0)
    balance.settle()
    assert balance.weight.item() == 0.0
    balance.note("reference", torch.tensor([30.0, 40.0]))
    balance.note("term", torch.tensor([1e-9]))
    balance.settle()
    assert balance.weight.item() == 10.0
    balance.note("reference", torch.tensor([float("nan")]))
    balance.note("term", torch.tensor([1.0]))
    balance.settle()
    assert balance.weight.item() == 10.0
    for _ in range(2):
        balance.note("reference", torch.tensor([3.0]))
        balance.note("term", torch.tensor([1.0]))
    balance.settle()
    assert balance.weight.item() == pytest.approx(6.0 / 2.0001)


def line(loss: float, real: float, fake: float, weight: float = 1.0) -> dict[str, float]:
    return {"discriminator_loss": loss, "logits_real": real, "logits_fake": fake, "adaptive_weight": weight}


@pytest.mark.parametrize(
    ("averages", "state", "words"),
    [
        (line(0.0, 4.0, -5.0), "won", "has won"),
        (line(1.0, 0.001, 0.0), "blind", "sees no difference"),
        (line(0.6, 0.5, -0.5, 1e4), "clamped", "at its limit"),
    ],
)
def test_a_collapse_is_named_once(averages: dict[str, float], state: str, words: str) -> None:
    said: list[str] = []
    health = DiscriminatorHealth(1e4, said.append)
    for step in range(4):
        health(step, averages)
    health(4, line(0.7, 0.5, -0.5))
    assert said == []
    for step in range(5, 20):
        health(step, averages)
    assert health.named == [state]
    assert len(said) == 1
    assert said[0].startswith("step 9: ")
    assert words in said[0]
    health(20, {"loss": 1.0})


def test_configuration_is_checked() -> None:
    for name in ("weight", "start", "warm_up"):
        with pytest.raises(ValueError, match=f"{name} is -1"):
            AdversarialConfig(**{name: -1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="learning_rate is 0"):
        AdversarialConfig(learning_rate=0.0)

"""VA-VAE's and EQ-VAE's terms against numbers by hand, alone and together with alignment."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reals.latents.align import AlignConfig
from reals.latents.equivariance import EquivarianceConfig, Transform
from reals.latents.features import feature_statistics
from reals.latents.objective import AutoencoderObjective, ObjectiveConfig
from reals.latents.vision_foundation import (
    VisionFoundationConfig,
    VisionFoundationTerm,
    marginal_cosine_loss,
    marginal_distance_loss,
)
from reals.models.autoencoder import AutoencoderKL, decode, posterior
from reals.models.semantic import Features
from reals.runtime.errors import UserError
from tests.latents import tiny

PIXELS = torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
NOISE = torch.randn(2, tiny.CHANNELS, *tiny.GRID, generator=torch.Generator().manual_seed(4))
BARE = ObjectiveConfig(perceptual=0.0, kl=0.0)


def rival(autoencoder: AutoencoderKL, **changes: Any) -> VisionFoundationTerm:
    torch.manual_seed(2)
    settings: dict[str, Any] = {"weight": 0.5} | changes
    return VisionFoundationConfig(**settings).build(autoencoder, tiny.PATCH)


def with_rival(**changes: Any) -> AutoencoderObjective:
    autoencoder = tiny.autoencoder()
    return AutoencoderObjective(autoencoder, BARE, vision_foundation=rival(autoencoder, **changes))


def test_marginal_cosine_by_hand() -> None:
    ours = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    theirs = torch.tensor([[[0.0, 2.0], [3.0, 0.0]]])
    # Cosines 0 and 1/√2.
    assert marginal_cosine_loss(ours, theirs, 0.0).item() == pytest.approx((1.0 + 1.0 - math.sqrt(0.5)) / 2)
    assert marginal_cosine_loss(ours, theirs, 0.5).item() == pytest.approx(0.5 / 2)
    assert marginal_cosine_loss(ours, 3 * ours, 0.0).item() == pytest.approx(0.0, abs=1e-6)


def test_marginal_distance_by_hand() -> None:
    ours = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    theirs = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])
    # The matrices of cosines differ off the diagonal only, by 1/√2.
    assert marginal_distance_loss(ours, theirs, 0.0).item() == pytest.approx(2 * math.sqrt(0.5) / 4)
    assert marginal_distance_loss(ours, theirs, 0.25).item() == pytest.approx(2 * (math.sqrt(0.5) - 0.25) / 4)
    turned = theirs @ torch.linalg.qr(torch.randn(2, 2))[0]
    assert marginal_distance_loss(turned, theirs, 0.0).item() == pytest.approx(0.0, abs=1e-6)


def test_its_adaptive_weight_is_the_ratio_of_gradients_at_the_encoders_last_layer() -> None:
    whole, features = with_rival(), tiny.features(2)
    term = whole.vision_foundation
    assert term is not None
    mean, log_variance = posterior(whole.autoencoder, PIXELS)
    latent = mean + torch.exp(0.5 * log_variance) * NOISE
    mse = (decode(whole.autoencoder, latent) - PIXELS).square().mean()
    cells = term.projection(latent.flatten(2).transpose(1, 2))
    targets = features.patch.flatten(1, 2)
    alignment = marginal_cosine_loss(cells, targets, 0.5) + marginal_distance_loss(cells, targets, 0.25)
    layer = nn.Module.get_parameter(whole.autoencoder, "encoder.conv_out.weight")
    norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (mse, alignment)]
    losses = whole(PIXELS, features, NOISE)
    torch.testing.assert_close(losses["loss"], mse)
    losses["loss"].backward()
    whole.after_backward()
    losses = whole(PIXELS, features, NOISE)
    wanted = norms[0] / (norms[1] + 1e-4)
    torch.testing.assert_close(losses["vf_adaptive_weight"], wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses["loss"], mse + 0.5 * wanted * alignment, rtol=1e-4, atol=1e-6)


def test_its_gradient_is_that_of_the_weighted_sum() -> None:
    whole, features = with_rival(adaptive=False), tiny.features(2)
    term = whole.vision_foundation
    assert term is not None
    mean, log_variance = posterior(whole.autoencoder, PIXELS)
    latent = mean + torch.exp(0.5 * log_variance) * NOISE
    cells, targets = term.projection(latent.flatten(2).transpose(1, 2)), features.patch.flatten(1, 2)
    alignment = marginal_cosine_loss(cells, targets, 0.5) + marginal_distance_loss(cells, targets, 0.25)
    expected = (decode(whole.autoencoder, latent) - PIXELS).square().mean() + 0.5 * alignment
    encoder = [parameter for name, parameter in whole.named_parameters() if "encoder" in name]
    wanted = torch.autograd.grad(expected, encoder)
    losses = whole(PIXELS, features, NOISE)
    losses["loss"].backward()
    for parameter, gradient in zip(encoder, wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    # The map to the encoder's width learns at full strength, whatever the latents feel.
    assert term.projection.weight.grad is not None
    assert term.projection.weight.grad.abs().max() > 0


def test_an_image_is_transformed_as_its_latent_is() -> None:
    latent = torch.arange(16.0).reshape(1, 1, 4, 4)
    pixels = latent.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(1, 3, 8, 8)
    turned = Transform(side=4, quarter_turns=1)
    assert torch.equal(turned.latent(latent)[0, 0, 0], latent[0, 0, :, 3])
    assert torch.equal(turned.image(pixels, 4)[:, :, ::2, ::2][:, 0], turned.latent(latent)[:, 0])
    half = Transform(side=2, quarter_turns=0)
    assert half.latent(latent).shape == (1, 1, 2, 2)
    assert half.image(pixels, 4).shape == (1, 3, 4, 4)
    assert half.latent(latent)[0, 0, 0, 0].item() == pytest.approx((0 + 1 + 4 + 5) / 4)
    same = Transform(side=4, quarter_turns=0)
    assert same.latent(latent) is latent


def test_transforms_are_a_function_of_the_step_in_their_share() -> None:
    config = EquivarianceConfig(weight=0.5)
    drawn = [config.at(step, 8) for step in range(2000)]
    assert drawn == [config.at(step, 8) for step in range(2000)]
    changed = [transform for transform in drawn if transform.quarter_turns]
    assert 0.45 < len(changed) / 2000 < 0.55
    assert {transform.side for transform in changed} == set(range(2, 9))
    assert {transform.quarter_turns for transform in changed} == {1, 2, 3}
    assert {EquivarianceConfig().at(step, 8) for step in range(50)} == {Transform(side=8, quarter_turns=0)}
    assert all(t.quarter_turns == 0 for t in (EquivarianceConfig(weight=1.0, rotate=False).at(s, 8) for s in range(20)))


def test_a_transformed_step_reconstructs_the_transformed_image() -> None:
    config = EquivarianceConfig(weight=1.0)
    whole = AutoencoderObjective(tiny.autoencoder(), BARE, equivariance=config)
    step = next(step for step in range(99) if config.at(step, 4).side == 2)
    transform = config.at(step, 4)
    mean, log_variance = posterior(whole.autoencoder, PIXELS)
    latent = mean + torch.exp(0.5 * log_variance) * NOISE
    wanted = (decode(whole.autoencoder, transform.latent(latent)) - transform.image(PIXELS, 4)).square().mean()
    torch.testing.assert_close(whole(PIXELS, noise=NOISE, step=step)["loss"], wanted)


def test_all_alignments_combine() -> None:
    autoencoder = tiny.autoencoder()
    heads = AlignConfig(weight=0.4).build(tiny.CHANNELS, tiny.statistics())
    whole = AutoencoderObjective(
        autoencoder,
        BARE,
        heads,
        vision_foundation=rival(autoencoder),
        equivariance=EquivarianceConfig(weight=0.5),
    )
    losses = whole(PIXELS, tiny.features(2), NOISE)
    assert {"align_patch", "align_pooled", "vf_cosine", "vf_distance", "vf_adaptive_weight"} <= losses.keys()
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in whole.parameters())


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="weight is 2"):
        EquivarianceConfig(weight=2.0)
    with pytest.raises(ValueError, match="smallest_scale is 0"):
        EquivarianceConfig(weight=0.5, smallest_scale=0.0)
    with pytest.raises(ValueError, match="cosine_margin is -1"):
        VisionFoundationConfig(cosine_margin=-1.0)


def test_centred_targets_lose_the_template_that_all_images_share() -> None:
    generator = torch.Generator().manual_seed(0)
    template = 5.0 * torch.randn(1, 4, 4, 6, generator=generator)
    template = template + template.flip(2)

    def batches() -> list[Features]:
        own = torch.Generator().manual_seed(1)
        return [
            Features(
                patch=template + torch.randn(200, 4, 4, 6, generator=own), pooled=torch.randn(200, 3, generator=own)
            )
            for _ in range(3)
        ]

    plain, centred = (feature_statistics(batches(), centre_positions=centre) for centre in (False, True))
    assert plain.patch_mean.shape == (6,)
    assert centred.patch_mean.shape == (4, 4, 6)
    torch.testing.assert_close(centred.patch_mean, template[0], atol=0.15, rtol=0.0)
    torch.testing.assert_close(centred.patch_std, torch.ones(6), atol=0.05, rtol=0.0)
    assert plain.patch_std.min() > 2.0
    torch.testing.assert_close(plain.pooled_mean, centred.pooled_mean)

    def shared(standardise: bool, statistics: Any) -> Tensor:
        heads = AlignConfig(standardise=standardise, centre_positions=True).build(3, statistics)
        return heads.standardise(batches()[0]).patch.mean(dim=0)

    assert shared(True, centred).abs().max() < 0.25
    # Centring does not need standardising.
    assert shared(False, centred).abs().max() < 0.25
    heads = AlignConfig(centre_positions=True).build(3, centred)
    assert heads.predict(torch.zeros(2, 3, 4, 4)).patch.shape == (2, 4, 4, 6)
    with pytest.raises(UserError, match=r"centre each position of a 4x4 grid .* cannot be used on a 8x8 one"):
        heads.predict(torch.zeros(2, 3, 8, 8))

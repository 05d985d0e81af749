"""The whole stage 1 loss: each term by hand, and where each term's gradient goes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from reals.latents.align import AlignConfig, align_loss
from reals.latents.objective import AutoencoderObjective, ObjectiveConfig, kl_divergence
from reals.latents.perceptual import FeaturePerceptualLoss
from reals.models.autoencoder import decode, posterior
from reals.models.semantic import EfficientNetLite0
from tests.latents import tiny

PIXELS = torch.randn(2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)


def objective(
    config: ObjectiveConfig | None = None, align: AlignConfig | None = None, perceptual: bool = True
) -> AutoencoderObjective:
    network = tiny.autoencoder()
    heads = None if align is None else align.build(tiny.CHANNELS, tiny.statistics())
    loss = FeaturePerceptualLoss(tiny.Encoder()) if perceptual else None
    return AutoencoderObjective(network, config or ObjectiveConfig(), heads, loss)


def gradients(module: nn.Module, loss: Tensor) -> dict[str, bool]:
    """Which parameters ``loss`` reaches with a gradient that is not zero."""
    module.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        for name, parameter in module.named_parameters()
    }


def test_kl_by_hand() -> None:
    mean, log_variance = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    assert kl_divergence(mean, log_variance).tolist() == [0.0, 0.0]
    mean[1] = 2.0
    log_variance[1] = 1.0
    expected = 12 * 0.5 * (4.0 + torch.e - 1.0 - 1.0)
    assert kl_divergence(mean, log_variance)[1].item() == pytest.approx(expected)


def test_kl_is_torchs_own() -> None:
    mean, log_variance = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    posterior_ = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    expected = torch.distributions.kl_divergence(posterior_, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_loss_is_the_weighted_sum_of_its_parts() -> None:
    config = ObjectiveConfig(perceptual=0.7, kl=3e-3)
    whole = objective(config, AlignConfig(weight=0.4, patch=2.0))
    features = tiny.features(2)
    torch.manual_seed(5)
    losses = whole(PIXELS, features)
    torch.manual_seed(5)
    mean, log_variance = posterior(whole.autoencoder, PIXELS)
    latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    reconstruction = decode(whole.autoencoder, latent)
    assert whole.heads is not None
    align = align_loss(whole.heads, latent, features)
    mse = (reconstruction - PIXELS).square().mean()
    perceptual = FeaturePerceptualLoss(tiny.Encoder())(reconstruction, PIXELS)
    kl = kl_divergence(mean, log_variance).mean()
    torch.testing.assert_close(losses["loss"], mse + 0.7 * perceptual + 3e-3 * kl + 0.4 * align["align"])
    torch.testing.assert_close(losses["mse"], mse.detach())
    torch.testing.assert_close(losses["kl"], kl.detach())
    assert set(losses) == {
        *("loss", "mse", "perceptual", "kl"),
        *("align_patch", "align_pooled", "patch_cosine", "pooled_cosine"),
    }
    assert [name for name, loss in losses.items() if loss.requires_grad] == ["loss"]


def test_kl_reduction_changes_the_loss_but_not_what_is_reported() -> None:
    losses = []
    for reduction in ("sum", "mean"):
        torch.manual_seed(0)
        config = ObjectiveConfig(perceptual=0.0, kl=1.0, kl_reduction=reduction)
        losses.append(objective(config, perceptual=False)(PIXELS))
    elements = tiny.CHANNELS * tiny.GRID[0] * tiny.GRID[1]
    assert losses[0]["kl"] == losses[1]["kl"]
    torch.testing.assert_close(losses[0]["loss"] - losses[0]["mse"], losses[0]["kl"])
    torch.testing.assert_close(losses[1]["loss"] - losses[1]["mse"], losses[0]["kl"] / elements)


def test_alignment_reaches_encoder_and_heads_but_not_the_decoder() -> None:
    whole = objective(align=AlignConfig())
    mean, log_variance = posterior(whole.autoencoder, PIXELS)
    latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    assert whole.heads is not None
    reached = gradients(whole, align_loss(whole.heads, latent, tiny.features(2))["align"])
    for name, touched in reached.items():
        assert touched == (not name.startswith(("autoencoder.decoder", "autoencoder.post_quant_conv"))), name


def test_alignment_is_of_the_sample_not_of_the_mean() -> None:
    """Only a sample carries gradient to the log-variance."""
    whole = objective(ObjectiveConfig(perceptual=0.0, kl=0.0), AlignConfig(), perceptual=False)
    quant = whole.autoencoder.quant_conv
    assert isinstance(quant, nn.Conv2d)
    mean, log_variance = posterior(whole.autoencoder, PIXELS)
    latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    loss, _ = whole.latent_terms(mean, log_variance, latent, tiny.features(2))
    loss.backward()
    assert quant.bias is not None
    assert quant.bias.grad is not None
    assert bool((quant.bias.grad[tiny.CHANNELS :] != 0).all())


def test_perceptual_term_reaches_decoder_and_encoder_and_not_its_own_network() -> None:
    encoder = EfficientNetLite0().build("cpu")
    whole = AutoencoderObjective(tiny.autoencoder(), ObjectiveConfig(kl=0.0), perceptual=FeaturePerceptualLoss(encoder))
    _, parts = whole.pixel_terms(whole.autoencoder(PIXELS, sample_posterior=True).sample, PIXELS)
    assert all(gradients(whole, parts["perceptual"]).values())
    assert all(parameter.grad is None for parameter in encoder._network.parameters())
    # Neither trained, nor saved, nor averaged.
    assert not [name for name in whole.state_dict() if "perceptual" in name]


def test_baseline_has_no_heads_and_ignores_features() -> None:
    baseline = objective(align=replace(AlignConfig(), weight=0.0))
    assert baseline.heads is None
    assert not [name for name, _ in baseline.named_parameters() if "heads" in name]
    torch.manual_seed(0)
    with_features = baseline(PIXELS, tiny.features(2))
    torch.manual_seed(0)
    without = baseline(PIXELS)
    assert with_features.keys() == without.keys() == {"loss", "mse", "perceptual", "kl"}
    assert with_features["loss"] == without["loss"]


def test_the_arms_see_the_same_noise() -> None:
    torch.manual_seed(0)
    baseline, aligned = objective(), objective(align=AlignConfig())
    torch.manual_seed(9)
    one = baseline(PIXELS)
    torch.manual_seed(9)
    other = aligned(PIXELS, tiny.features(2))
    assert one["mse"] == other["mse"]
    assert one["kl"] == other["kl"]


def test_heads_need_features() -> None:
    with pytest.raises(ValueError, match="no semantic features were given"):
        objective(align=AlignConfig())(PIXELS)


def test_a_perceptual_weight_needs_a_perceptual_loss() -> None:
    with pytest.raises(ValueError, match=r"perceptual weight is 1\.0, but no perceptual loss"):
        objective(perceptual=False)


def test_a_perceptual_module_would_be_trained() -> None:
    with pytest.raises(ValueError, match="wrap the perceptual network"):
        AutoencoderObjective(tiny.autoencoder(), ObjectiveConfig(), perceptual=nn.MSELoss())


def test_perceptual_weight_zero_runs_no_network() -> None:
    def explode(reconstruction: Tensor, pixels: Tensor) -> Tensor:
        raise AssertionError("was run")

    whole = AutoencoderObjective(tiny.autoencoder(), ObjectiveConfig(perceptual=0.0), perceptual=explode)
    assert "perceptual" not in whole(PIXELS)


def test_losses_are_float32_under_autocast() -> None:
    whole = objective(align=AlignConfig())
    torch.manual_seed(0)
    exact = whole(PIXELS, tiny.features(2))
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = whole(PIXELS, tiny.features(2))
    assert all(loss.dtype == torch.float32 for loss in rounded.values())
    rounded["loss"].backward()
    for name, loss in rounded.items():
        torch.testing.assert_close(loss, exact[name], atol=0.03, rtol=0.03)


def test_a_few_steps_lower_every_term() -> None:
    whole = objective(ObjectiveConfig(kl=1e-4), AlignConfig())
    optimiser = torch.optim.AdamW(whole.parameters(), lr=3e-3)
    features, history = tiny.features(2), []
    for step in range(30):
        torch.manual_seed(step)
        losses = whole(PIXELS, features)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in ("loss", "mse", "align_patch", "align_pooled"):
        assert history[-1][name] < history[0][name], name
    assert history[-1]["patch_cosine"] > history[0]["patch_cosine"]


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="perceptual is -1"):
        ObjectiveConfig(perceptual=-1.0)
    with pytest.raises(ValueError, match="kl is -1"):
        ObjectiveConfig(kl=-1.0)


def test_defaults_are_the_papers() -> None:
    assert (ObjectiveConfig().perceptual, ObjectiveConfig().kl, ObjectiveConfig().kl_reduction) == (1.0, 2e-5, "sum")

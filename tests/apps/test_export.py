"""What `reals export` writes is, to every program, the same autoencoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file
from torch import nn

from reals.apps.export import Precision, export_autoencoder
from reals.apps.importing import ImportConfig, import_autoencoder
from reals.apps.origin import Alignment, Mode, Origin, alignment_of, read_origin, without_statistics
from reals.latents.align import AlignHeads
from reals.latents.codec import LatentCodec
from reals.latents.normalise import LatentNormalisation
from reals.latents.statistics import LatentStatistics, read_statistics
from reals.models.autoencoder import load_autoencoder, posterior, save_autoencoder
from reals.runtime.errors import UserError
from reals.runtime.io import write_json
from tests.apps import exchanged


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return exchanged.trained(tmp_path / "trained")


def test_factors_go_out_and_in_to_the_bit(trained: Path, tmp_path: Path) -> None:
    out = export_autoencoder(str(trained), tmp_path / "out")
    assert exchanged.same(trained, out)
    back = import_autoencoder(str(out), tmp_path / "back")
    assert exchanged.same(trained, back)
    assert LatentCodec.from_directory(back).fingerprint == LatentCodec.from_directory(trained).fingerprint
    assert read_statistics(back) == exchanged.STATISTICS


@torch.no_grad()
def test_folded_latents_leave_encode_normalised(trained: Path, tmp_path: Path) -> None:
    out = export_autoencoder(str(trained), tmp_path / "out", normalisation="folded")
    theirs, ours = AutoencoderKL.from_pretrained(out).eval(), LatentCodec.from_directory(trained)
    latents = ours.encode(exchanged.pixels(), torch.Generator().manual_seed(0))
    (posterior,) = theirs.encode(exchanged.pixels(), return_dict=False)
    torch.manual_seed(0)
    found = posterior.mean + posterior.std * torch.randn(posterior.mean.shape)
    torch.testing.assert_close(found, latents, rtol=1e-5, atol=1e-5)
    network: Any = theirs
    torch.testing.assert_close(network.decode(latents).sample, ours.decode(latents), rtol=1e-5, atol=1e-5)
    codec = LatentCodec.from_directory(out)
    assert codec.normalisation == LatentNormalisation(shift=0.0, scale=1.0)
    torch.testing.assert_close(codec.decode(latents), ours.decode(latents), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("normalisation", ["factors", "folded"])
def test_heads_read_what_the_same_directory_encodes(normalisation: Mode, trained: Path, tmp_path: Path) -> None:
    out = export_autoencoder(str(trained), tmp_path / "out", normalisation=normalisation)
    original, exported = LatentCodec.from_directory(trained), LatentCodec.from_directory(out)
    latents = original.encode(exchanged.pixels(), torch.Generator().manual_seed(0))
    expected = exchanged.heads().predict(original.normalisation.denormalise(latents))
    # Generated latents are in both spaces the same numbers, and the guide's line for them is the same, too.
    found = AlignHeads.load(out).predict(exported.normalisation.denormalise(latents))
    torch.testing.assert_close(found.patch, expected.patch, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_folding_for_a_program_with_a_factor_of_its_own(trained: Path, tmp_path: Path) -> None:
    out = export_autoencoder(str(trained), tmp_path / "out", normalisation="folded", pipeline_factor=0.18215)
    original, exported = LatentCodec.from_directory(trained), LatentCodec.from_directory(out)
    latents = original.encode(exchanged.pixels(), torch.Generator().manual_seed(0))
    found = exported.encode(exchanged.pixels(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exported.decode(latents), original.decode(latents), rtol=1e-5, atol=1e-5)
    assert read_statistics(out).std * 0.18215 == pytest.approx(1.0)
    predicted = AlignHeads.load(out).predict(exported.normalisation.denormalise(latents))
    expected = exchanged.heads().predict(original.normalisation.denormalise(latents))
    torch.testing.assert_close(predicted.patch, expected.patch, rtol=1e-4, atol=1e-4)
    # Folding the rest as well gives what folding all at once gives, and the record says so.
    rest = export_autoencoder(str(out), tmp_path / "rest", normalisation="folded")
    torch.testing.assert_close(
        LatentCodec.from_directory(rest).decode(latents), original.decode(latents), rtol=1e-5, atol=1e-5
    )
    origin = read_origin(rest)
    assert origin is not None
    assert (origin.map.shift, origin.map.scale) == pytest.approx((exchanged.MAP.shift, exchanged.MAP.scale))
    with pytest.raises(UserError, match="of use with --normalisation folded only"):
        export_autoencoder(str(trained), tmp_path / "no", pipeline_factor=0.18215)
    with pytest.raises(UserError, match=r"--pipeline-factor 0\.0: it must be positive"):
        export_autoencoder(str(trained), tmp_path / "no", normalisation="folded", pipeline_factor=0.0)


def test_folded_statistics_are_those_of_the_folded_latents(trained: Path, tmp_path: Path) -> None:
    """Who normalises by mean_std.json, as the authors' code does, must not do it with numbers of other latents."""
    out = export_autoencoder(str(trained), tmp_path / "out", normalisation="folded")
    expected = LatentStatistics(mean=0.0, std=1.0, min=-6.4 / 1.7, max=7.6 / 1.7, count=123)
    found = read_statistics(out)
    assert (found.mean, found.std, found.count) == pytest.approx((expected.mean, expected.std, expected.count))
    assert (found.min, found.max) == pytest.approx((expected.min, expected.max))


def test_a_negative_scale_keeps_the_statistics_in_order(tmp_path: Path) -> None:
    trained = exchanged.trained(tmp_path / "trained", LatentNormalisation(shift=0.0, scale=-2.0))
    found = read_statistics(export_autoencoder(str(trained), tmp_path / "out", normalisation="folded"))
    assert (found.mean, found.std) == pytest.approx((-0.6, 3.4))
    assert (found.min, found.max) == pytest.approx((-15.8, 12.2))


def pipeline_images(autoencoder: AutoencoderKL) -> torch.Tensor:
    """What diffusers' DiTPipeline decodes, from latents that are the same for every autoencoder."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=3,
        out_channels=6,
        num_layers=1,
        sample_size=4,
        norm_num_groups=1,
    )
    scheduler: Any = DDIMScheduler()
    pipeline = DiTPipeline(transformer, autoencoder, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    output: Any = pipeline([1], guidance_scale=1.0, generator=generator, num_inference_steps=2, output_type="np")
    return torch.from_numpy(output.images)


def test_a_pipeline_that_ignores_the_shift_decodes_folded_autoencoders_rightly(trained: Path, tmp_path: Path) -> None:
    out = export_autoencoder(str(trained), tmp_path / "out", normalisation="folded")
    factors, folded = AutoencoderKL.from_pretrained(trained), AutoencoderKL.from_pretrained(out)
    right = pipeline_images(folded)
    wrong = pipeline_images(factors)
    # The shift by hand, inside the decoder's first layer, makes factors right, too.
    with torch.no_grad():
        layer = factors.post_quant_conv
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        layer.bias += layer.weight.sum(dim=(1, 2, 3)) * exchanged.MAP.shift
    torch.testing.assert_close(pipeline_images(factors), right, rtol=1e-5, atol=1e-5)
    assert (wrong - right).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_types(dtype: Precision, trained: Path, tmp_path: Path) -> None:
    out = export_autoencoder(str(trained), tmp_path / "out", normalisation="folded", dtype=dtype)
    stored = load_file(out / exchanged.WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    exact = export_autoencoder(str(trained), tmp_path / "exact", normalisation="folded")
    for name, tensor in load_file(exact / exchanged.WEIGHTS).items():
        # Folded in full precision, then rounded once.
        assert torch.equal(stored[name], tensor.to(getattr(torch, dtype))), name
    assert load_autoencoder(out).config["scaling_factor"] == 1.0


def test_values_beyond_float16(tmp_path: Path) -> None:
    network = exchanged.autoencoder()
    with torch.no_grad():
        network.state_dict()["decoder.conv_in.weight"][0, 0, 0, 0] = 1e6
    save_autoencoder(network, tmp_path / "large")
    with pytest.raises(UserError, match=r"--dtype float16: 'decoder\.conv_in\.weight' has values .* bfloat16"):
        export_autoencoder(str(tmp_path / "large"), tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    export_autoencoder(str(tmp_path / "large"), tmp_path / "out", dtype="bfloat16")


def test_where_it_comes_from(trained: Path, tmp_path: Path) -> None:
    out = export_autoencoder(str(trained), tmp_path / "out", normalisation="folded")
    expected = Origin(
        source="trained",
        weights="as they were",
        normalisation="folded",
        map=exchanged.MAP,
        alignment=Alignment(encoder=None, weight=0.5),
    )
    assert read_origin(out) == expected
    # A copy of a folded autoencoder is still a folded one.
    copy = read_origin(export_autoencoder(str(out), tmp_path / "copy"))
    assert copy is not None
    assert (copy.source, copy.normalisation, copy.map) == ("out", "folded", exchanged.MAP)
    again = read_origin(import_autoencoder(str(out), tmp_path / "again"))
    assert again is not None
    assert (again.normalisation, again.map, again.alignment) == ("folded", exchanged.MAP, expected.alignment)
    assert read_origin(trained) is None
    assert not any(str(tmp_path) in path.read_text() for path in out.glob("*.json"))


@torch.no_grad()
def test_the_record_of_folding_twice_is_the_whole_map(trained: Path, tmp_path: Path) -> None:
    once = export_autoencoder(str(trained), tmp_path / "once", normalisation="folded")
    write_json(tmp_path / "other.json", {"mean": 2.0, "std": 4.0, "min": -9.0, "max": 9.0})
    config = ImportConfig(normalisation="std", statistics=tmp_path / "other.json")
    again = import_autoencoder(str(once), tmp_path / "again", config)
    origin = read_origin(export_autoencoder(str(again), tmp_path / "twice", normalisation="folded"))
    assert origin is not None
    raw, _ = posterior(load_autoencoder(trained), exchanged.pixels())
    found, _ = posterior(load_autoencoder(tmp_path / "twice"), exchanged.pixels())
    torch.testing.assert_close(found, origin.map.normalise(raw), rtol=1e-5, atol=1e-5)


def test_a_run_knows_the_encoder(tmp_path: Path) -> None:
    aligned = exchanged.trained(tmp_path / "run" / "aligned" / "autoencoder")
    baseline = exchanged.trained(tmp_path / "run" / "baseline" / "autoencoder", aligned=False)
    assert alignment_of(aligned) == Alignment(encoder=None, weight=0.5)
    recipe = {"semantic": {"type": "DinoV2", "model": "facebook/dinov2-with-registers-large"}}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"format": 1, "recipe": recipe}))
    assert alignment_of(aligned) == Alignment(encoder="facebook/dinov2-with-registers-large", weight=0.5)
    assert alignment_of(baseline) is None
    recipe = {"semantic": {"type": "DinoV2", "model": str(tmp_path / "encoders" / "mine")}}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"format": 1, "recipe": recipe}))
    assert alignment_of(aligned) == Alignment(encoder="mine", weight=0.5)


def test_without_statistics_or_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_autoencoder(exchanged.autoencoder(), tmp_path / "plain")
    out = export_autoencoder(str(tmp_path / "plain"), tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"config.json", exchanged.WEIGHTS, "origin.json"}
    assert "plain: has no mean_std.json; reals encode measures latent statistics on photos" in capsys.readouterr().err
    with pytest.raises(UserError, match="plain: there is nothing to fold"):
        export_autoencoder(str(tmp_path / "plain"), tmp_path / "folded", normalisation="folded")


def test_a_hub_id_brings_no_statistics() -> None:
    assert "reals pull also brings latent statistics and alignment heads" in without_statistics("owner/name")


def test_nothing_is_overwritten(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trained: exists already; give another --out"):
        export_autoencoder(str(trained), trained)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: is a file; give a directory as --out"):
        export_autoencoder(str(trained), tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    assert exchanged.same(export_autoencoder(str(trained), tmp_path / "empty"), trained)

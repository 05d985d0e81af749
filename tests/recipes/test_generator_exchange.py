"""Published transformers become generators that sample, and generators become published files again."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reals.apps.importing import import_autoencoder
from reals.diffusion.gaussian import DDPM, FixedLarge, GaussianDiffusion, LearnedRange
from reals.diffusion.gaussian.schedule import LinearBetas
from reals.diffusion.interpolant import GVP, VP, Linear
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction
from reals.diffusion.process import Sampler
from reals.diffusion.solvers import Euler
from reals.latents.codec import LatentCodec
from reals.latents.normalise import LatentNormalisation
from reals.models.diffusers_transformer import save_diffusers
from reals.models.published import FlowTraining, PublishedTransformer
from reals.models.transformer import Transformer, TransformerConfig
from reals.recipes.generator import load_generator, save_generator
from reals.recipes.generator_exchange import GeneratorExport, GeneratorImport, export_generator, import_generator
from reals.recipes.sampling import sample_images
from reals.recipes.schema import SamplingConfig
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, save_state, save_tensors
from reals.runtime.pixels import Rounding
from tests.apps import exchanged
from tests.latents import tiny

TINY = TransformerConfig(depth=2, width=32, heads=2, patch_size=2)
SIGMA = replace(TINY, learn_sigma=True)
HEADS = GeneratorImport(heads=2)
SD_VAE = LatentNormalisation(shift=0.0, scale=0.18215)
CPU = torch.device("cpu")


def network(config: TransformerConfig = TINY, channels: int = tiny.CHANNELS) -> Transformer:
    torch.manual_seed(0)
    made = config.build(channels, 8, 5)
    for parameter in made.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def inputs(*times: float) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, tiny.CHANNELS, 8, 8), torch.tensor(times), torch.tensor([0, 3, 5])


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exchanged.trained(tmp_path_factory.mktemp("vae") / "vae", SD_VAE, aligned=False)


def sampled(generator: Path, autoencoder: Path, output: Path, solver: Sampler) -> np.ndarray:
    config = SamplingConfig(count=2, solver=solver)
    sample_images(config, generator, autoencoder, 1.5, output, seed=0, precision="float32", device=CPU)
    return np.load(output)["arr_0"]


def test_repas_rounding_is_darker_and_in_the_card(tmp_path: Path, autoencoder: Path) -> None:
    save_state(tmp_path / "SiT-tiny.pt", network().state_dict())
    made = import_generator(
        tmp_path / "SiT-tiny.pt", str(autoencoder), tmp_path / "generator", replace(HEADS, path="Linear")
    )
    config = SamplingConfig(count=2, solver=Euler(steps=2))
    images: dict[str, np.ndarray] = {}
    rules: tuple[Rounding, ...] = ("nearest", "repa")
    for rule in rules:
        output = tmp_path / f"{rule}.npz"
        sample_images(config, made, autoencoder, 1.5, output, seed=0, precision="float32", device=CPU, rounding=rule)
        images[rule] = np.load(output)["arr_0"].astype(int)
        assert read_json(output.with_suffix(".json"))["provenance"].get("rounding", "nearest") == rule
    steps = images["nearest"] - images["repa"]
    assert set(np.unique(steps)) == {0, 1}
    with pytest.raises(UserError, match="made with other settings"):
        sample_images(config, made, autoencoder, 1.5, tmp_path / "repa.npz", seed=0, precision="float32", device=CPU)


def test_a_sit_is_sampled_and_comes_back(tmp_path: Path, autoencoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "SiT-tiny.pt"
    save_state(source, {"model": {}, "ema": network().state_dict(), "args": Namespace(path_type="Linear")})
    with pytest.raises(UserError, match="trained for None on the path 'Linear'"):
        import_generator(source, str(autoencoder), tmp_path / "refused", HEADS)
    settings = Namespace(path_type="GVP", prediction="noise")
    save_state(source, {"model": {}, "ema": network().state_dict(), "args": settings})
    made = import_generator(source, str(autoencoder), tmp_path / "generator", HEADS)
    shown = capsys.readouterr().err
    assert "read the moving average at 'ema'" in shown
    assert "a SiT of 5 classes, 8x8 latents, 16x16 pixels" in shown
    assert "published weights" not in shown
    loaded, card = load_generator(made, CPU)
    assert card.process == FlowMatching(interpolant=GVP(), prediction=NoisePrediction())
    assert card.class_names == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert card.steps == 0
    assert card.autoencoder_fingerprint == LatentCodec.from_directory(autoencoder).fingerprint
    assert torch.equal(loaded(*inputs(0.0, 0.5, 1.0)), network()(*inputs(0.0, 0.5, 1.0)))
    images = sampled(made, autoencoder, tmp_path / "images.npz", Euler(steps=3))
    assert images.shape == (2, 16, 16, 3)
    assert images.std() > 0
    with pytest.raises(UserError, match="not the autoencoder in whose latent space"):
        sampled(made, exchanged.trained(tmp_path / "other"), tmp_path / "other.npz", Euler(steps=3))
    # A plain file does not say for which path; the user does.
    again = import_generator(
        export_generator(made, tmp_path / "sit.safetensors"),
        str(autoencoder),
        tmp_path / "again",
        replace(HEADS, path="GVP", prediction="noise"),
    )
    assert exchanged.same(made, again)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_dit_is_sampled_by_its_chain_and_comes_back(tmp_path: Path, autoencoder: Path, suffix: str) -> None:
    source = tmp_path / f"DiT-tiny{suffix}"
    (save_tensors if suffix == ".safetensors" else save_state)(source, network(SIGMA).state_dict())
    made = import_generator(source, str(autoencoder), tmp_path / "generator", HEADS)
    _, card = load_generator(made, CPU)
    assert card.process == GaussianDiffusion()
    assert card.transformer == replace(SIGMA, variance=True)
    images = sampled(made, autoencoder, tmp_path / "images.npz", DDPM(steps=3))
    assert images.shape == (2, 16, 16, 3)
    with pytest.raises(UserError, match="cannot sample a network trained by Gaussian diffusion"):
        sampled(made, autoencoder, tmp_path / "wrong.npz", Euler(steps=3))
    back = export_generator(made, tmp_path / f"back-DiT{suffix}")
    assert exchanged.same(made, import_generator(back, str(autoencoder), tmp_path / "again", HEADS))
    with pytest.raises(UserError, match="not trained as SiT's code samples; export it for DiT"):
        export_generator(made, tmp_path / "sit.pt", GeneratorExport(family="SiT"))


def test_a_dit_without_a_variance_takes_the_larger_fixed_one(tmp_path: Path, autoencoder: Path) -> None:
    save_state(tmp_path / "DiT.pt", network().state_dict())
    made = import_generator(tmp_path / "DiT.pt", str(autoencoder), tmp_path / "generator", HEADS)
    assert load_generator(made, CPU)[1].process == GaussianDiffusion(variance=FixedLarge())


def test_time_and_sign_of_repa_are_turned_and_turned_back(tmp_path: Path, autoencoder: Path) -> None:
    projectors = {f"projectors.0.{layer}.weight": torch.randn(3) for layer in (0, 2, 4)}
    state = {**network().state_dict(), **projectors}
    save_state(tmp_path / "0400000.pt", {"ema": state, "args": Namespace(path_type="cosine", proj_coeff=0.5)})
    made = import_generator(tmp_path / "0400000.pt", str(autoencoder), tmp_path / "generator", HEADS)
    loaded, card = load_generator(made, CPU)
    assert card.process == FlowMatching(interpolant=GVP())
    ours, theirs = loaded(*inputs(0.1, 0.5, 0.96)), network()(*inputs(0.9, 0.5, 0.04))
    assert torch.allclose(ours, -theirs, atol=1e-5)
    back = export_generator(made, tmp_path / "repa.safetensors", GeneratorExport(family="REPA"))
    found = load_file(back)
    assert found.keys() == state.keys()
    assert all(torch.allclose(found[name], state[name], atol=1e-6) for name in state)
    assert {name: tensor.tolist() for name, tensor in load_file(made / "projectors.safetensors").items()} == {
        name.removeprefix("projectors."): tensor.tolist() for name, tensor in projectors.items()
    }
    for change in (GeneratorImport(heads=2, path="VP"), GeneratorImport(heads=2, prediction="score")):
        with pytest.raises(UserError, match="REPA predicts velocities on the linear or GVP path"):
            import_generator(back, str(autoencoder), tmp_path / "refused", change)


def test_a_projector_of_ours_goes_along_to_repa(
    tmp_path: Path, autoencoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_state(tmp_path / "sit.pt", network().state_dict())
    made = import_generator(tmp_path / "sit.pt", str(autoencoder), tmp_path / "generator", HEADS)
    export_generator(made, tmp_path / "bare.pt", GeneratorExport(family="REPA"))
    assert "has no projectors, which REPA's generate.py wants" in capsys.readouterr().err
    projector = tmp_path / "projector.safetensors"
    save_file({"0.weight": torch.ones(3), "2.weight": torch.ones(3)}, projector)
    out = export_generator(made, tmp_path / "repa.safetensors", GeneratorExport(family="REPA", projector=projector))
    assert {name for name in load_file(out) if "proj" in name and name.startswith("projectors")} == {
        "projectors.0.0.weight",
        "projectors.0.2.weight",
    }
    with pytest.raises(UserError, match="only REPA's code wants one"):
        export_generator(made, tmp_path / "sit2.pt", GeneratorExport(projector=projector))


def test_diffusers_directories_both_ways(tmp_path: Path, autoencoder: Path) -> None:
    save_state(tmp_path / "sit.pt", network().state_dict())
    made = import_generator(tmp_path / "sit.pt", str(autoencoder), tmp_path / "generator", HEADS)
    out = export_generator(made, tmp_path / "diffusers", GeneratorExport(copied=True))
    again = import_generator(out, str(autoencoder), tmp_path / "again", GeneratorImport(copied=True))
    assert exchanged.same(made, again)
    fitted = import_generator(export_generator(made, tmp_path / "fitted"), str(autoencoder), tmp_path / "from-fitted")
    ours, theirs = load_generator(made, CPU)[0], load_generator(fitted, CPU)[0]
    assert theirs.config.frequency_shift == 1
    assert torch.allclose(ours(*inputs(0.1, 0.5, 0.9)), theirs(*inputs(0.1, 0.5, 0.9)), atol=1e-4)


def test_a_pipeline_of_diffusers_names_its_classes(tmp_path: Path, autoencoder: Path) -> None:
    built = network(SIGMA)
    transformer = PublishedTransformer(
        config=built.config,
        latent_channels=tiny.CHANNELS,
        grid=8,
        num_classes=5,
        weights=built.state_dict(),
        family="SiT",
        training=FlowTraining(),
    )
    pipeline = tmp_path / "pipeline"
    save_diffusers(pipeline / "transformer", transformer)
    settings = json.loads((pipeline / "transformer" / "config.json").read_text())
    del settings["_reals_training"]
    (pipeline / "transformer" / "config.json").write_text(json.dumps(settings))
    index = {"_class_name": "DiTPipeline", "id2label": {"0": "tench", "1": "goldfish", "4": "hammerhead"}}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    card = load_generator(import_generator(pipeline, str(autoencoder), tmp_path / "dit"), CPU)[1]
    assert card.class_names == ("tench", "goldfish", "class 2", "class 3", "hammerhead")
    assert card.process == GaussianDiffusion(variance=LearnedRange())
    as_flow = import_generator(
        pipeline / "transformer", str(autoencoder), tmp_path / "sit", GeneratorImport(family="SiT", path="VP")
    )
    card = load_generator(as_flow, CPU)[1]
    assert card.process == FlowMatching(interpolant=VP())
    assert card.class_names[0] == "tench"
    assert not card.transformer.variance


def test_sd_vae_keeps_the_scale_that_published_weights_know(tmp_path: Path) -> None:
    """Its config.json on the hub names neither shift nor scale; diffusers' defaults are what SiT and DiT type out."""
    hub = exchanged.trained(tmp_path / "hub", SD_VAE, aligned=False)
    (hub / "mean_std.json").unlink()
    config = json.loads((hub / "config.json").read_text())
    for name in ("scaling_factor", "shift_factor"):
        del config[name]
    (hub / "config.json").write_text(json.dumps(config))
    kept = import_autoencoder(str(hub), tmp_path / "kept")
    codecs = [LatentCodec.from_directory(place) for place in (hub, kept)]
    assert [codec.normalisation for codec in codecs] == [SD_VAE, SD_VAE]
    assert codecs[0].fingerprint == codecs[1].fingerprint


def test_another_normalisation_is_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aligned = exchanged.trained(tmp_path / "aligned")
    save_state(tmp_path / "sit.pt", network().state_dict())
    import_generator(tmp_path / "sit.pt", str(aligned), tmp_path / "generator", HEADS)
    assert "published weights were trained with SD-VAE's latents times 0.18215" in capsys.readouterr().err


def test_one_class_stands_for_no_labels(tmp_path: Path, autoencoder: Path) -> None:
    save_state(tmp_path / "sit.pt", TINY.build(tiny.CHANNELS, 8, 1).state_dict())
    made = import_generator(tmp_path / "sit.pt", str(autoencoder), tmp_path / "generator", HEADS)
    assert not load_generator(made, CPU)[1].labelled


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("absent.pt", HEADS, "no such file or directory; give the file"),
        ("wide-sit.pt", HEADS, r"trained on latents of 7 channels, and those of .* have \d"),
        ("sit.pt", GeneratorImport(), "no tensor tells its number of attention heads; give heads"),
        ("sit.pt", GeneratorImport(heads=2, grid=16), "trained on 8x8 latents, not 16x16"),
        ("sit.pt", GeneratorImport(heads=2, copied=True), "--copied is about directories"),
        ("unknown.pt", HEADS, "give family"),
        ("dit.pt", GeneratorImport(heads=2, path="GVP"), "a DiT has no interpolant"),
        ("empty", GeneratorImport(), "no such file"),
        ("empty", GeneratorImport(family="REPA"), "diffusers has no transformers of REPA"),
        ("empty", GeneratorImport(heads=2), "leave --heads out"),
    ],
)
def test_refused_imports(tmp_path: Path, autoencoder: Path, name: str, config: GeneratorImport, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for stem, channels in (("sit", tiny.CHANNELS), ("dit", tiny.CHANNELS), ("unknown", tiny.CHANNELS), ("wide-sit", 7)):
        save_state(tmp_path / f"{stem}.pt", network(channels=channels).state_dict())
    with pytest.raises(UserError, match=message):
        import_generator(tmp_path / name, str(autoencoder), tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_refused_exports(tmp_path: Path, autoencoder: Path) -> None:
    save_state(tmp_path / "sit.pt", network().state_dict())
    made = import_generator(tmp_path / "sit.pt", str(autoencoder), tmp_path / "generator", HEADS)
    for out, config, message in (
        ("sit.pt", GeneratorExport(), "exists already"),
        ("generator", GeneratorExport(), "exists already"),
        ("sit.ckpt", GeneratorExport(), "has the suffix '.ckpt'"),
        ("new", GeneratorExport(family="SiT"), "a directory is for diffusers"),
        ("new.pt", GeneratorExport(copied=True), "--copied is about directories"),
        ("new.pt", GeneratorExport(family="DiT"), "not trained as DiT's code samples"),
    ):
        with pytest.raises(UserError, match=message):
            export_generator(made, tmp_path / out, config)
    loaded, card = load_generator(made, CPU)
    for process, message in (
        (FlowMatching(interpolant=VP(rate_at_noise=10.0)), "with other rates only"),
        (GaussianDiffusion(betas=LinearBetas(last=0.01)), "other betas than DiT"),
    ):
        other = tmp_path / f"other-{type(process).__name__}"
        save_generator(other, replace(card, process=process), loaded.state_dict())
        with pytest.raises(UserError, match=message):
            export_generator(other, tmp_path / "new.pt")
    assert not (tmp_path / "new.pt").exists()
    assert card.process == FlowMatching(interpolant=Linear())

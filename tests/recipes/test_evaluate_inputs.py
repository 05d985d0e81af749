"""``reals evaluate`` on more than image files: Hugging Face datasets, and a generator that makes its samples."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reals.data.crop import centre_crop
from reals.latents.codec import LatentCodec
from reals.models.transformer import TransformerConfig
from reals.recipes import sampling
from reals.recipes.generator import GeneratorCard, save_generator
from reals.runtime.io import load_tensors, read_json, save_tensors, write_json
from tests.apps import exchanged
from tests.latents import tiny
from tests.recipes.runs import reals

datasets = pytest.importorskip("datasets")

SIDE = 16


@pytest.fixture(autouse=True)
def private_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()
    monkeypatch.setenv("REALS_CACHE", str(tmp_path / "cache"))


def photos(count: int, seed: int) -> list[Image.Image]:
    """Photos of three sizes, none of them square."""
    generator = np.random.default_rng(seed)
    shapes = [(20 + 9 * (index % 3), 40, 3) for index in range(count)]
    return [Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def dataset(images: list[Image.Image]) -> Any:
    return datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))


def batch(path: Path, images: list[Image.Image]) -> Path:
    np.savez(path, arr_0=np.stack([centre_crop(image, SIDE) for image in images]))
    return path


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return batch(tmp_path / "reference.npz", photos(8, 0))


def test_datasets_are_cropped_as_adm_does(tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = photos(6, 1)
    made = dataset(samples)
    made.to_parquet(tmp_path / "samples.parquet")
    asked = []

    def load(name: str, config: str | None, split: str) -> Any:
        asked.append((name, config, split))
        return made

    plain = batch(tmp_path / "samples.npz", samples)
    results = []
    for index, location in enumerate((tmp_path / "samples.parquet", "hf:someone/samples:test", plain)):
        out = tmp_path / f"{index}.json"
        if str(location).startswith("hf:"):
            monkeypatch.setattr(datasets, "load_dataset", load)
        assert reals("evaluate", reference, location, "--size", SIDE, "--replicates", 2, "--out", out) == 0
        results.append(read_json(out))
    assert asked == [("someone/samples", None, "test")]
    parquet, hub, cropped_before = results
    assert parquet["metrics"] == hub["metrics"] == cropped_before["metrics"]
    sets = [result["protocol"]["samples"] for result in results]
    assert len({each["sha256"] for each in sets}) == 1
    assert [each.get("crop") for each in sets] == ["ADM's centre crop", "ADM's centre crop", None]
    assert sets[1]["location"] == "hf:someone/samples:test"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert reals("evaluate", *arguments) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    return shown


def test_sizes_that_do_not_agree_are_one_line(
    tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed.parquet"
    dataset(photos(6, 1)).to_parquet(mixed)
    one_size = tmp_path / "one-size.parquet"
    dataset([photos(1, seed)[0] for seed in range(5)]).to_parquet(one_size)
    assert "bring both to one size first, for example by --size" in refused(capsys, reference, one_size)
    assert "00000001 is 40x29, 00000000 is 40x20" in refused(capsys, one_size, mixed)
    assert "has images of 16x16, not 8x8; --size crops image files" in refused(capsys, reference, mixed, "--size", 8)
    assert "--size 0: give at least 1" in refused(capsys, reference, mixed, "--size", 0)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """A generator and its autoencoder, both untrained."""
    autoencoder = exchanged.trained(tmp_path / "autoencoder")
    card = GeneratorCard(
        transformer=TransformerConfig(depth=1, width=16, heads=2, patch_size=4),
        latent_channels=tiny.CHANNELS,
        grid=SIDE // LatentCodec.from_directory(autoencoder).downsampling,
        num_classes=2,
        class_names=("cat", "dog"),
        autoencoder_fingerprint=LatentCodec.from_directory(autoencoder).fingerprint,
        steps=0,
    )
    torch.manual_seed(0)
    network = card.build()
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    save_generator(tmp_path / "generator", card, network.state_dict())
    return tmp_path / "generator", autoencoder


def test_a_generator_makes_the_samples_that_reals_sample_makes(
    tmp_path: Path,
    reference: Path,
    trained: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator, autoencoder = trained
    asked = ("--autoencoder", autoencoder, "--count", 6, "--seed", 3)
    sampled = tmp_path / "sampled.npz"
    assert reals("sample", "--generator", generator, *asked, "--out", sampled) == 0
    common = ("--replicates", 2, "--seed", 3)
    assert reals("evaluate", reference, sampled, *common, "--out", tmp_path / "expected.json") == 0
    command = ("evaluate", reference, generator, *asked, "--replicates", 2, "--out", tmp_path / "found.json")
    assert reals(*command) == 0
    expected, found = read_json(tmp_path / "expected.json"), read_json(tmp_path / "found.json")
    assert found["metrics"] == expected["metrics"]
    assert found["protocol"]["labels"] == "balanced"
    (kept,) = (tmp_path / "cache" / "samples").glob("*.npz")
    assert found["protocol"]["samples"]["location"] == str(kept)
    # A second evaluation samples nothing; without a cache samples are made anew and nothing is kept or taken away.
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "load_generator", lambda *_: pytest.fail("the generator is not needed"))
        assert reals(*command) == 0
    assert f"{kept}: already there" in capsys.readouterr().err
    # A call that was killed before it had tidied up.
    kept.with_suffix(".partial").mkdir()
    assert reals(*command) == 0
    assert not kept.with_suffix(".partial").exists()
    before = sorted((tmp_path / "cache" / "samples").iterdir())
    assert reals(*command, "--cache", "False") == 0
    assert read_json(tmp_path / "found.json")["metrics"] == expected["metrics"]
    assert sorted((tmp_path / "cache" / "samples").iterdir()) == before


def test_two_generators_are_compared(tmp_path: Path, reference: Path, trained: tuple[Path, Path]) -> None:
    """The baseline's autoencoder is its own, or the samples' unless given; the same generator differs by nothing."""
    generator, autoencoder = trained
    other = shutil.copytree(autoencoder, tmp_path / "other")
    weights = other / "diffusion_pytorch_model.safetensors"
    tensors = load_tensors(weights)
    save_tensors(weights, {name: tensor * 1.5 for name, tensor in tensors.items()})
    card = read_json(generator / "config.json")
    second = shutil.copytree(generator, tmp_path / "second")
    fingerprint = LatentCodec.from_directory(other).fingerprint
    assert fingerprint != card["autoencoder_fingerprint"]
    write_json(second / "config.json", card | {"autoencoder_fingerprint": fingerprint})
    found = []
    for more in ((generator,), (second, "--baseline-autoencoder", other)):
        out = tmp_path / "out.json"
        asked = ("--autoencoder", autoencoder, "--count", 6, "--replicates", 2, "--out", out)
        assert reals("evaluate", reference, generator, *asked, "--baseline", *more) == 0
        found.append(read_json(out))
    same, different = (result["baseline"]["comparison"]["fd/efficientnet-lite0"]["difference"] for result in found)
    assert same == 0
    assert different != 0
    assert found[0]["metrics"] == found[1]["metrics"]
    sampled = tmp_path / "sampled.npz"
    asked = ("--generator", second, "--autoencoder", other, "--count", 6, "--out", sampled)
    assert reals("sample", *asked) == 0
    assert reals("evaluate", reference, sampled, "--replicates", 2, "--out", tmp_path / "plain.json") == 0
    assert read_json(tmp_path / "plain.json")["metrics"] == found[1]["baseline"]["metrics"]


def test_mistakes_about_generators_are_one_line(
    tmp_path: Path, reference: Path, trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    generator, autoencoder = trained
    with_it = ("--autoencoder", autoencoder)
    assert "give its autoencoder with --autoencoder" in refused(capsys, reference, generator)
    assert "say with --count how many" in refused(capsys, reference, generator, *with_it)
    assert "--count 3: give at least 4" in refused(capsys, reference, generator, *with_it, "--count", 3)
    assert "which --autoencoder is for" in refused(capsys, reference, reference, *with_it)
    assert "which --count is for" in refused(capsys, reference, reference, "--count", 4)
    assert "give its autoencoder with --baseline-autoencoder" in refused(
        capsys, reference, reference, "--baseline", generator, "--count", 4
    )
    unused = ("--baseline-autoencoder", autoencoder)
    assert "no generator as --baseline" in refused(capsys, reference, reference, "--baseline", reference, *unused)
    assert "no generator as --baseline" in refused(capsys, reference, generator, *with_it, "--count", 4, *unused)
    pairs = (*with_it, "--count", 6, "--reconstructions", "True")
    assert "leave out --reconstructions" in refused(capsys, reference, generator, *pairs)
    asked = (generator, *with_it, "--count", 6)
    np.savez(tmp_path / "larger.npz", arr_0=np.zeros((5, 32, 32, 3), np.uint8))
    message = refused(capsys, tmp_path / "larger.npz", *asked)
    assert "larger.npz has images of 32x32" in message
    assert "makes 16x16; --size 16 crops" in message
    assert "absent.npz: no such file" in refused(capsys, tmp_path / "absent.npz", *asked)
    write_json(generator / "config.json", {"not": "a generator"})
    assert "config.json" in refused(capsys, reference, *asked)
    assert not (tmp_path / "cache" / "samples").exists()

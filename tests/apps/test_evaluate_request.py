"""Mistakes in what ``reals evaluate`` is asked for are found before any work, and nothing of the user's is harmed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from reals.apps.evaluate import evaluate
from reals.apps.evaluation_request import Extras
from reals.apps.evaluation_table import render
from reals.cli.main import _dispatch
from reals.evaluation.extras import clip_distance
from reals.evaluation.foundation import network_name
from reals.evaluation.image_sets import NpzImages
from reals.evaluation.measures import Settings
from reals.evaluation.protocol import differences
from reals.runtime.errors import UserError
from reals.runtime.io import write_json
from tests.apps.test_evaluate import QuadrantMeans
from tests.evaluation.cheap_inception import CheapInception


def images(count: int, seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def batch(path: Path, count: int = 8, seed: int = 0, **more: np.ndarray) -> str:
    np.savez(path, arr_0=images(count, seed), **more)  # pyright: ignore[reportArgumentType]
    return str(path)


def folder(path: Path, pixels: np.ndarray, names: list[str]) -> str:
    for name, image in zip(names, pixels, strict=True):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / name)
    return str(path)


class Unused(QuadrantMeans):
    """A network that must not be asked: mistakes come first."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        raise AssertionError


def refused(*locations: str, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        evaluate(*locations, network=Unused(), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    pixels = images(18, 0)
    names = [f"{('cat', 'dog', 'fish')[index % 3]}/{index:02}.png" for index in range(18)]
    photos = folder(tmp_path / "photos", pixels, names)
    some = [index for index in range(18) if index % 3]
    fewer = folder(tmp_path / "fewer", pixels[some], [names[index] for index in some])
    extras, common = Extras(per_class=True), {"network": QuadrantMeans(), "replicates": 5}
    result = evaluate(photos, fewer, extras=extras, **common)
    assert sorted((one["name"], one["label"]) for one in result["per_class"]) == [("dog", 1), ("fish", 2)]
    assert [one["distance"] for one in result["per_class"]] == pytest.approx([0, 0], abs=1e-9)
    assert any("left out: cat" in warning for warning in result["warnings"])
    assert "classes furthest from the reference: " in render(result)
    # A batch has but numbers.
    numbers = batch(tmp_path / "numbers.npz", 18, arr_1=np.arange(18) % 3)
    result = evaluate(photos, numbers, extras=extras, **common)
    assert {one["name"] for one in result["per_class"]} == {"cat", "dog", "fish"}
    assert any("its class 0 is taken for 'cat'" in warning for warning in result["warnings"])
    cow = folder(tmp_path / "cow", pixels, [name.replace("cat", "cow") for name in names])
    assert "has a class 'cow', which" in refused(photos, cow, extras=extras)
    floats = batch(tmp_path / "floats.npz", 18, arr_1=np.zeros(18))
    assert "an integer for each image under 'arr_1'" in refused(photos, floats, extras=extras)


def test_labels_are_read_once_for_each_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, samples, baseline = (
        batch(tmp_path / f"{name}.npz", 12, seed, arr_1=np.arange(12) % 2)
        for seed, name in enumerate(("reference", "samples", "baseline"))
    )
    read, labels = [], NpzImages.labels

    def watch(images: NpzImages) -> np.ndarray | None:
        read.append(Path(images.location).stem)
        return labels(images)

    monkeypatch.setattr(NpzImages, "labels", watch)
    asked: dict[str, Any] = {"network": QuadrantMeans(), "replicates": 5, "extras": Extras(per_class=True)}
    result = evaluate(reference, samples, baseline=baseline, **asked)
    assert len(result["per_class"]) == len(result["baseline"]["per_class"]) == 2
    assert read == ["reference", "samples", "reference", "baseline"]


def test_a_baseline_that_verify_would_refuse_gets_no_verdict(tmp_path: Path) -> None:
    reference, samples, fewer = (batch(tmp_path / f"{n}.npz", n, seed=n) for n in (30, 40, 20))
    result = evaluate(reference, samples, baseline=fewer, network=QuadrantMeans(), replicates=5)
    found = result["baseline"]["comparison"]["fd/quadrants"]
    assert found["verdict"] == "not comparable"
    assert found["not_comparable"] == ["number of samples: 20 against 40"]
    assert "baseline and samples are not comparable: number of samples: 20 against 40" in result["warnings"]
    other = batch(tmp_path / "other.npz", 40, seed=2)
    card = {"count": 40, "labels": {"type": "RandomLabels"}, "provenance": {}}
    write_json(tmp_path / "other.json", card)
    result = evaluate(reference, samples, baseline=other, network=QuadrantMeans(), replicates=5)
    found = result["baseline"]["comparison"]["fd/quadrants"]
    assert found["not_comparable"] == ["label protocol: random against unknown"]
    told = evaluate(reference, samples, baseline=other, network=QuadrantMeans(), replicates=5, labels="random")
    assert told["baseline"]["comparison"]["fd/quadrants"]["verdict"] in ("better", "worse", "undecided")


def test_reconstructions_meet_their_originals(tmp_path: Path) -> None:
    pixels, extras = images(11, 0), Extras(reconstructions=True)
    originals = batch(tmp_path / "a.npz", 11)
    plain = folder(tmp_path / "plain", pixels, [f"{index}.png" for index in range(11)])
    assert "10 comes before 2; pad numbers" in refused(originals, plain, extras=extras)
    padded = folder(tmp_path / "padded", pixels, [f"{index:02}.png" for index in range(11)])
    result = evaluate(originals, padded, extras=extras, network=QuadrantMeans(), replicates=5)
    assert result["metrics"]["rfd/quadrants"]["value"] == pytest.approx(0, abs=1e-9)
    shifted = folder(tmp_path / "shifted", pixels, [f"{index:02}.png" for index in range(1, 12)])
    assert "has 00 where" in refused(padded, shifted, extras=extras)
    named = folder(tmp_path / "named", pixels, [f"rec-{index:02}.webp" for index in range(11)])
    assert evaluate(padded, named, extras=extras, network=QuadrantMeans(), replicates=5)["metrics"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    one, other = batch(tmp_path / "a.npz"), batch(tmp_path / "b.npz", seed=1)
    assert "belongs to the samples; give another --out" in refused(one, other, output=Path(other))
    write_json(tmp_path / "b.json", {"count": 8})
    assert "b.json: belongs to the samples" in refused(one, other, output=tmp_path / "b.json")
    assert "give another --nearest" in refused(one, other, extras=Extras(nearest=Path(one)))
    write_json(tmp_path / "notes.json", {"mine": 1})
    assert "is no result of 'reals evaluate'" in refused(one, other, output=tmp_path / "notes.json")
    assert "is a directory; give a file as --out" in refused(one, other, output=tmp_path)
    out = tmp_path / "result.json"
    for _ in range(2):
        evaluate(one, other, output=out, network=QuadrantMeans(), replicates=5)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a directory that nobody can write")
def test_places_that_cannot_be_written_are_found_first(tmp_path: Path) -> None:
    one, other = batch(tmp_path / "a.npz"), batch(tmp_path / "b.npz", seed=1)
    assert "/proc: cannot be written" in refused(one, other, output=Path("/proc/result.json"))
    assert "give another --nearest" in refused(one, other, extras=Extras(nearest=Path("/proc/a.png")))


class Twin(Unused):
    name = "weights"


class Distance:
    fingerprint = "e" * 64

    def distances(self, images: Tensor, others: Tensor) -> Tensor:
        raise AssertionError


def test_networks_of_one_name_and_small_images(tmp_path: Path) -> None:
    one, other = batch(tmp_path / "a.npz"), batch(tmp_path / "b.npz", seed=1)
    assert "two networks are called 'weights'" in refused(one, other, extras=Extras(others=(Twin(), Twin())))
    extras = Extras(reconstructions=True, lpips=Distance())
    assert "--lpips needs images of at least 16 pixels, not 8" in refused(one, other, extras=extras)


def test_every_network_is_warned_about(tmp_path: Path) -> None:
    class Wide(QuadrantMeans):
        name = "wide"
        dimension = 40

        def __call__(self, images: np.ndarray) -> np.ndarray:
            return images.reshape(len(images), -1)[:, :40].astype(np.float32)

    reference, samples = batch(tmp_path / "a.npz", 30), batch(tmp_path / "b.npz", 30, 1)
    result = evaluate(reference, samples, network=QuadrantMeans(), extras=Extras(others=(Wide(),)), replicates=5)
    assert any("samples: 30 images leave the covariance of wide's 40 features" in one for one in result["warnings"])
    assert any("samples: 30 images, fewer than 10000" in one for one in result["warnings"])


@pytest.mark.parametrize("damage", ["asymmetric", "negative"])
def test_stored_matrices_that_are_no_covariances_are_refused(damage: str, tmp_path: Path) -> None:
    sigma = np.eye(2048)
    sigma[0, 1 if damage == "asymmetric" else 0] = -0.5
    stored = batch(tmp_path / "a.npz", mu=np.zeros(2048), sigma=sigma)
    with pytest.raises(UserError, match="'sigma' is no covariance"):
        evaluate(stored, batch(tmp_path / "b.npz", seed=1), network=CheapInception())
    # Without FID's network they are not used, which is said.
    result = evaluate(stored, batch(tmp_path / "b.npz", seed=1), network=QuadrantMeans(), replicates=5)
    assert "reference: the file stores statistics of the FID Inception network" in " ".join(result["warnings"])


def test_embeddings_without_direction_are_refused() -> None:
    good = np.ones((5, 4), np.float32)
    for bad in (np.zeros((5, 4), np.float32), np.full((5, 4), np.nan, np.float32)):
        with pytest.raises(ValueError, match="not finite or zero"):
            clip_distance(good, bad, "clip", Settings())


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert _dispatch([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    return shown


def test_flags_that_would_be_ignored_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = batch(tmp_path / "a.npz"), batch(tmp_path / "b.npz", seed=1)
    assert "--kept says" in told(capsys, "evaluate", one, other, "--kept", 5)
    assert "--inception-sha256 is of" in told(capsys, "evaluate", one, other, "--inception-sha256", "any")
    making = ("evaluate", "--make-reference", one, tmp_path / "new.npz", "--inception", "weights.pth")
    assert "leave out --baseline" in told(capsys, *making, "--baseline", other)
    assert "leave out --out" in told(capsys, *making, "--out", tmp_path / "new.json")
    assert "missing SAMPLES" in told(capsys, "evaluate", one, "")
    (tmp_path / "d.npz").mkdir()
    assert "is a directory; give a file as OUT.npz" in told(
        capsys, "evaluate", "--make-reference", one, tmp_path / "d.npz", *making[-2:]
    )
    assert "cannot be read" in told(capsys, "verify", tmp_path, one)


def card(**protocol: Any) -> dict[str, Any]:
    described = {"images": 10, "size": "8x8", "sha256": "1" * 64}
    common = {"reference": described, "samples": described, "labels": "random", "network": {"sha256": "2" * 64}}
    names = ("fid", "rfid", "rfid_infinity", "fd/dino", "kd/dino", "precision", "inception_score", "psnr", "new")
    return {"metrics": {name: {} for name in names}, "protocol": {**common, **protocol}}


def test_stored_statistics_matter_to_what_reads_them() -> None:
    described = card()["protocol"]["reference"]
    one, other = (card(reference={**described, "statistics_sha256": digest * 64}) for digest in "34")
    differing = {name for name, reasons in differences(one, other).items() if reasons}
    assert differing == {"fid", "rfid", "rfid_infinity", "new"}
    assert differences(one, other)["new"] == ["unknown to this version of reals"]
    one, other = (
        card(reference={**described, "sha256": digest * 64, "statistics_sha256": "3" * 64}) for digest in "45"
    )
    differing = {name for name, reasons in differences(one, other).items() if reasons}
    assert differing == {"fd/dino", "kd/dino", "precision", "psnr", "new"}


def test_a_network_is_named_after_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vit-tiny").mkdir()
    monkeypatch.chdir(tmp_path / "vit-tiny")
    assert network_name(".") == "vit-tiny"
    assert network_name("facebook/dinov2-large") == "dinov2-large"

"""What ``reals evaluate`` measures besides: kernel distances, coverage, classes, copies, reconstructions."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

from reals.apps.evaluate import Extras, evaluate
from reals.cli.main import _dispatch
from reals.evaluation.foundation import clip_features, dino_features
from reals.models import lpips
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, save_state
from reals.runtime.pixels import to_pixels
from tests.apps.test_evaluate import QuadrantMeans
from tests.evaluation.cheap_inception import CheapInception
from tests.models.test_lpips import random_trunk


def _images(count: int, seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def _batch(path: Path, images: np.ndarray, **more: np.ndarray) -> str:
    np.savez(path, arr_0=images, **more)  # pyright: ignore[reportArgumentType]
    return str(path)


def test_more_measures_have_names_of_their_own(tmp_path: Path) -> None:
    reference, samples = (_batch(tmp_path / f"{seed}.npz", _images(80, seed)) for seed in range(2))
    result = evaluate(reference, samples, network=QuadrantMeans(), replicates=10, extras=Extras(more=True))
    usual = ["fd/quadrants", "precision/quadrants", "recall/quadrants"]
    more = ["kd/quadrants", "density/quadrants", "coverage/quadrants", "fd_infinity/quadrants"]
    assert list(result["metrics"]) == usual + more
    assert result["metrics"]["fd_infinity/quadrants"]["value"] < result["metrics"]["fd/quadrants"]["value"]
    remaining = "samples: fd_infinity/quadrants is free of the samples' share of the bias only: the reference's"
    assert sum(line.startswith(remaining) for line in result["warnings"]) == 1
    few = evaluate(reference, samples, network=CheapInception(), replicates=10, extras=Extras(more=True))
    assert [name for name in few["metrics"] if name not in usual][-3:] == ["kid", "density", "coverage"]
    assert any("fid is not extrapolated: extrapolation needs at least 9831" in line for line in few["warnings"])


def test_classes_are_ranked(tmp_path: Path) -> None:
    images, labels = _images(60, 0), np.arange(60) % 3
    samples = _images(30, 1)
    sample_labels = np.arange(30) % 3
    samples[sample_labels == 1] //= 4
    reference = _batch(tmp_path / "a.npz", images, arr_1=labels)
    judged = _batch(tmp_path / "b.npz", samples, arr_1=sample_labels)
    result = evaluate(reference, judged, network=QuadrantMeans(), replicates=5, extras=Extras(per_class=True))
    assert result["per_class"][0]["label"] == 1
    assert [(entry["samples"], entry["reference"]) for entry in result["per_class"]] == [(10, 20)] * 3
    with pytest.raises(UserError, match=r"c\.npz: has no classes for --per-class"):
        evaluate(
            reference,
            _batch(tmp_path / "c.npz", samples),
            network=QuadrantMeans(),
            replicates=5,
            extras=Extras(per_class=True),
        )


def test_copies_are_counted_and_shown(tmp_path: Path) -> None:
    training = _images(40, 0)
    samples = np.concatenate([_images(26, 1), training[[7, 3]]])
    extras = Extras(nearest=tmp_path / "nearest.png")
    result = evaluate(
        _batch(tmp_path / "a.npz", training),
        _batch(tmp_path / "b.npz", samples),
        network=QuadrantMeans(),
        extras=extras,
    )
    assert 2 / 28 <= result["metrics"]["copied/quadrants"]["value"] < 0.6
    picture = np.asarray(Image.open(tmp_path / "nearest.png"))
    # The first pairs are the copies and their originals: equal, side by side.
    for left in (2, 22):
        assert np.array_equal(picture[2:10, left : left + 8], picture[2:10, left + 10 : left + 18])
    assert not np.array_equal(picture[2:10, 42:50], picture[2:10, 52:60])


def test_reconstructions_are_compared_pair_by_pair(tmp_path: Path) -> None:
    originals = _images(20, 0, 16)
    noisy = np.clip(originals.astype(int) + np.random.default_rng(1).integers(-9, 10, originals.shape), 0, 255)
    reference = _batch(tmp_path / "a.npz", originals)
    samples = _batch(tmp_path / "b.npz", noisy.astype(np.uint8))
    extras = Extras(reconstructions=True)
    result = evaluate(reference, samples, network=CheapInception(), replicates=20, extras=extras)
    assert list(result["metrics"])[:5] == ["psnr", "ssim", "inception_score", "rfid", "rsfid"]
    errors = np.square(originals.astype(float) - noisy).mean(axis=(1, 2, 3))
    expected = (10 * np.log10(255**2 / errors)).mean()
    assert result["metrics"]["psnr"]["value"] == pytest.approx(expected, rel=1e-4)
    # Originals and reconstructions are resampled together, so their distance hardly varies.
    width = result["metrics"]["rfid"]["high"] - result["metrics"]["rfid"]["low"]
    apart = evaluate(reference, samples, network=CheapInception(), replicates=20)["metrics"]["fid"]
    assert apart["value"] == result["metrics"]["rfid"]["value"]
    assert width < apart["high"] - apart["low"]
    perfect = evaluate(reference, reference, network=QuadrantMeans(), replicates=5, extras=extras)
    assert "psnr" not in perfect["metrics"]
    assert any("20 reconstructions are perfect" in warning for warning in perfect["warnings"])
    assert perfect["metrics"]["rfd/quadrants"]["value"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match="need their originals, in the same order"):
        evaluate(reference, _batch(tmp_path / "c.npz", _images(9, 0, 16)), network=QuadrantMeans(), extras=extras)


def test_lpips_of_reconstructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_state(tmp_path / "vgg16.pth", random_trunk())
    originals, others = _images(5, 0, 32), _images(5, 1, 32)
    asked = ["evaluate", _batch(tmp_path / "a.npz", originals), _batch(tmp_path / "b.npz", others)]
    asked += ["--lpips", str(tmp_path / "vgg16.pth"), "--replicates", "5"]
    assert _dispatch(asked) == 2
    assert "give --reconstructions True" in capsys.readouterr().err
    asked += ["--reconstructions", "True", "--out", str(tmp_path / "out.json")]
    assert _dispatch(asked) == 2
    shown = capsys.readouterr().err
    assert "vgg16.pth" in shown
    assert "SHA-256" in shown
    monkeypatch.setattr(lpips, "Lpips", partial(lpips.Lpips, trunk_sha256=None))
    assert _dispatch(asked) == 0
    distance = lpips.Lpips(trunk=str(tmp_path / "vgg16.pth")).build("cpu")
    expected = distance.distances(to_pixels(originals), to_pixels(others)).mean().item()
    found = read_json(tmp_path / "out.json")
    assert found["metrics"]["lpips"]["value"] == pytest.approx(expected, rel=1e-5)
    assert found["metrics"]["lpips"]["low"] < expected < found["metrics"]["lpips"]["high"]
    assert found["protocol"]["lpips_sha256"] == distance.fingerprint


def test_foundation_models_add_their_distances(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**shape, patch_size=14, image_size=56)).save_pretrained(tmp_path / "dino-tiny")
    clip = CLIPVisionConfig(**shape, intermediate_size=16, patch_size=8, image_size=16, projection_dim=6)
    CLIPVisionModelWithProjection(clip).save_pretrained(tmp_path / "clip-tiny")
    others = (dino_features(str(tmp_path / "dino-tiny")), clip_features(str(tmp_path / "clip-tiny")))
    assert (others[0].dimension, others[1].dimension) == (16, 6)
    assert others[1].resize.startswith("centre square, 16x16")
    wide = _images(3, 0, 24)[:, :16]
    assert np.array_equal(others[1](wide), others[1](np.ascontiguousarray(wide[:, :, 4:20])))
    assert not np.array_equal(others[1](wide), others[1](np.ascontiguousarray(wide[:, :, :16])))
    reference, samples = (_batch(tmp_path / f"{seed}.npz", _images(8, seed)) for seed in range(2))
    result = evaluate(reference, samples, network=QuadrantMeans(), replicates=5, extras=Extras(others=others))
    added = [name for name in result["metrics"] if "quadrants" not in name]
    expected = [f"{kind}/dino-tiny" for kind in ("fd", "precision", "recall", "kd")]
    assert added == [*expected, "cmmd/clip-tiny"]
    assert set(result["protocol"]["more_networks"]) == {"dino-tiny", "clip-tiny"}
    same = evaluate(reference, reference, network=QuadrantMeans(), replicates=5, extras=Extras(others=others))
    assert same["metrics"]["cmmd/clip-tiny"]["value"] == pytest.approx(0, abs=1e-4)


def test_what_is_no_clip_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        clip_features(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no readable CLIP model"):
        clip_features(str(tmp_path / "empty"))


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_transparent_files_are_read_as_colours(mode: str, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        for index, image in enumerate(_images(8, seed)):
            Image.fromarray(image).convert(mode).save(tmp_path / name / f"{index}.png")
    result = evaluate(str(tmp_path / "a"), str(tmp_path / "b"), network=QuadrantMeans(), replicates=5)
    assert result["metrics"]["fd/quadrants"]["value"] > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "holds Python objects"),
        ({"arr_0": _images(1, 0)}, "holds 1 images"),
        ({"arr_0": np.zeros((5, 8, 8), np.uint8)}, "has shape [5, 8, 8]"),
        ({"images": _images(5, 0)}, "has no images under 'arr_0' (found: images)"),
    ],
)
def test_broken_batches_are_one_line_and_exit_code_two(
    content: dict[str, np.ndarray], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "bad.npz", **content)  # pyright: ignore[reportArgumentType]
    good = _batch(tmp_path / "good.npz", _images(8, 0))
    assert _dispatch(["evaluate", good, str(tmp_path / "bad.npz")]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_batch_cut_short_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = _batch(tmp_path / "good.npz", _images(8, 0))
    (tmp_path / "cut.npz").write_bytes(Path(good).read_bytes()[:900])
    assert _dispatch(["evaluate", good, str(tmp_path / "cut.npz")]) == 2
    assert "not a whole .npz file" in capsys.readouterr().err


def test_lpips_needs_reconstructions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = _batch(tmp_path / "good.npz", _images(8, 0))
    assert _dispatch(["evaluate", good, good, "--lpips", "vgg16.pth"]) == 2
    assert "give --reconstructions True" in capsys.readouterr().err

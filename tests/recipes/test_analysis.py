"""``reals analyze``: what it finds, refuses, writes, and does not do twice."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reals.data.scenes import SceneSource
from reals.data.store import ImageStore, prepare_images
from reals.evaluation.frechet import frechet_distance, gaussian_statistics
from reals.evaluation.inception import InceptionFeatures
from reals.models.autoencoder import AutoencoderConfig, save_autoencoder
from reals.models.lpips import Lpips
from reals.models.semantic import EfficientNetLite0
from reals.recipes import analysis, analysis_images
from reals.recipes.analysis_config import AnalysisConfig
from reals.recipes.analysis_images import measure_images
from reals.recipes.analysis_latents import Findings, Subject
from reals.recipes.analysis_panel import Panel
from reals.recipes.spaces import find_photos, find_spaces
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.io import read_json, save_state, write_json
from reals.runtime.pixels import to_pixels
from reals.runtime.seed import seed_everything
from tests.evaluation.seeded_inception import seeded_network, seeded_weights
from tests.models.test_lpips import random_trunk
from tests.recipes.runs import contents, reals

QUICK = ("--replicates", 10, "--images", 40, "--consistency-images", 10, "--equivariance-images", 10)
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories: a plain autoencoder, one of downsampling 16, what align writes, an unfinished run, images."""
    root = tmp_path_factory.mktemp("places")
    seed_everything("test analysis")
    small = AutoencoderConfig(block_channels=(8, 8), layers_per_block=1, norm_groups=4)
    save_autoencoder(small.build(), root / "plain")
    deep = AutoencoderConfig(block_channels=(8,) * 5, layers_per_block=1, norm_groups=4)
    save_autoencoder(deep.build(), root / "deep")
    save_autoencoder(small.build(), root / "output" / "autoencoder")
    recipe = {"objective": {"kl": 3e-5}, "align": {"weight": 0.2}, "data": {"image_size": 16}}
    write_json(root / "output" / "run.json", {"recipe": recipe})
    write_json(root / "unfinished" / "run.json", {"recipe": recipe})
    prepare_images(SceneSource(count=80, size=16), root / "output" / "images", 16, 0.4)
    return root


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run ``reals analyze``, which must fail with one line, and return that line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        code = reals("analyze", *arguments)
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.count("\n") == 1, err
        return err.removeprefix("reals: ").rstrip("\n")

    return run


def test_spaces_have_names_that_tell_them_apart(places: Path, tmp_path: Path) -> None:
    plain, output = find_spaces([places / "plain", places / "output"])
    assert (plain.name, plain.settings, plain.channels, plain.downsampling) == ("plain", {}, 4, 2)
    assert (output.name, output.settings) == ("output", {"kl": 3e-5, "align": 0.2})
    assert output.path == places / "output" / "autoencoder"
    assert plain.fingerprint != output.fingerprint
    for parent in ("x", "y"):
        for arm in ("baseline", "aligned"):
            shutil.copytree(places / "plain", tmp_path / parent / "run" / arm / "autoencoder")
        shutil.copy(places / "output" / "run.json", tmp_path / parent / "run" / "run.json")
    single = find_spaces([tmp_path / "x" / "run"])
    assert [(space.name, space.settings["align"]) for space in single] == [("baseline", 0.0), ("aligned", 0.2)]
    several = find_spaces([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [space.name for space in several] == [
        "x/run/baseline",
        "x/run/aligned",
        "y/run/baseline",
        "y/run/aligned",
    ]


def test_photos_come_from_data_or_the_first_directory_that_has_some(places: Path) -> None:
    found = find_photos([places / "plain", places / "output"], None, None)
    assert (found.location, found.size) == (str(places / "output" / "images"), 16)
    assert found.store is not None
    rendered = find_photos([places / "output"], "scenes:50", None)
    assert (rendered.store, rendered.size) == (None, 16)
    assert find_photos([places / "plain"], "scenes:50", 32).size == 32


def test_what_does_not_fit_costs_a_line(places: Path, tmp_path: Path, refused: Refused) -> None:
    plain, output, out = places / "plain", places / "output", tmp_path / "out"
    store = output / "images"
    assert "missing DIR" in refused() or "no directory" in refused()
    assert "no such directory; give a run of reals" in refused(places / "absent")
    assert "holds no autoencoder; give a run of reals" in refused(tmp_path)
    assert "has no finished autoencoder yet" in refused(places / "unfinished")
    assert "is given 2 times" in refused(plain, plain, "--out", out, "--data", store)
    assert f"{plain}: has no prepared images; give photos" in refused(plain)
    assert "say where to write with --out" in refused(plain, output)
    assert "images of 16 pixels, not of --image-size 32" in refused(output, "--out", out, "--image-size", 32)
    assert "give --image-size" in refused(plain, "--data", "scenes:50", "--out", out)
    assert "do not divide into two or more cells of 16" in refused(places / "deep", "--data", store, "--out", out)
    assert "no such file or folder" in refused(output, "--data", tmp_path / "nope", "--out", out)
    assert "images is 2; it must be at least 4" in refused(output, "--out", out, "--images", 2)
    assert "unknown flag '--imagez'; did you mean" in refused(output, "--imagez", 5)
    assert "no such directory; give the directory of a DINOv2" in refused(
        output, "--out", out, "--encoder", tmp_path / "dino"
    )
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert "is not empty and not an analysis" in refused(output, "--out", tmp_path / "thesis")
    assert "is a file; give a directory" in refused(output, "--out", tmp_path / "thesis" / "chapter.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis"]


def test_too_few_photos_are_named(places: Path, tmp_path: Path) -> None:
    assert reals("analyze", places / "plain", "--data", "scenes:12", "--image-size", 16, "--out", tmp_path / "o") == 2
    assert not (tmp_path / "o" / "analysis.json").exists()


@pytest.mark.slow
def test_a_run_is_analysed_once(debug_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, before = tmp_path / "out", contents(debug_run)
    assert reals("analyze", debug_run, "--out", out, *QUICK) == 0
    found = read_json(out / "analysis.json")
    assert contents(debug_run) == before
    _check(found)
    page = (out / "analysis.html").read_text()
    assert page.count("data:image/png") == 3
    assert "Map of classes" in page

    def refuse(*arguments: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(analysis, "measure_latents", refuse)
    assert reals("analyze", debug_run, "--out", out, *QUICK) == 0
    assert read_json(out / "analysis.json") == found
    with pytest.raises(AssertionError, match="measured again"):
        reals("analyze", debug_run, "--out", out, *QUICK[:-1], 11)


def _check(found: dict[str, Any]) -> None:
    """Look at what every analysis must hold."""
    baseline, aligned = found["spaces"]
    assert [space["name"] for space in found["spaces"]] == ["baseline", "aligned"]
    assert (baseline["settings"]["align"], aligned["settings"]["align"]) == (0.0, 0.1)
    for space in found["spaces"]:
        measured = space["measured"]
        kl = sum(channel["value"] for channel in space["curves"]["channels"]["kl"])
        assert measured["latents/kl"]["value"] == pytest.approx(kl)
        for view in ("crop", "flip", "blur", "grayscale", "all"):
            entry = measured[f"semantic_consistency/{view}/raw"]
            assert entry["low"] <= entry["value"] <= entry["high"]
        for network in ("efficientnet-lite0", "classifier"):
            excess = measured[f"interpolation_excess/{network}"]["value"]
            parts = [measured[f"{family}/{network}"]["value"] for family in ("interpolation_fd", "reconstructions/fd")]
            assert excess == pytest.approx(parts[0] - parts[1])
        assert set(measured["latents/max"]) == {"value"}
        assert {"lpips", "rfid"} <= set(space["not_measured"])
        assert not any("fid" in name.lower() for name in measured)
        assert len(space["curves"]["map"]) == len(found["map"]["labels"])
    assert "semantic/patch_cosine" in aligned["measured"]
    assert "no alignment heads" in baseline["not_measured"]["semantic/patch_cosine"]
    assert sum(found["diffusability"]["score"].values()) == pytest.approx(1)
    protocol = found["protocol"]
    assert protocol["data"] == "scenes:120"
    assert protocol["images"]["count"] == 40
    assert len(protocol["images"]["hash"]) == 64
    assert protocol["encoder"]["name"] == "efficientnet-lite0/16"
    assert protocol["settings"]["seed"] == 0


@pytest.mark.slow
def test_unlabelled_photos_and_an_interruption(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    source = SceneSource(count=60, size=16)
    for number in range(60):
        source.load(number).save(photos / f"{number}.png")
    arguments = (places / "plain", places / "output", "--data", photos, "--out", tmp_path / "out", "--image-size", 16)
    command = ("analyze", *arguments, *QUICK[:2], "--encoder-images", 10, "--consistency-images", 4)
    measured: list[str] = []

    def stop_at_the_second(subject: Subject, findings: Findings) -> None:
        measured.append(subject.space.name)
        if len(measured) == 2:
            raise Interrupted("stopped by SIGTERM")
        measure_images(subject, findings)

    monkeypatch.setattr(analysis, "measure_images", stop_at_the_second)
    assert reals(*command) == 130
    assert not (tmp_path / "out" / "analysis.json").exists()
    assert reals(*command) == 0
    assert measured == ["plain", "output", "output"], "the first space is not measured again"
    found = read_json(tmp_path / "out" / "analysis.json")
    assert found["map"] is None
    for space in found["spaces"]:
        assert space["not_measured"]["latents/knn_accuracy"] == "the photos have no classes"
        assert np.isfinite([entry["value"] for entry in space["measured"].values()]).all()
    assert found["diffusability"]["left_out"] == ["latents/knn_accuracy"]
    assert not re.search("Map of classes", (tmp_path / "out" / "analysis.html").read_text())


def test_a_broken_description_of_a_space_is_named(places: Path, tmp_path: Path) -> None:
    shutil.copytree(places / "plain", tmp_path / "cut")
    weights = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="holds no readable AutoencoderKL"):
        find_spaces([tmp_path / "cut"])


def test_rfid_is_measured_where_its_weights_are_given(places: Path, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "inception.pth"
    save_state(path, seeded_weights())
    assert "SHA-256" in refused(places / "output", "--out", tmp_path / "o", "--inception", path)
    store = ImageStore(places / "output" / "images")
    config = AnalysisConfig(images=6, replicates=10)
    device = torch.device("cpu")
    judge = InceptionFeatures(seeded_network())
    panel = Panel(config, store, EfficientNetLite0().build("cpu"), (), device, inception=judge)
    assert panel.identity != Panel(config, store, panel.encoder, (), device).identity
    subject, findings = Subject(find_spaces([places / "output"])[0], panel), Findings()
    analysis_images.measure_rfid(subject, findings, panel.images)
    assert findings.measured["reconstruction/rfid"].value == pytest.approx(0.0, abs=1e-6)
    rebuilt = subject.decode_all(subject.means, "Reconstruct")
    analysis_images.measure_rfid(subject, findings, rebuilt)
    photos, seen = (gaussian_statistics(judge(images)[:, :2048]) for images in (panel.images, rebuilt))
    expected = frechet_distance(photos, seen)
    assert findings.measured["reconstruction/rfid"].value == pytest.approx(expected, rel=1e-6)
    assert expected > 1.0


def test_lpips_is_measured_where_its_weights_are_given(places: Path, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "vgg16.pth"
    save_state(path, random_trunk())
    assert "it is damaged or another file" in refused(places / "output", "--out", tmp_path / "o", "--lpips", path)
    distance = Lpips(trunk=str(path), trunk_sha256=None).build("cpu")
    store = ImageStore(places / "output" / "images")
    config = AnalysisConfig(images=6, replicates=10)
    device = torch.device("cpu")
    panel = Panel(config, store, EfficientNetLite0().build("cpu"), (), device, distance)
    assert panel.identity != Panel(config, store, panel.encoder, (), device).identity
    subject, findings = Subject(find_spaces([places / "output"])[0], panel), Findings()
    rebuilt = subject.decode_all(subject.means, "Reconstruct")
    analysis_images.measure_reconstruction(subject, findings, rebuilt)
    expected = distance.distances(to_pixels(rebuilt), to_pixels(panel.images)).mean().item()
    assert findings.measured["reconstruction/lpips"].value == pytest.approx(expected, rel=1e-5)

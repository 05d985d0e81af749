"""The whole pipeline, at its smallest: it answers, goes on after any kill, and compares like with like."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reals.data.scenes import SceneSource
from reals.latents.codec import LatentCodec
from reals.recipes import stage_one, stage_two
from reals.recipes.comparison import higher_is_better
from reals.recipes.presets import preset
from reals.runtime.io import load_tensors, read_json
from tests.recipes.runs import DEBUG, contents, drive, is_event_file, reals

pytestmark = pytest.mark.slow

ARMS = ("baseline", "aligned")
WEIGHTS = ("autoencoder/diffusion_pytorch_model.safetensors", "generator/model.safetensors")
NETWORKS = ("efficientnet-lite0", "classifier")
# Where a run is killed: in, between and after stages of both arms.
MOMENTS = [
    "images/images/image-*.npy",
    "base-training/checkpoint-000000002",
    "features/plan.json",
    "baseline/autoencoder-training/checkpoint-000000002",
    "baseline/latents/plan.json",
    "baseline/generator-training/checkpoint-000000004",
    "baseline/samples/guidance-1.partial/image-00001.npy",
    "aligned/autoencoder",
    "aligned/generator-training/checkpoint-000000002",
    "aligned/samples/guidance-2.partial",
    "classifier/classifier.state.pt",
    "baseline/estimates.json",
]


def same_weights(first: Path, second: Path) -> bool:
    """Return whether two safetensors files hold the same bits under the same names."""
    one, two = load_tensors(first), load_tensors(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any training an error."""

    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("trained again")

    for module in (stage_one, stage_two):
        monkeypatch.setattr(module, "fit", refuse)


@pytest.fixture(scope="module")
def metrics(debug_run: Path) -> dict[str, Any]:
    """The answer of the debug run."""
    return read_json(debug_run / "metrics.json")


def test_a_run_leaves_everything_that_was_promised(debug_run: Path) -> None:
    for name in ("run.json", "metrics.json", "report.html", "originals.png"):
        assert (debug_run / name).stat().st_size > 0
    for arm in ARMS:
        files = contents(debug_run / arm)
        expected = {"autoencoder/config.json", "autoencoder/mean_std.json", "generator/config.json", *WEIGHTS}
        for scale in (1, 2):
            expected |= {f"samples/guidance-{scale}.{suffix}" for suffix in ("npz", "json", "png")}
        assert expected | {"reconstructions.png", "estimates.json", "timings.json"} <= files.keys()
        # Heads belong to alignment.
        assert ("autoencoder/align_heads.safetensors" in files) == (arm == "aligned")
        with np.load(debug_run / arm / "samples" / "guidance-2.npz", allow_pickle=False) as archive:
            assert (archive["arr_0"].shape, archive["arr_0"].dtype) == ((24, 16, 16, 3), np.uint8)
            assert archive["arr_1"].tolist() == [i % 10 for i in range(24)]
    assert not [name for name in contents(debug_run) if name.endswith((".partial", ".retired"))]


def test_the_metrics_say_what_was_measured(metrics: dict[str, Any]) -> None:
    assert metrics.keys() == {"format", "complete", "arms", "comparison", "speed", "protocol"}
    assert (metrics["format"], metrics["complete"]) == (1, True)
    measured = {f"reconstruction/{name}" for name in ("psnr", "ssim")}
    measured |= {f"latents/{name}" for name in ("mean", "std", "min", "max", "kl", "position_share")}
    measured |= {f"latents/{probe}_accuracy{view}" for probe in ("knn", "linear_probe") for view in ("", "_pooled")}
    measured |= {f"semantic_consistency/{name}" for name in ("raw", "raw_between", "centred", "centred_between")}
    for network in NETWORKS:
        for images in ("real", "reconstructions", "samples/guidance-1", "samples/guidance-2"):
            measured |= {f"{images}/{metric}/{network}" for metric in ("fd", "precision", "recall")}
        measured |= {f"samples/guidance-{scale}/fd_to_reconstructions/{network}" for scale in (1, 2)}
    measured |= {f"samples/guidance-{scale}/class_agreement/classifier" for scale in (1, 2)}
    for arm in ARMS:
        assert metrics["arms"][arm].keys() == measured
        assert np.isfinite(list(metrics["arms"][arm].values())).all()
        stages = metrics["speed"][arm]
        assert stages.keys() == {"autoencoder", "encode", "generator", "sample", "measure"}
        assert all(stage["seconds"] > 0 for stage in stages.values())
        assert stages["encode"]["images_per_second"] > 0
        assert stages["measure"]["images_per_second"] is None


def test_the_comparison_has_intervals(metrics: dict[str, Any]) -> None:
    comparison = metrics["comparison"]
    assert comparison.keys() == {name for name in metrics["arms"]["baseline"] if not name.startswith("real/")}
    for name, entry in comparison.items():
        assert entry["baseline"] == metrics["arms"]["baseline"][name]
        assert entry["difference"] == pytest.approx(entry["aligned"] - entry["baseline"])
        better = higher_is_better(name)
        assert entry["better"] == {None: None, True: "higher", False: "lower"}[better]
        if name in ("latents/min", "latents/max", "latents/position_share"):
            assert entry["interval"] is None
        else:
            low, high = entry["interval"]
            value = entry[entry["interval_of"]]
            assert low <= high
            assert low <= value + 1e-9 or high >= value - 1e-9
    directions = {name: entry["better"] for name, entry in comparison.items()}
    assert directions["reconstruction/psnr"] == "higher"
    assert directions["samples/guidance-1/fd/classifier"] == "lower"
    assert directions["samples/guidance-2/class_agreement/classifier"] == "higher"
    assert directions["latents/kl"] is None


def test_the_protocol_suffices_to_repeat_the_run(metrics: dict[str, Any]) -> None:
    protocol = metrics["protocol"]
    data = protocol["data"]
    assert (data["location"], data["images"], data["image_size"]) == ("scenes:120", 120, 16)
    assert data["train"] + data["held_out"] == 120
    assert len(data["classes"]) == 10
    assert len(data["fingerprint"]) == len(protocol["reference"]["hash"]) == 64
    assert protocol["reference"]["count"] == 40
    assert protocol["reconstructions"]["count"] == 24
    assert protocol["command"].startswith("reals run --recipe debug --data scenes:120 --out ")
    expected = {"count": 24, "solver": "Euler", "steps": 2, "guidance": [1.0, 2.0], "labels": "balanced"}
    expected["seed"] = preset("debug").sampling_seed
    assert {name: protocol["samples"][name] for name in expected} == expected
    assert protocol["recipe"]["name"] == "debug"
    assert protocol["bootstrap"]["replicates"] == 10
    assert protocol["feature_networks"].keys() == set(NETWORKS)
    assert protocol["feature_networks"]["efficientnet-lite0"]["seen_by_alignment"] is True
    assert protocol["feature_networks"]["classifier"]["seen_by_alignment"] is False
    for described in protocol["feature_networks"].values():
        assert len(described["fingerprint"]) == 64
    assert {"reals", "python", "torch", "diffusers", "numpy"} <= protocol["versions"].keys()
    assert "not measured" in protocol["fid"]


def test_alignment_changes_the_arm_and_nothing_else_does(debug_run: Path, metrics: dict[str, Any]) -> None:
    for name in WEIGHTS:
        assert not same_weights(debug_run / "baseline" / name, debug_run / "aligned" / name)
    arms = metrics["arms"]
    for name in arms["baseline"]:
        if name.startswith("real/"):
            assert arms["baseline"][name] == arms["aligned"][name]


def test_plain_diffusers_loads_the_autoencoder(debug_run: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    directory = debug_run / "aligned" / "autoencoder"
    plain = AutoencoderKL.from_pretrained(directory)
    codec = LatentCodec.from_directory(directory)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    # What every pipeline of diffusers does before it decodes.
    raw = latents / plain.config["scaling_factor"] + plain.config["shift_factor"]
    with torch.no_grad():
        assert torch.equal(plain.decode(raw, return_dict=False)[0], codec.decode(latents))
    statistics = read_json(directory / "mean_std.json")
    assert all(np.isfinite(statistics[name]).all() for name in ("mean", "std"))
    assert plain.config["shift_factor"] == pytest.approx(np.mean(statistics["mean"]), abs=1e-6)


def test_a_run_killed_anywhere_ends_like_one_that_was_not(debug_run: Path, tmp_path: Path) -> None:
    """SIGKILL in every stage; each restart reaches a later moment, and the end is the same to the bit."""
    out = tmp_path / "run"
    endings = drive(out, MOMENTS, *DEBUG, "--out", out)
    # A quick machine passes a moment before it is killed at the one before.
    assert len(endings) > len(MOMENTS) // 2
    assert {ending["code"] for ending in endings[:-1]} == {-signal.SIGKILL}, endings
    for arm in ARMS:
        for name in WEIGHTS:
            assert same_weights(out / arm / name, debug_run / arm / name), f"{arm}/{name}"
        for scale in (1, 2):
            name = f"samples/guidance-{scale}"
            assert (out / arm / f"{name}.png").read_bytes() == (debug_run / arm / f"{name}.png").read_bytes()
    killed, whole = read_json(out / "metrics.json"), read_json(debug_run / "metrics.json")
    for answer in (killed, whole):
        # It names the directory.
        del answer["protocol"]["command"]
    for part in ("arms", "comparison", "protocol"):
        assert killed[part] == whole[part]
    # An older checkpoint stays if the kill came while it was being deleted.
    extra = contents(out).keys() ^ contents(debug_run).keys()
    assert all("/checkpoint-" in name for name in extra if not is_event_file(name)), extra


@pytest.mark.dist
def test_arms_side_by_side_are_what_they_are_in_turn(debug_run: Path, tmp_path: Path) -> None:
    """Each arm in a process of its own, killed once together, on as many threads: the same to the bit."""
    out = tmp_path / "run"
    endings = drive(
        out, ["aligned/generator-training/checkpoint-000000002"], *DEBUG, "--side-by-side", True, "--out", out
    )
    assert [ending["code"] for ending in endings] == [-signal.SIGKILL, 0]
    for arm in ARMS:
        for name in WEIGHTS:
            assert same_weights(out / arm / name, debug_run / arm / name), f"{arm}/{name}"
    assert read_json(out / "metrics.json")["comparison"] == read_json(debug_run / "metrics.json")["comparison"]


@pytest.mark.usefixtures("no_training")
def test_a_finished_run_is_not_repeated(debug_run: Path) -> None:
    before = contents(debug_run)
    assert reals(*DEBUG, "--out", debug_run) == 0
    assert reals("report", debug_run) == 0
    assert contents(debug_run) == before


def test_without_alignment_both_arms_are_the_same(tmp_path: Path) -> None:
    """Both arms start from the same weights and see the same images, mirrors and noise at every step."""
    out = tmp_path / "run"
    smaller = ("--align.weight", 0, "--sampling.guidance-scales", 2, "--sampling.count", 12)
    assert reals("run", "--recipe", "debug", "--data", "scenes:60", "--out", out, *smaller) == 0
    for name in WEIGHTS:
        assert same_weights(out / "baseline" / name, out / "aligned" / name)
    files = [contents(out / arm) for arm in ARMS]
    assert {name for name in files[0].keys() ^ files[1].keys() if not is_event_file(name)} == set()
    for name in ("samples/guidance-2.npz", "reconstructions.png", "latents/mean-00000.npy", "estimates.json"):
        assert files[0][name] == files[1][name]
    metrics = read_json(out / "metrics.json")
    assert metrics["arms"]["baseline"] == metrics["arms"]["aligned"]
    assert {entry["difference"] for entry in metrics["comparison"].values()} == {0.0}
    # Nothing was aligned, so no semantic features were needed.
    assert not (out / "features").exists()


def test_one_arm_on_unlabelled_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for number, image in enumerate(SceneSource(count=60, size=16, seed=0).load_block(0, 60)):
        Image.fromarray(image).save(photos / f"{number:02d}.png")
    command = ("run", "--recipe", "debug", "--data", photos, "--out", out, "--arms", "aligned")
    assert reals(*command, "--sampling.count", 12) == 0
    assert "has no classes to guide by" in capsys.readouterr().err
    assert not (out / "baseline").exists()
    assert [path.name for path in sorted((out / "aligned" / "samples").glob("*.npz"))] == ["guidance-1.npz"]
    metrics = read_json(out / "metrics.json")
    assert metrics["arms"].keys() == metrics["speed"].keys() == {"aligned"}
    assert metrics["comparison"] == {}
    assert metrics["protocol"]["samples"]["guidance"] == [1.0]
    assert metrics["protocol"]["data"]["classes"] == []
    assert metrics["protocol"]["feature_networks"].keys() == {"efficientnet-lite0", "rotation"}
    measured = metrics["arms"]["aligned"]
    assert {"samples/guidance-1/fd/rotation", "reconstruction/psnr"} <= measured.keys()
    assert not [name for name in measured if "accuracy" in name or "agreement" in name or "guidance-2" in name]
    assert "guidance-1" in (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def stages(debug_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[object, ...]]]:
    """The stages of the aligned arm, one command each, done once; returns their directory and the commands."""
    root = tmp_path_factory.mktemp("stages")
    aligned, encoded, trained = root / "align", root / "encode", root / "train"
    autoencoder, generator = aligned / "autoencoder", trained / "generator"
    recipe = ("--recipe", "debug")
    commands: list[tuple[object, ...]] = [
        ("align", *recipe, "--data", "scenes:120", "--out", aligned),
        ("encode", *recipe, "--data", aligned / "images", "--autoencoder", autoencoder, "--out", encoded),
        ("train", *recipe, "--latents", encoded / "latents", "--autoencoder", autoencoder, "--out", trained),
        (
            *("sample", "--generator", generator, "--autoencoder", autoencoder, "--out", root / "samples.npz"),
            *("--count", 24, "--batch-size", 7, "--solver.steps", 2, "--guidance-scale", 2, "--precision", "float32"),
            *("--seed", preset("debug").sampling_seed),
        ),
        ("evaluate", debug_run / "aligned" / "samples" / "guidance-1.npz", root / "samples.npz", "--replicates", 5),
    ]
    for command in commands:
        assert reals(*command) == 0
    return root, commands


def test_stages_one_by_one_make_what_the_run_made(
    debug_run: Path, stages: tuple[Path, list[tuple[object, ...]]]
) -> None:
    root, _ = stages
    for directory, name in zip(("align", "train"), WEIGHTS, strict=True):
        assert same_weights(root / directory / name, debug_run / "aligned" / name)
    # Not even the batch size matters.
    name = "samples/guidance-2"
    with (
        np.load(root / "samples.npz", allow_pickle=False) as one,
        np.load(debug_run / "aligned" / f"{name}.npz", allow_pickle=False) as other,
    ):
        assert all(np.array_equal(one[array], other[array]) for array in ("arr_0", "arr_1"))
    assert (root / "samples.png").read_bytes() == (debug_run / "aligned" / f"{name}.png").read_bytes()
    assert (root / "samples.json").exists()


@pytest.mark.usefixtures("no_training")
def test_a_stage_that_is_done_is_not_repeated(
    stages: tuple[Path, list[tuple[object, ...]]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, commands = stages
    before = contents(root)
    for command in commands:
        assert reals(*command) == 0
    assert contents(root) == before
    shown = capsys.readouterr()
    assert "samples.npz: already there" in shown.err
    assert "fd/efficientnet-lite0" in shown.out
    assert "24 images of 16x16" in shown.out


def test_evaluating_images_against_themselves(debug_run: Path, tmp_path: Path) -> None:
    samples, out = debug_run / "aligned" / "samples" / "guidance-1.npz", tmp_path / "result.json"
    assert reals("evaluate", samples, samples, "--out", out, "--replicates", 5) == 0
    result = read_json(out)
    assert result["metrics"]["fd/efficientnet-lite0"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert result["metrics"]["precision/efficientnet-lite0"]["value"] == 1.0

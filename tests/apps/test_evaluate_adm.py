"""``reals evaluate`` with FID's network: the five metrics, stored statistics, a baseline, the card and the cache."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.apps.evaluate import evaluate
from reals.apps.evaluation_request import Extras
from reals.apps.evaluation_table import render
from reals.cli.main import _dispatch
from reals.cli.measures import verify
from reals.evaluation.frechet import frechet_distance, gaussian_statistics
from reals.evaluation.image_sets import ImageSet
from reals.evaluation.inception_score import inception_score
from reals.evaluation.precision_recall import precision_recall
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, save_state, write_json
from tests.apps.test_evaluate import QuadrantMeans
from tests.evaluation.cheap_inception import CheapInception
from tests.evaluation.seeded_inception import seeded_weights


def _images(count: int, seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, str]:
    for name, count, seed in (("reference", 30, 0), ("samples", 40, 1), ("better", 40, 2)):
        np.savez(tmp_path / f"{name}.npz", arr_0=_images(count, seed))
    return {name: str(tmp_path / f"{name}.npz") for name in ("reference", "samples", "better")}


def test_five_metrics_in_the_order_of_the_adm_evaluator(sets: dict[str, str]) -> None:
    network = CheapInception()
    result = evaluate(sets["reference"], sets["samples"], network=network, replicates=10)
    values = {name: entry["value"] for name, entry in result["metrics"].items()}
    assert list(values) == ["inception_score", "fid", "sfid", "precision", "recall"]
    a, b = network(_images(30, 0)), network(_images(40, 1))
    for name, part in (("fid", slice(0, 2048)), ("sfid", slice(2048, None))):
        expected = frechet_distance(gaussian_statistics(a[:, part]), gaussian_statistics(b[:, part]))
        assert values[name] == pytest.approx(expected, rel=1e-7)
    manifolds = precision_recall(a[:, :2048], b[:, :2048])
    assert (values["precision"], values["recall"]) == (manifolds.precision, manifolds.recall)
    assert values["inception_score"] == pytest.approx(inception_score([network.probabilities(b[:, :2048])])[0])
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in result["metrics"].values())
    assert "not_reported" not in result["protocol"]
    assert any("2048 features rank-deficient" in warning for warning in result["warnings"])


def test_a_set_against_itself_is_at_zero(sets: dict[str, str]) -> None:
    metrics = evaluate(sets["samples"], sets["samples"], network=CheapInception(), replicates=5)["metrics"]
    assert metrics["fid"] == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-6)
    assert metrics["sfid"]["value"] == pytest.approx(0, abs=1e-6)
    assert (metrics["precision"]["value"], metrics["recall"]["value"]) == (1.0, 1.0)


@pytest.mark.parametrize("role", ["reference", "samples"])
def test_stored_statistics_replace_computed_ones_in_either_file(
    role: str, sets: dict[str, str], tmp_path: Path
) -> None:
    network = CheapInception()
    whole = network(_images(50, 7))
    stored = {}
    for mean, covariance, part in (("mu", "sigma", slice(0, 2048)), ("mu_s", "sigma_s", slice(2048, None))):
        statistics = gaussian_statistics(whole[:, part])
        stored |= {mean: statistics.mean, covariance: statistics.covariance}
    seeds = {"reference": (30, 0), "samples": (40, 1)}
    np.savez(tmp_path / "stored.npz", arr_0=_images(*seeds[role]), **stored)
    given = sets | {role: str(tmp_path / "stored.npz")}
    result = evaluate(given["reference"], given["samples"], network=network, replicates=5)
    other = "samples" if role == "reference" else "reference"
    expected = frechet_distance(
        gaussian_statistics(whole[:, :2048]), gaussian_statistics(network(_images(*seeds[other]))[:, :2048])
    )
    assert result["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-7)
    plain = evaluate(sets["reference"], sets["samples"], network=network, replicates=5)["metrics"]
    for name in ("inception_score", "precision", "recall"):
        assert result["metrics"][name] == plain[name]
    assert len(result["protocol"][role]["statistics_sha256"]) == 64
    assert ("are they the wrong way round?" in " ".join(result["warnings"])) == (role == "samples")


def test_statistics_for_fid_alone_leave_sfid_out(sets: dict[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "stored.npz", arr_0=_images(30, 0), mu=np.zeros(2048), sigma=np.eye(2048))
    result = evaluate(str(tmp_path / "stored.npz"), sets["samples"], network=CheapInception(), replicates=5)
    assert list(result["metrics"]) == ["inception_score", "fid", "precision", "recall"]
    assert any("so there is no sfid" in warning for warning in result["warnings"])


def test_a_baseline_is_compared_with_intervals(sets: dict[str, str]) -> None:
    network = CheapInception()
    result = evaluate(sets["reference"], sets["samples"], baseline=sets["better"], network=network, replicates=20)
    alone = evaluate(sets["reference"], sets["better"], network=network, replicates=20)
    assert result["baseline"]["metrics"] == alone["metrics"]
    found = result["baseline"]["comparison"]["fid"]
    assert found["difference"] == pytest.approx(result["metrics"]["fid"]["value"] - alone["metrics"]["fid"]["value"])
    low, high = found["difference_interval"]
    assert low < found["difference"] < high
    assert not found["higher_is_better"]
    assert "verdict" in found
    table = render(result, width=160)
    assert "baseline: 40 images" in table
    assert found["verdict"] in table


def test_one_line_holds_what_a_reader_must_know(sets: dict[str, str]) -> None:
    result = evaluate(sets["reference"], sets["samples"], network=CheapInception(), replicates=5, labels="balanced")
    line = render(result).splitlines()[-1]
    for part in ("40 samples", "labels balanced", "30 images", "inception-2015-12-05", "299x299", "float32", "8x8"):
        assert part in line
    assert result["sha256"][:12] in line


def test_labels_are_read_from_the_card_beside_samples(sets: dict[str, str]) -> None:
    card = {"count": 40, "labels": {"type": "RandomLabels"}, "provenance": {"generator": "ab" * 32}}
    write_json(Path(sets["samples"]).with_suffix(".json"), card)
    network = CheapInception()
    result = evaluate(sets["reference"], sets["samples"], network=network, replicates=5)
    assert result["protocol"]["labels"] == "random"
    assert result["protocol"]["samples"]["made"] == card
    assert "made by generator abababababab" in render(result)
    other = evaluate(sets["reference"], sets["better"], network=network, replicates=5)
    assert other["protocol"]["labels"] == "unknown"


def test_features_are_computed_once_for_the_same_pixels(sets: dict[str, str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    network = CheapInception()
    first = evaluate(sets["reference"], sets["samples"], network=network, replicates=5, cache=cache)
    assert network.seen == 70
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, image in enumerate(_images(40, 1)):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    again = evaluate(sets["reference"], str(folder), network=network, replicates=5, cache=cache)
    assert network.seen == 70
    assert again["metrics"] == first["metrics"]
    evaluate(sets["reference"], sets["samples"], network=CheapInception(1), replicates=5, cache=cache)
    assert len(list(cache.iterdir())) == 4
    # A file cut short is computed again.
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    assert evaluate(sets["reference"], sets["samples"], network=network, replicates=5, cache=cache) == first
    assert network.seen == 140


def test_images_are_read_once_where_all_features_are_known(
    sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, blocks = Counter(), ImageSet.blocks

    def watch(images: ImageSet, *arguments: int) -> Iterator[np.ndarray]:
        for block in blocks(images, *arguments):
            read[Path(images.location).stem] += len(block)
            yield block

    monkeypatch.setattr(ImageSet, "blocks", watch)
    counts = {"reference": 30, "samples": 40, "better": 40}
    # Once for the name in the cache, which the pixels decide, and once by each network that does not know them.
    for times in (3, 1):
        read.clear()
        evaluate(
            sets["reference"],
            sets["samples"],
            baseline=sets["better"],
            network=CheapInception(),
            extras=Extras(others=(QuadrantMeans(),)),
            replicates=5,
            cache=tmp_path / "cache",
        )
        assert read == {name: times * count for name, count in counts.items()}


def test_features_that_are_not_finite_are_one_line(sets: dict[str, str]) -> None:
    class Broken(CheapInception):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            return super().__call__(images) * np.float32("nan")

    with pytest.raises(UserError, match=r"reference\.npz: features are not finite") as caught:
        evaluate(sets["reference"], sets["samples"], network=Broken(), replicates=5)
    assert "\n" not in str(caught.value)


def _verdicts(tmp_path: Path, one: dict, other: dict, capsys: pytest.CaptureFixture[str]) -> tuple[str, int]:
    write_json(tmp_path / "a.json", one)
    write_json(tmp_path / "b.json", other)
    try:
        verify([str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    except SystemExit as ended:
        return capsys.readouterr().out, int(str(ended.code))
    return capsys.readouterr().out, 0


def test_verify_says_what_may_be_compared(
    sets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def result(samples: str = "samples", seed: int = 0, **settings: str) -> dict:
        return evaluate(
            sets["reference"],
            sets[samples],
            network=CheapInception(seed),
            replicates=5,
            **settings,  # pyright: ignore
        )

    ours = result()
    assert _verdicts(tmp_path, ours, result("better"), capsys) == (
        "".join(f"{name}: comparable\n" for name in ours["metrics"]),
        0,
    )
    shown, code = _verdicts(tmp_path, ours, result(arithmetic="adm_fp16"), capsys)
    assert "fid: comparable\n" in shown
    assert "precision: not comparable; precision and recall:" in shown
    assert code == 0
    shown, code = _verdicts(tmp_path, ours, result(seed=1), capsys)
    assert shown.count("not comparable; network's sha256: 000000000000 against 000000000000") == 5
    assert code == 1
    shown, code = _verdicts(tmp_path, ours, result(labels="balanced"), capsys)
    assert "label protocol: unknown against balanced" in shown
    swapped = evaluate(sets["better"], sets["samples"], network=CheapInception(), replicates=5)
    shown, code = _verdicts(tmp_path, ours, swapped, capsys)
    assert "inception_score: comparable" in shown
    assert "fid: not comparable; reference: images" in shown
    assert "recall: not comparable; number of" not in shown


def test_verify_refuses_what_was_changed(sets: dict[str, str], tmp_path: Path) -> None:
    result = evaluate(sets["reference"], sets["samples"], network=CheapInception(), replicates=5)
    write_json(tmp_path / "true.json", result)
    result["metrics"]["fid"]["value"] = 1.0
    write_json(tmp_path / "better.json", result)
    write_json(tmp_path / "other.json", {"arms": {}})
    with pytest.raises(UserError, match=r"better\.json: was changed after it was written"):
        verify([str(tmp_path / "true.json"), str(tmp_path / "better.json")])
    with pytest.raises(UserError, match=r"other\.json: is not the result"):
        verify([str(tmp_path / "other.json"), str(tmp_path / "true.json")])
    with pytest.raises(UserError, match=r"verify: missing A\.json"):
        verify([])


def test_the_command_with_the_networks_file(
    sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights from a file, a reference batch that both programs read, cached features, exit codes."""
    monkeypatch.setenv("REALS_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "inception.pth"
    save_state(weights, seeded_weights())
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, image in enumerate(_images(5, 3, 12)):
        Image.fromarray(image).save(photos / f"{index}.png")
    batch = tmp_path / "batch.npz"
    inception = ["--inception", str(weights), "--inception-sha256", "any"]
    make = ["evaluate", "--make-reference", str(photos), str(batch), "--size", "8", "--kept", "4"]
    assert _dispatch([*make, *inception]) == 0
    with np.load(batch, allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["arr_0", "mu", "mu_s", "sigma", "sigma_s"]
        assert arrays["arr_0"].shape == (4, 8, 8, 3)
        assert arrays["sigma"].shape == (2048, 2048)
        assert arrays["mu_s"].shape == (2023,)
    np.savez(tmp_path / "few.npz", arr_0=_images(4, 1))
    out = tmp_path / "result.json"
    command = ["evaluate", str(batch), str(tmp_path / "few.npz"), "--out", str(out), "--replicates", "5", *inception]
    assert _dispatch(command) == 0
    result = read_json(out)
    assert "not the published ones" in " ".join(result["warnings"])
    assert "statistics_sha256" in result["protocol"]["reference"]
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2
    assert "inception_score" in capsys.readouterr().out
    assert _dispatch(["evaluate", str(batch), str(batch), "--inception", str(weights)]) == 2
    assert "has the SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--make-reference", "x", "y.npz"], "give --inception"),
        (["--make-reference", "x", "y.png", "--inception", "w"], "a reference batch is an .npz"),
        (["a", "--make-reference", "x", "y.npz", "--inception", "w"], "leave out REFERENCE"),
        (["--make-reference", "x", "y.npz", "--inception", "w", "--size", "0"], "--size 0"),
        ([], "missing REFERENCE"),
    ],
)
def test_arguments_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _dispatch(["evaluate", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_batch_of_images_is_never_held_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reals.evaluation import image_sets, npz_array

    np.savez(tmp_path / "many.npz", arr_0=_images(260, 0))
    largest = 0
    own = image_sets.exactly

    def watch(handle: npz_array.ByteStream, count: int) -> bytearray:
        nonlocal largest
        largest = max(largest, count)
        return own(handle, count)

    monkeypatch.setattr(image_sets, "exactly", watch)
    evaluate(str(tmp_path / "many.npz"), str(tmp_path / "many.npz"), network=CheapInception(), replicates=5)
    assert largest == 128 * 8 * 8 * 3


def test_results_are_json_that_anybody_reads(sets: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    result = evaluate(sets["reference"], sets["samples"], output=out, network=CheapInception(), replicates=5)
    assert json.loads(out.read_text()) == result
    assert os.path.getsize(out) < 10_000

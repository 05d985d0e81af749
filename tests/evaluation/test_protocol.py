"""One fact at a time: which metrics two cards that differ in it forbid to compare."""

import copy
from typing import Any

import pytest

from reals.evaluation.protocol import differences

_METRICS = (
    "inception_score",
    "fid",
    "sfid",
    "precision",
    "recall",
    "kid",
    "density",
    "coverage",
    "fid_infinity",
    "fd/dino",
    "kd/dino",
    "precision/dino",
    "cmmd/clip",
    "copied",
    "psnr",
    "lpips",
)
_PROTOCOL: dict[str, Any] = {
    "reference": {"images": 10, "size": "8x8", "sha256": "a", "statistics_sha256": "b"},
    "samples": {"images": 20, "size": "8x8", "sha256": "c", "statistics_sha256": "d"},
    "labels": "random",
    "network": {"name": "inception", "sha256": "e", "resize": "299x299", "precision": "float32"},
    "more_networks": {
        name: {"name": name, "sha256": name, "resize": "224x224", "precision": "float32"} for name in ("dino", "clip")
    },
    "lpips_sha256": "f",
    "frechet": "symmetric",
    "inception_score": "chunks",
    "precision_recall": "exact",
}
_FID_NETWORK = {name for name in _METRICS if "/" not in name} - {"psnr", "lpips"}
_ITEMS = {"precision", "recall", "kid", "density", "coverage", "copied", "psnr", "lpips"}
_ELSEWHERE = {"fd/dino", "kd/dino", "precision/dino", "cmmd/clip"}
_DINO = {"fd/dino", "kd/dino", "precision/dino"}
_OF_FID = {"fid", "sfid", "fid_infinity"}


def _refused(*path: str, value: Any = "other") -> dict[str, list[str]]:
    changed = copy.deepcopy(_PROTOCOL)
    section = changed
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    one, other = ({"metrics": dict.fromkeys(_METRICS, 0), "protocol": each} for each in (_PROTOCOL, changed))
    return {name: reasons for name, reasons in differences(one, other).items() if reasons}


@pytest.mark.parametrize(
    ("path", "reason", "metrics"),
    [
        ("samples.images", "number of samples: 20 against other", set(_METRICS)),
        ("samples.size", "size of the images: 8x8 against other", set(_METRICS)),
        ("labels", "label protocol: random against other", set(_METRICS)),
        ("network.sha256", "network's sha256: e against other", _FID_NETWORK),
        ("network.resize", "network's resize: 299x299 against other", _FID_NETWORK),
        ("network.precision", "network's precision: float32 against other", _FID_NETWORK),
        ("more_networks.dino.sha256", "network's sha256: dino against other", _DINO),
        ("more_networks.clip.resize", "network's resize: 224x224 against other", {"cmmd/clip"}),
        ("frechet", "Fréchet formula: symmetric against other", _OF_FID | {"fd/dino"}),
        ("reference.statistics_sha256", "reference: statistics b against statistics other", _OF_FID),
        ("reference.sha256", "reference's images: a against other", _ITEMS | _ELSEWHERE),
        ("samples.statistics_sha256", "samples' stored statistics: d against other", _OF_FID),
        ("lpips_sha256", "LPIPS's weights: f against other", {"lpips"}),
        (
            "precision_recall",
            "precision and recall: exact against other",
            {"precision", "recall", "precision/dino"},
        ),
        ("inception_score", "Inception Score: chunks against other", {"inception_score"}),
    ],
)
def test_a_fact_forbids_what_depends_on_it(path: str, reason: str, metrics: set[str]) -> None:
    assert _refused(*path.split(".")) == {name: [reason] for name in _METRICS if name in metrics}


def test_images_stand_for_a_reference_without_stored_statistics() -> None:
    found = _refused("reference", "statistics_sha256", value=None)
    assert found == {name: ["reference: statistics b against images a"] for name in ("fid", "sfid", "fid_infinity")}


@pytest.mark.parametrize("path", ["samples.sha256", "reference.images", "versions"])
def test_other_facts_forbid_nothing(path: str) -> None:
    assert _refused(*path.split(".")) == {}

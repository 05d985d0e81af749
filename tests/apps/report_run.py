"""A made-up run directory: plausible numbers, tiny pictures, short logs."""

import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image

SEEN, UNSEEN = "efficientnet-lite0", "classifier"
ARMS = ("baseline", "aligned")


def change(
    baseline: float,
    aligned: float,
    better: str | None,
    spread: float = 0.02,
    interval_of: str = "relative_change",
) -> dict[str, Any]:
    """Return an entry of the comparison whose interval is the change plus or minus ``spread``."""
    value = aligned / baseline - 1 if interval_of == "relative_change" else aligned - baseline
    return {
        "baseline": baseline,
        "aligned": aligned,
        "difference": aligned - baseline,
        "relative_change": aligned / baseline - 1,
        "interval": [value - spread, value + spread],
        "interval_of": interval_of,
        "better": better,
    }


def comparison() -> dict[str, dict[str, Any]]:
    """Return a comparison in which alignment helps, at a price in reconstruction."""
    entries = {
        "reconstruction/psnr": change(27.40, 26.88, "higher", 0.003),
        "reconstruction/ssim": change(0.912, 0.903, "higher", 0.002),
        "latents/mean": change(0.021, 0.034, None, 0.9),
        "latents/std": change(0.98, 1.04, None, 0.004),
        "latents/knn_accuracy": change(0.233, 0.425, "higher", 0.09),
        "latents/knn_accuracy_pooled": change(0.21, 0.39, "higher", 0.09),
        "latents/linear_probe_accuracy": change(0.330, 0.445, "higher", 0.06),
        "latents/linear_probe_accuracy_pooled": change(0.235, 0.372, "higher", 0.08),
        "latents/position_share": change(0.012, 0.151, None, 0.02, "difference"),
        "latents/kl": change(475.0, 582.0, None, 0.01),
        "semantic_consistency/raw": change(0.234, 0.476, None, 0.04),
        "semantic_consistency/raw_between": change(0.004, 0.202, None, 0.01, "difference"),
        "semantic_consistency/centred": change(0.231, 0.343, None, 0.04),
        "semantic_consistency/centred_between": change(0.003, 0.016, None, 0.004, "difference"),
        f"reconstructions/fd/{UNSEEN}": change(0.41, 0.52, "lower", 0.06),
        f"reconstructions/fd/{SEEN}": change(120.4, 131.0, "lower", 0.03),
    }
    for scale, factor in ((1, 1.0), (3, 0.8)):
        prefix = f"samples/guidance-{scale}"
        entries |= {
            f"{prefix}/fd/{UNSEEN}": change(3.02 * factor, 2.39 * factor**1.3, "lower", 0.055),
            f"{prefix}/fd/{SEEN}": change(370.6 * factor, 352.0 * factor, "lower", 0.02),
            f"{prefix}/precision/{UNSEEN}": change(0.61 / factor, 0.64 / factor, "higher", 0.06),
            f"{prefix}/recall/{UNSEEN}": change(0.31 * factor, 0.29 * factor, "higher", 0.04),
            f"{prefix}/fd_to_reconstructions/{UNSEEN}": change(1.41 * factor, 0.96 * factor, "lower", 0.07),
            f"{prefix}/class_agreement/{UNSEEN}": change(0.33 / factor, 0.42 / factor, "higher", 0.07),
        }
    return entries


def protocol() -> dict[str, Any]:
    """Return the settings of the made-up run."""
    return {
        "data": {
            "location": "photos/cifar10-train.zip",
            "fingerprint": "3f" * 32,
            "images": 50000,
            "train": 45012,
            "held_out": 4988,
            "classes": ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry"],
        },
        "reference": {"count": 10000, "hash": "a7" * 32},
        "samples": {
            "count": 2000,
            "labels": "balanced",
            "solver": "Euler",
            "steps": 50,
            "guidance": [1.0, 3.0],
            "interval": [0.0, 1.0],
            "seed": 0,
        },
        "autoencoder": {"latent_channels": 4, "downsampling": 4, "parameters": 914_000},
        "generator": {"depth": 6, "width": 192, "heads": 3, "patch_size": 2, "parameters": 4_100_000},
        "feature_networks": {
            UNSEEN: {"dimension": 128, "fingerprint": "0c" * 32, "trained_on": "this data", "seen_by_alignment": False},
            SEEN: {"dimension": 1280, "fingerprint": "9b" * 32, "trained_on": "ImageNet", "seen_by_alignment": True},
        },
        "bootstrap": {"replicates": 200, "covers": "which images were sampled, for one training seed"},
        "versions": {"reals": "0.1.0", "torch": "2.6.0", "python": "3.11.9"},
        "recipe": {
            "type": "Recipe",
            "name": "photos32",
            "seed": 0,
            "align": {"weight": 0.1},
            "stage2": {"steps": 1500},
        },
    }


def metrics() -> dict[str, Any]:
    """Return a whole ``metrics.json``."""
    entries = comparison()
    arms = {arm: {name: entry[arm] for name, entry in entries.items()} for arm in ARMS}
    for arm in ARMS:
        arms[arm] |= {f"real/fd/{UNSEEN}": 0.11, f"real/fd/{SEEN}": 38.2, "latents/min": -7.31, "latents/max": 8.02}
    stages = {"autoencoder-training": (612.0, 158.2), "generator-training": (801.0, 240.0), "samples": (96.0, 41.7)}
    speed = {
        arm: {name: {"seconds": s * (1 + 0.1 * i), "images_per_second": rate} for name, (s, rate) in stages.items()}
        for i, arm in enumerate(ARMS)
    }
    return {
        "format": 1,
        "complete": True,
        "arms": arms,
        "comparison": entries,
        "speed": speed,
        "protocol": protocol(),
    }


def single_arm() -> dict[str, Any]:
    """Return the measurements of a run of the baseline alone."""
    found = metrics()
    found["arms"].pop("aligned")
    found["speed"].pop("aligned")
    return found | {"comparison": {}}


def write_run(directory: Path, found: dict[str, Any], lines: int = 60) -> Path:
    """Write metrics, pictures and logs of a run, and return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    _picture(directory / "originals.png", 0)
    for number, arm in enumerate(found["arms"]):
        _picture(directory / arm / "reconstructions.png", 40)
        for scale in (1, 3):
            _picture(directory / arm / "samples" / f"guidance-{scale}.png", 80 + 40 * number)
        _log(directory / arm / "autoencoder-training", lines, ("mse", "kl", "align_patch", "patch_cosine"), number)
        _log(directory / arm / "generator-training", lines, (), number)
    return directory


def _picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 100, 200)).save(path)


def _log(directory: Path, lines: int, names: tuple[str, ...], number: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    noise = random.Random(number)
    with open(directory / "log.jsonl", "w", encoding="utf-8") as handle:
        for step in range(10, 10 * lines + 1, 10):
            decay = 0.6 * math.exp(-step / (3 * lines)) + 0.2 + 0.05 * number
            values = {name: decay * noise.uniform(0.8, 1.2) * (i + 1) for i, name in enumerate(("loss", *names))}
            handle.write(json.dumps({"step": step, **values, "seconds": 0.4}) + "\n")

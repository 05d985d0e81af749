"""Generation end to end with a tiny network: files, resumption, independence of the batch size."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reals.apps.generate import BalancedLabels, RandomLabels, generate, sample_latents
from reals.diffusion.gaussian import DDIM, DDPM, FixedSmall, GaussianDiffusion
from reals.diffusion.guidance import Guidance
from reals.diffusion.interpolant import GVP, VP
from reals.diffusion.objective import FlowMatching
from reals.diffusion.prediction import NoisePrediction, ScorePrediction
from reals.diffusion.process import Process, Sampler
from reals.diffusion.solvers import Euler, EulerMaruyama, Heun, Solver, StochasticHeun
from reals.models.transformer import Transformer, TransformerConfig
from reals.runtime import interrupt
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.pixels import to_uint8

Generate = Callable[..., Path]


def decode(latents: Tensor) -> np.ndarray:
    return to_uint8(latents[:, :3].tanh().repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.fixture
def network() -> Transformer:
    torch.manual_seed(0)
    network = TransformerConfig(depth=1, width=16, heads=2, patch_size=2).build(4, 4, 3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture
def make(network: Transformer, tmp_path: Path) -> Generate:
    def call(name: str = "samples.npz", decode: Callable[[Tensor], np.ndarray] = decode, **change: Any) -> Path:
        settings: dict[str, Any] = {
            "count": 10,
            "output": tmp_path / name,
            "solver": Euler(steps=3),
            "guidance": Guidance(scale=2.0),
            "labels": BalancedLabels(),
            "batch_size": 4,
        }
        return generate(network, decode, **{**settings, **change})

    return call


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays.files == ["arr_0", "arr_1"]
        return arrays["arr_0"], arrays["arr_1"]


def test_writes_the_evaluators_layout_a_card_and_a_picture(make: Generate, tmp_path: Path) -> None:
    output = make(
        solver=EulerMaruyama(steps=5), guidance=Guidance(scale=2.0, interval=(0.0, 0.75)), provenance={"w": "abc"}
    )
    images, labels = load(output)
    assert images.dtype == np.uint8
    assert images.shape == (10, 8, 8, 3)
    assert labels.dtype == np.int64
    assert labels.tolist() == [i % 3 for i in range(10)]
    assert len(np.unique(images.reshape(10, -1), axis=0)) == 10
    card = json.loads((tmp_path / "samples.json").read_text())
    assert (card["count"], card["seed"], card["labels"]["type"]) == (10, 0, "BalancedLabels")
    assert card["solver"]["steps"] == card["evaluations_per_image"] == 5
    assert card["network_forwards_per_image"] == 5 + 3  # t = 0, 0.24, 0.48, 0.72, 0.96
    assert card["guidance"]["interval"] == [0.0, 0.75]
    assert card["provenance"] == {"w": "abc"}
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.size == (8 * 66 + 2, 3 * 66 + 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.json", "samples.npz", "samples.png"]


@pytest.mark.parametrize("solver", [Euler(steps=3), EulerMaruyama(steps=4)])
def test_images_do_not_depend_on_the_batch_size(make: Generate, solver: Solver) -> None:
    three, labels = load(make("three.npz", solver=solver, batch_size=3, labels=RandomLabels()))
    seven, same_labels = load(make("seven.npz", solver=solver, batch_size=7, labels=RandomLabels()))
    assert np.array_equal(labels, same_labels)
    assert np.abs(three.astype(int) - seven.astype(int)).max() <= 1


def test_seed_decides_images_and_random_labels(make: Generate) -> None:
    settings = {"labels": RandomLabels(), "count": 40, "batch_size": 40}
    first, first_labels = load(make("a.npz", seed=1, **settings))
    again, again_labels = load(make("b.npz", seed=1, **settings))
    other, other_labels = load(make("c.npz", seed=2, **settings))
    assert np.array_equal(first, again)
    assert np.array_equal(first_labels, again_labels)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first_labels, other_labels)
    assert set(first_labels.tolist()) == {0, 1, 2}


def test_same_settings_give_the_same_bytes(make: Generate) -> None:
    assert make("a.npz").read_bytes() == make("b.npz").read_bytes()


def test_label_reaches_the_image(make: Generate) -> None:
    class Always(BalancedLabels):
        def label(self, index: int, num_classes: int, seed: int) -> int:
            return 2

    balanced, _ = load(make("balanced.npz"))
    same, _ = load(make("same.npz", labels=Always()))
    assert np.array_equal(balanced[2], same[2])
    assert not np.array_equal(balanced[1], same[1])


def test_goes_on_after_a_kill_and_does_not_repeat_what_is_done(make: Generate, tmp_path: Path) -> None:
    whole = make("whole.npz").read_bytes()
    decoded: list[int] = []

    def counting(latents: Tensor) -> np.ndarray:
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(len(latents))
        return decode(latents)

    with pytest.raises(KeyboardInterrupt):
        make(decode=counting)
    assert not (tmp_path / "samples.npz").exists()
    decoded.clear()
    assert make(decode=counting).read_bytes() == whole
    assert decoded == [2]
    assert make(decode=counting) == tmp_path / "samples.npz"
    assert decoded == [2]


def test_goes_on_with_another_batch_size_after_running_out_of_memory(make: Generate) -> None:
    whole, _ = load(make("whole.npz"))

    def greedy(latents: Tensor) -> np.ndarray:
        if len(latents) > 2:
            raise torch.OutOfMemoryError
        return decode(latents)

    with pytest.raises(UserError, match="out of memory with 4 images at once; lower the batch size"):
        make(decode=greedy)
    images, _ = load(make(decode=greedy, batch_size=2))
    assert np.abs(images.astype(int) - whole.astype(int)).max() <= 1


def test_goes_on_when_killed_between_the_images_and_the_card(make: Generate, tmp_path: Path) -> None:
    whole = make("whole.npz").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reals.apps.generate.write_json", failing)
        with pytest.raises(OSError, match="disk full"):
            make()
    assert (tmp_path / "samples.npz").exists()
    assert make().read_bytes() == whole
    assert (tmp_path / "samples.json").exists()
    assert not (tmp_path / "samples.partial").exists()


def failing(*arguments: object) -> None:
    raise OSError("disk full")


def test_stops_within_a_batch_when_asked(make: Generate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checked: list[str] = []

    def stop(where: str) -> None:
        checked.append(where)
        if "images 4 to 8" in where:
            raise Interrupted(f"stopped by SIGTERM {where}")

    monkeypatch.setattr(interrupt, "stop_if_requested", stop)
    with pytest.raises(Interrupted, match="while sampling images 4 to 8 of 10"):
        make()
    assert len(list((tmp_path / "samples.partial").glob("image-*.npy"))) == 1


def test_other_samples_are_not_overwritten(make: Generate, tmp_path: Path) -> None:
    before = make().read_bytes()
    with pytest.raises(UserError, match="made with other settings"):
        make(seed=1)
    with pytest.raises(UserError, match="made with other settings"):
        make(provenance={"weights": "others"})
    assert (tmp_path / "samples.npz").read_bytes() == before


def test_unfinished_samples_of_other_settings_are_not_mixed(make: Generate) -> None:
    with pytest.raises(UserError, match="out of memory"):
        make(decode=lambda latents: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(UserError, match=r"samples\.partial: holds arrays made with other settings"):
        make(seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "ask for at least 1"),
        ({"batch_size": 0}, "the batch size is 0"),
        ({"name": "samples.zip"}, "ends in .npz"),
    ],
)
def test_senseless_requests_are_refused(make: Generate, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**change)


def test_network_is_in_evaluation_mode_only_meanwhile(network: Transformer) -> None:
    network.train()
    modes: list[bool] = []
    latents = sample_latents(
        network,
        torch.tensor([0, 1]),
        [0, 1],
        seed=0,
        solver=Euler(steps=2),
        guidance=Guidance(),
        on_step=lambda step, x: modes.append(network.training),
    )
    assert modes == [False, False]
    assert network.training
    assert latents.shape == (2, 4, 4, 4)
    assert latents.dtype == torch.float32


@pytest.mark.parametrize(
    ("process", "solver"),
    [
        (FlowMatching(interpolant=GVP(), prediction=NoisePrediction()), Heun(steps=3)),
        (FlowMatching(interpolant=VP(), prediction=ScorePrediction()), StochasticHeun(steps=4)),
        (GaussianDiffusion(variance=FixedSmall()), DDPM(steps=4)),
        (GaussianDiffusion(variance=FixedSmall()), DDIM(steps=4, eta=0.5)),
    ],
    ids=["gvp-noise", "vp-score", "ddpm", "ddim"],
)
def test_every_process_makes_images_that_do_not_depend_on_the_batch(
    make: Generate, tmp_path: Path, process: Process, solver: Sampler
) -> None:
    settings = {"process": process, "solver": solver, "count": 7}
    three, _ = load(make("three.npz", batch_size=3, **settings))
    seven, _ = load(make("seven.npz", batch_size=7, **settings))
    # A last bit of another matrix product can fall on the other side of a half.
    assert np.abs(three.astype(int) - seven.astype(int)).max() <= 2
    assert json.loads((tmp_path / "three.json").read_text())["process"]["type"] == type(process).__name__


def test_learned_variance_is_used(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TransformerConfig(depth=1, width=16, heads=2, patch_size=2, learn_sigma=True, variance=True)
    built = network.build(4, 4, 3)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    settings: dict[str, Any] = {
        "count": 4,
        "solver": DDPM(steps=5),
        "guidance": Guidance(scale=2.0),
        "labels": BalancedLabels(),
    }
    images, _ = load(generate(built, decode, output=tmp_path / "a.npz", process=GaussianDiffusion(), **settings))
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4
    with pytest.raises(UserError, match="channels"):
        generate(built, decode, output=tmp_path / "b.npz", process=GaussianDiffusion(variance=FixedSmall()), **settings)


def test_a_weaker_network_guides(make: Generate, network: Transformer, tmp_path: Path) -> None:
    weaker = TransformerConfig(depth=1, width=8, heads=1, patch_size=2).build(4, 4, 3).train()
    plain, _ = load(make("plain.npz", guidance=Guidance()))
    unguided, _ = load(make("off.npz", guidance=Guidance(), weaker=weaker))
    guided, _ = load(make("on.npz", guidance=Guidance(scale=2.0), weaker=weaker))
    assert np.array_equal(plain, unguided)
    assert not np.array_equal(plain, guided)
    assert weaker.training
    card = json.loads((tmp_path / "on.json").read_text())
    assert card["weaker_network_forwards_per_image"] == card["evaluations_per_image"] == 3


def test_images_as_png_in_a_zip(make: Generate, tmp_path: Path) -> None:
    images, _ = load(make(png_zip=True))
    with zipfile.ZipFile(tmp_path / "samples.zip") as archive:
        assert archive.namelist() == [f"{number:06d}.png" for number in range(10)]
        for number, image in enumerate(images):
            with archive.open(f"{number:06d}.png") as entry, Image.open(entry) as picture:
                assert np.array_equal(np.asarray(picture), image)
    first = (tmp_path / "samples.zip").read_bytes()
    make("again.npz", png_zip=True)
    assert (tmp_path / "again.zip").read_bytes() == first


def test_a_solver_of_the_other_kind_is_refused_before_anything_is_written(make: Generate, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DDPM cannot sample a network trained by flow matching"):
        make(solver=DDPM(steps=2))
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_gives_nearly_the_same_images(make: Generate, tmp_path: Path) -> None:
    full, _ = load(make("full.npz"))
    half, _ = load(make("half.npz", dtype=torch.bfloat16))
    difference = np.abs(full.astype(int) - half.astype(int))
    assert 0 < difference.mean() < 5
    assert json.loads((tmp_path / "half.json").read_text())["dtype"] == "bfloat16"


_TWO_PROCESSES = """
import sys
from datetime import timedelta
from pathlib import Path
import numpy as np, torch
import torch.distributed as dist
from reals.apps.generate import BalancedLabels, generate
from reals.diffusion.guidance import Guidance
from reals.diffusion.solvers import Euler
from reals.models.transformer import TransformerConfig

if int(__import__("os").environ["WORLD_SIZE"]) > 1:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
torch.manual_seed(0)
network = TransformerConfig(depth=1, width=16, heads=2, patch_size=2).build(4, 4, 3)
for parameter in network.parameters():
    torch.nn.init.normal_(parameter, std=0.2)
decode = lambda z: z[:, :3].tanh().mul(127).add(128).byte().permute(0, 2, 3, 1).numpy()
settings = dict(count=7, solver=Euler(steps=2), guidance=Guidance(), labels=BalancedLabels(), batch_size=2)
generate(network, decode, output=Path(sys.argv[1]), **settings)
assert Path(sys.argv[1]).exists()
"""


@pytest.mark.dist
def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    def environment(rank: int, size: int) -> dict[str, str]:
        port = str(20_000 + os.getpid() % 20_000)
        ranks = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return {**os.environ, **ranks, "OMP_NUM_THREADS": "1"}

    def start(name: str, rank: int, size: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", _TWO_PROCESSES, str(tmp_path / name)], env=environment(rank, size)
        )

    processes = [start("one.npz", 0, 1), start("two.npz", 0, 2), start("two.npz", 1, 2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()

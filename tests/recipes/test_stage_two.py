"""Stage 2: what is random belongs to an image's place, features to its photo, and extras leave the weights alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reals.data.store import ImageStore
from reals.diffusion.repa import RepaConfig
from reals.latents.codec import LatentCodec
from reals.models.semantic import EfficientNetLite0
from reals.recipes.features import CachedFeatures
from reals.recipes.generator import load_generator
from reals.recipes.generator_training import GeneratorTraining
from reals.recipes.latent_batches import CachedLatents, latent_batches
from reals.recipes.preview import Preview, PreviewConfig
from reals.recipes.repa_features import open_generator_features
from reals.recipes.stage_two import PROJECTOR_NAME, open_latents
from reals.runtime import interrupt
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.io import load_tensors
from reals.runtime.pixels import to_pixels
from reals.training import loop as training_loop
from reals.training.log import read_log
from reals.training.trackers import NoTracker
from tests.latents.tiny import Encoder
from tests.recipes.latent_space import CPU, computed_features, make, recipe, train

REPA = GeneratorTraining(repa=RepaConfig(weight=0.5, block=1, hidden=8), tracker=NoTracker())
PLAIN = GeneratorTraining(tracker=NoTracker())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, autoencoder and latents; read only."""
    directory = tmp_path_factory.mktemp("space")
    make(directory)
    return directory


@pytest.fixture
def latents(root: Path) -> CachedLatents:
    return open_latents(root / "latents")


@pytest.fixture
def store(root: Path) -> ImageStore:
    return ImageStore(root / "images")


def drawn(root: Path, step: int = 0, seed: int = 0, features: Any = None, **loop: Any) -> Iterator[dict[str, Tensor]]:
    """Yield this process's micro-batches."""
    config = recipe(**loop)
    normalisation = LatentCodec.from_directory(root / "autoencoder").normalisation
    batches = latent_batches(
        open_latents(root / "latents"), normalisation, config.stage2, seed, CPU, label_dropout=0.3, features=features
    )
    for batch in batches(step):
        yield dict(batch)


def weights(generator: Path) -> dict[str, Tensor]:
    return load_tensors(generator / "model.safetensors")


def assert_same(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(("processes", "accumulate", "workers"), [(2, 1, 0), (2, 2, 0), (1, 4, 1)])
def test_any_cut_of_the_batch_draws_the_same(
    root: Path, store: ImageStore, monkeypatch: pytest.MonkeyPatch, processes: int, accumulate: int, workers: int
) -> None:
    features = computed_features(store)
    whole = list(drawn(root, features=features, batch_size=16))
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    parts = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        mine = drawn(root, features=features, batch_size=16, accumulate=accumulate, workers=workers)
        parts.append([batch for _, batch in zip(range(4 * accumulate), mine, strict=True)])
    for step, batch in enumerate(whole):
        pieces = [part[step * accumulate + micro] for part in parts for micro in range(accumulate)]
        for name, tensor in batch.items():
            assert torch.equal(torch.cat([piece[name] for piece in pieces]), tensor), (name, step)


def test_a_resumed_run_draws_what_the_whole_run_would(root: Path) -> None:
    whole, resumed = list(drawn(root)), list(drawn(root, step=3))
    assert len(resumed) == 1
    for name, tensor in whole[3].items():
        assert torch.equal(resumed[0][name], tensor)


def test_draws_have_their_distributions_and_are_independent(root: Path) -> None:
    found = list(drawn(root, batch_size=512))
    noise, quantile, labels = (torch.cat([batch[name] for batch in found]) for name in ("noise", "quantile", "labels"))
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1.0) < 0.01
    histogram = torch.histc(quantile, 8, 0.0, 1.0) / len(quantile)
    assert (histogram - 0.125).abs().max() < 0.03
    assert quantile.min() >= 0.0
    assert quantile.max() < 1.0
    dropped = labels == 10
    assert abs(dropped.float().mean() - 0.3) < 0.04
    # Neither the time nor the noise says whether a label was dropped.
    assert abs(quantile[dropped].mean() - quantile[~dropped].mean()) < 0.05
    assert len(torch.unique(noise[:, 0, 0, 0])) == len(noise)
    other = torch.cat([batch["noise"] for batch in drawn(root, seed=1, batch_size=512)])
    assert not torch.equal(noise, other)


def test_latents_and_features_are_those_of_the_same_photo_and_mirror(
    root: Path, latents: CachedLatents, store: ImageStore
) -> None:
    """From the features' colours back to the photo, from there to the posterior that the latent was drawn from."""
    normalisation = LatentCodec.from_directory(root / "autoencoder").normalisation
    photos = to_pixels(store.load(store.train))
    views = torch.cat([photos, photos.flip(3)])
    colours = Encoder()(views, (8, 8)).patch
    batch = next(drawn(root, features=computed_features(store), batch_size=32))
    found: list[int] = []
    for index, patches in enumerate(batch["patches"]):
        found.append(int((colours - patches).square().flatten(1).sum(1).argmin()))
        assert torch.equal(colours[found[-1]], patches)
        row, mirrored = found[-1] % len(photos), np.array([found[-1] >= len(photos)])
        mean, log_variance = latents.cache.posterior(np.array([row]), mirrored)
        standard = (normalisation.denormalise(batch["latents"][index]) - mean[0]) / (0.5 * log_variance[0]).exp()
        assert 0.7 < standard.std() < 1.3
        assert batch["labels"][index] in (10, latents.labels[row])
        # The noise of the path is not that of the posterior.
        assert abs(torch.corrcoef(torch.stack([standard.flatten(), batch["noise"][index].flatten()]))[0, 1]) < 0.3
    assert len(set(found)) == 32
    assert 5 < sum(one >= len(photos) for one in found) < 27


def test_features_come_from_stage_ones_cache_where_it_has_all_photos(
    root: Path, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EfficientNetLite0, "build", lambda self, device, dtype: Encoder())
    mirrored = np.array([True, False, True])
    computed = computed_features(store)(np.array([5, 0, 31]), mirrored)
    for images, used, unused in ((None, "stage-one", "own"), (10, "own", "stage-one")):
        some = recipe()
        some = replace(some, stage1=replace(some.stage1, images=images))
        place = tmp_path / str(images)
        features = open_generator_features(some, store, str(root / "plain"), place / "stage-one", place / "own", CPU)
        assert isinstance(features._source, CachedFeatures)
        assert (place / used).exists()
        assert not (place / unused).exists()
        torch.testing.assert_close(features(np.array([5, 0, 31]), mirrored), computed, rtol=0, atol=1e-3)


def test_alignment_is_trained_and_left_out_of_the_generator(
    root: Path, latents: CachedLatents, store: ImageStore, tmp_path: Path
) -> None:
    settings = {"steps": 25, "learning_rate": 5e-3, "log_every": 5, "checkpoint_every": 25}
    made = train(root, tmp_path, latents, settings, options=REPA, features=computed_features(store))
    log = read_log(tmp_path / "training")
    assert log[-1]["repa"] < log[0]["repa"] - 0.2
    for line in log:
        assert line["loss"] == pytest.approx(line["diffusion"] + 0.5 * line["repa"], rel=1e-4)
    projector = load_tensors(tmp_path / "training" / PROJECTOR_NAME)
    assert {tuple(tensor.shape) for tensor in projector.values()} == {(8, 16), (8,), (8, 8), (3, 8), (3,)}
    network, _ = load_generator(made, CPU)
    assert network.state_dict().keys() == weights(train(root, tmp_path / "plain", latents, {})).keys()


def test_alignment_starts_from_the_same_weights_and_draws(
    root: Path, latents: CachedLatents, store: ImageStore, tmp_path: Path
) -> None:
    """So the first step's diffusion loss is that of a run without it."""
    train(root, tmp_path / "plain", latents, {"steps": 1})
    train(root, tmp_path / "repa", latents, {"steps": 1}, options=REPA, features=computed_features(store))
    plain, repa = (read_log(tmp_path / name / "training")[0] for name in ("plain", "repa"))
    assert plain["loss"] == repa["diffusion"]


def test_alignment_resumes_exactly(
    root: Path, latents: CachedLatents, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = computed_features(store)
    train(root, tmp_path / "whole", latents, {}, options=REPA, features=features)
    with monkeypatch.context() as patched:
        patched.setattr(training_loop, "_stop_requested", lambda step: step == 3)
        with pytest.raises(Interrupted):
            train(root, tmp_path / "parts", latents, {}, options=REPA, features=features)
    train(root, tmp_path / "parts", latents, {}, options=REPA, features=features)
    assert interrupt.requested() is None
    assert_same(tmp_path / "whole" / "generator", tmp_path / "parts" / "generator")
    one, two = (load_tensors(tmp_path / name / "training" / PROJECTOR_NAME) for name in ("whole", "parts"))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name])


def test_the_log_is_shown_by_tensorboard_unless_told_otherwise(
    root: Path, latents: CachedLatents, tmp_path: Path
) -> None:
    train(root, tmp_path, latents, {"steps": 1}, options=GeneratorTraining())
    assert list((tmp_path / "training" / "tensorboard").glob("events.out.tfevents.*"))


def test_impossible_alignment_is_refused(root: Path, latents: CachedLatents, store: ImageStore, tmp_path: Path) -> None:
    features = computed_features(store)
    deep = replace(REPA, repa=replace(REPA.repa, block=3))
    with pytest.raises(UserError, match=r"repa\.block is 3, but the transformer has 2 blocks"):
        train(root, tmp_path, latents, {}, options=deep, features=features)
    with pytest.raises(ValueError, match="needs semantic features"):
        train(root, tmp_path, latents, {}, options=REPA)
    features.photos = "others"
    with pytest.raises(UserError, match="other photos"):
        train(root, tmp_path, latents, {}, options=REPA, features=features)


def test_further_averages_become_generators_of_their_own(root: Path, latents: CachedLatents, tmp_path: Path) -> None:
    made = train(root, tmp_path / "both", latents, {"further_ema_decays": (0.9,)})
    alone = train(root, tmp_path / "alone", latents, {"ema_decay": 0.9})
    other = made.with_name("generator-ema-0.9")
    assert_same(other, alone)
    assert load_generator(other, CPU)[1] == load_generator(made, CPU)[1]
    assert not torch.equal(weights(other)["x_embedder.proj.weight"], weights(made)["x_embedder.proj.weight"])


def test_recomputed_activations_change_nothing(root: Path, latents: CachedLatents, tmp_path: Path) -> None:
    plain = train(root, tmp_path / "plain", latents, {})
    again = train(root, tmp_path / "again", latents, {}, options=replace(PLAIN, checkpoint_activations=True))
    assert_same(plain, again)


class Colours:
    """A network whose features are mean colours."""

    name, dimension, fingerprint, resize = "colours", 3, "0", "none"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.mean(axis=(1, 2)).astype(np.float32) / 255.0


def test_previews_are_seen_and_logged_and_leave_training_alone(
    root: Path, latents: CachedLatents, store: ImageStore, tmp_path: Path
) -> None:
    seen: list[Tensor] = []

    def sample(network: nn.Module, count: int) -> np.ndarray:
        assert not network.training
        seen.append(torch.cat([parameter.flatten() for parameter in network.parameters()]))
        # A careless sampler, which uses the global generator.
        return torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8).numpy()

    plain = train(root, tmp_path / "plain", latents, {"log_every": 3})
    for every in (0, 2):
        out = tmp_path / str(every)
        preview = Preview(PreviewConfig(every=every, images=5, shown=4), sample, Colours(), store, 0)
        assert_same(plain, train(root, out, latents, {"log_every": 3}, preview=preview))
    assert not (tmp_path / "0" / "training" / "previews").exists()
    pictures = sorted(path.name for path in (tmp_path / "2" / "training" / "previews").iterdir())
    assert pictures == ["step-000000002.png", "step-000000004.png"]
    log = read_log(tmp_path / "2" / "training")
    assert [line["step"] for line in log if "fd/colours" in line] == [2, 4]
    assert [line["step"] for line in log] == [2, 3, 4]
    # What was sampled last is what was exported: the average.
    network, _ = load_generator(plain, CPU)
    exported = torch.cat([parameter.flatten() for parameter in network.parameters()])
    assert len(seen) == 2
    assert torch.equal(seen[1], exported)
    assert not torch.equal(seen[0], exported)


def test_preview_of_the_photos_themselves_is_at_no_distance(root: Path, store: ImageStore, tmp_path: Path) -> None:
    photos = store.load(store.train)
    config = PreviewConfig(every=1, images=len(photos), shown=3, reference_images=len(photos))
    near = Preview(config, lambda network, count: photos[:count], Colours(), store, 0)
    far = Preview(config, lambda network, count: 255 - photos[:count], Colours(), store, 0)
    distances = [one._look(nn.Linear(1, 1), tmp_path / "look.png")["fd/colours"] for one in (near, far)]
    assert distances[0] == pytest.approx(0.0, abs=1e-6)
    assert distances[1] > 1e-3


@pytest.mark.parametrize("setting", [{"every": -1}, {"images": 1}, {"shown": 0}, {"reference_images": 1}])
def test_nonsense_previews_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is"):
        PreviewConfig(**setting)


def train_apart(root: Path, out: Path, settings: dict[str, Any], launch: tuple[str, ...], *more: str) -> str:
    """Train with alignment in other processes and return what they print."""
    program = str(Path(__file__).with_name("latent_space.py"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launch, program, str(root), str(out), json.dumps(settings), *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_compiled_network_keeps_its_names_and_is_compiled(
    root: Path, latents: CachedLatents, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one graph, whose code generation is left out; a checkpoint of the plain network goes on in it."""
    features = computed_features(store)
    plain = train(root, tmp_path / "plain", latents, {}, options=REPA, features=features)
    with monkeypatch.context() as patched:
        patched.setattr(training_loop, "_stop_requested", lambda step: step == 2)
        with pytest.raises(Interrupted):
            train(root, tmp_path / "compiled", latents, {}, options=REPA, features=features)
    assert int(train_apart(root, tmp_path / "compiled", {}, (), "eager")) > 0
    made = weights(tmp_path / "compiled" / "generator")
    assert made.keys() == weights(plain).keys()
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(
    root: Path, latents: CachedLatents, store: ImageStore, tmp_path: Path, parallel: str
) -> None:
    settings = {"steps": 6, "learning_rate": 3e-3, "batch_size": 16, "parallel": parallel, "clip_norm": 1.0}
    one = train(root, tmp_path / "one", latents, settings, options=REPA, features=computed_features(store))
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    train_apart(root, tmp_path / "two", settings, launch)
    logs = [read_log(tmp_path / name / "training") for name in ("one", "two")]
    assert len(logs[0]) == 6
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"seconds"}:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-5), (name, mine["step"])
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(tmp_path / "two" / "generator")[name], tensor, rtol=1e-3, atol=1e-4)

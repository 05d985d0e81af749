"""From photos to the answer: every stage of every arm in order, finished ones skipped."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from reals.apps.report import write_report
from reals.data.store import ImageStore
from reals.evaluation.classifier import PhotoClassifier, shrink_to_uint8
from reals.evaluation.classifier_training import ClassifierData, train_classifier
from reals.evaluation.networks import lite_features
from reals.recipes.checks import check_networks, check_photos, check_recipe
from reals.recipes.comparison import result
from reals.recipes.data import decode_photos, open_photos
from reals.recipes.features import open_features, training_rows
from reals.recipes.measure import Judges, Measurements, measure_arm
from reals.recipes.preview import Preview
from reals.recipes.repa_features import GeneratorFeatures, open_generator_features
from reals.recipes.sampling import preview_sample, sample_images
from reals.recipes.schema import Recipe
from reals.recipes.stage_one import align_autoencoder, starting_autoencoder
from reals.recipes.stage_two import INDEX_NAME, encode_store, train_generator
from reals.recipes.workspace import ArmDirectory, RunDirectory, timed
from reals.runtime import dist, interrupt
from reals.runtime.errors import UserError
from reals.runtime.io import write_json
from reals.runtime.memory import keep_freed_memory
from reals.runtime.processes import run_together
from reals.runtime.progress import say
from reals.runtime.seed import derive_seed

_BLOCK = 1000


def prepare_process() -> torch.device:
    """Catch signals, set up memory and ranks, and return the device of this process."""
    interrupt.install()
    keep_freed_memory()
    if dist.world_size() > 1:
        # Accelerate joins the processes of a torchrun launch; stages before training already take turns.
        from reals.training.parallel import make_accelerator

        return make_accelerator("float32").device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_pipeline(location: str, out: Path, recipe: Recipe, arms: tuple[str, ...], command: str = "") -> None:
    """Train, sample and measure the arms on the photos at ``location``, then compare them.

    ``command`` is what the user typed, if they did; the results record it.

    Raises:
        UserError: the photos, the recipe or the directory will not do; the message says why.
        Interrupted: a signal asked the process to stop; what is done stays done.
    """
    device = prepare_process()
    run = RunDirectory(out)
    aligned = "aligned" in arms and recipe.aligns
    store = _open_store(location, run, recipe, device, aligned)
    start = starting_autoencoder(recipe, store, run, device)
    # Before the arms, so that neither is charged for it nor waits for the other.
    if aligned:
        open_features(recipe, store, start, run.features, device)
    if recipe.repa:
        open_generator_features(recipe, store, start, run.features, run.all_features, device)
    train_arms(recipe, store, start, run, arms, device)
    if dist.is_main():
        # The other processes are done: they would outwait the time that a collective operation may take.
        compare_run(location, recipe, store, run, arms, command, device)


def _open_store(location: str, run: RunDirectory, recipe: Recipe, device: torch.device, aligned: bool) -> ImageStore:
    """Look for every mistake that can be seen before training, then decode the photos.

    Nothing is written before what can be checked without decoding has been.
    """
    run.check(location, recipe)
    check_recipe(recipe)
    check_networks(recipe, run, device, aligned=aligned)
    photos = open_photos(location, recipe.data)
    run.claim(location, recipe)
    store = decode_photos(photos, run.images, recipe.data)
    try:
        check_photos(recipe, store)
    except UserError:
        run.discard_images()
        raise
    scales = recipe.sampling.guidance_scales
    if recipe.sampling.scales(labelled=store.labelled) != scales:
        say(f"{location}: has no classes to guide by: sampling without guidance, not at {', '.join(map(str, scales))}")
    return store


def train_arms(
    recipe: Recipe, store: ImageStore, start: str, run: RunDirectory, arms: tuple[str, ...], device: torch.device
) -> None:
    """Train every arm, in turn or, where the recipe says so and there is a CPU to share, side by side."""
    if recipe.side_by_side and len(arms) > 1 and device.type == "cpu" and dist.world_size() == 1:
        tasks = {arm: partial(_train_arm_alone, recipe, store.directory, start, run, arm) for arm in arms}
        run_together(tasks, threads=max(1, torch.get_num_threads() // len(arms)))
        return
    for arm in arms:
        train_arm(recipe.for_arm(arm), store, start, run, arm, device)


def _train_arm_alone(recipe: Recipe, images: Path, start: str, run: RunDirectory, arm: str) -> None:
    """Train one arm in a process of its own."""
    train_arm(recipe.for_arm(arm), ImageStore(images), start, run, arm, prepare_process())


def train_arm(
    recipe: Recipe, store: ImageStore, start: str, run: RunDirectory, name: str, device: torch.device
) -> None:
    """Give one arm its autoencoder, latents, generator and samples."""
    arm = run.arm(name)
    loop = recipe.stage1.loop(len(training_rows(recipe, store)))
    with timed(arm.timings, "autoencoder", arm.autoencoder, loop.steps * loop.batch_size):
        align_autoencoder(recipe, store, start, run.features, arm.autoencoder_training, arm.autoencoder, device)
    with timed(arm.timings, "encode", arm.latents / INDEX_NAME, 2 * len(store.train)):
        latents = encode_store(recipe, store, arm.autoencoder, arm.latents, device)
    with timed(arm.timings, "generator", arm.generator, recipe.stage2.steps * recipe.stage2.batch_size):
        train_generator(
            recipe,
            latents,
            arm.autoencoder,
            arm.generator_training,
            arm.generator,
            device,
            features=_repa_features(recipe, store, start, run, arm, device),
            preview=open_preview(recipe, store, arm.autoencoder, device),
        )
    scales = recipe.sampling.scales(labelled=store.labelled)
    with timed(
        arm.timings, "sample", arm.samples(scales[-1]).with_suffix(".json"), len(scales) * recipe.sampling.count
    ):
        for scale in scales:
            sample_images(
                recipe.sampling,
                arm.generator,
                arm.autoencoder,
                scale,
                arm.samples(scale),
                seed=recipe.sampling_seed,
                precision=recipe.stage2.precision,
                device=device,
            )


def _repa_features(
    recipe: Recipe, store: ImageStore, start: str, run: RunDirectory, arm: ArmDirectory, device: torch.device
) -> GeneratorFeatures | None:
    if not recipe.repa or (arm.generator / "config.json").exists():
        return None
    return open_generator_features(recipe, store, start, run.features, run.all_features, device)


def open_preview(recipe: Recipe, store: ImageStore, autoencoder: Path, device: torch.device) -> Preview | None:
    """Return what looks at the generator while it is trained, or None if the recipe does not ask for it."""
    config = recipe.generator_training.preview
    if config.every == 0:
        return None
    sample = preview_sample(recipe, autoencoder, labelled=store.labelled, device=device)
    return Preview(config, sample, lite_features(store.size, device), store, derive_seed(recipe.seed, "preview"))


def compare_run(
    location: str,
    recipe: Recipe,
    store: ImageStore,
    run: RunDirectory,
    arms: tuple[str, ...],
    command: str,
    device: torch.device,
) -> None:
    """Measure every arm by the same judges and write ``metrics.json`` and the report."""
    networks = (lite_features(store.size, device), photo_classifier(recipe, store, run.classifier, device))
    judges = Judges(recipe, store, networks)
    measured: dict[str, Measurements] = {}
    for arm in arms:
        with timed(run.arm(arm).timings, "measure", run.arm(arm).estimates):
            measured[arm] = measure_arm(judges, run, run.arm(arm), device)
    write_json(run.metrics, result(judges, run, location, command, measured))
    report = write_report(run.path)
    say(f"metrics: {run.metrics}")
    say(f"report:  {report}")


def photo_classifier(recipe: Recipe, store: ImageStore, directory: Path, device: torch.device) -> PhotoClassifier:
    """Train the network whose features alignment never sees, unless that is done."""

    def small(rows: np.ndarray) -> np.ndarray:
        """Return images shrunk block by block: at full size a large data set would not fit into memory."""
        blocks = (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))
        return np.concatenate([shrink_to_uint8(store.load(block)) for block in blocks])

    data = ClassifierData(
        train_images=small(store.train),
        train_labels=store.labels[store.train] if store.labelled else None,
        held_out_images=small(store.held_out),
        held_out_labels=store.labels[store.held_out] if store.labelled else None,
        num_classes=store.num_classes,
    )
    seed = derive_seed(recipe.seed, "classifier")
    return train_classifier(data, recipe.evaluation.classifier, directory, seed=seed, device=device)

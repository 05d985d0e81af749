from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from reals.data.sampler import StoreImages, TrainingSampler
from reals.data.store import ImageStore, prepare_images

ROWS = np.array([3, 5, 8, 13, 21, 34, 55])
KNOWN = [(55, True), (5, True), (34, True), (21, False), (8, False), (3, True), (13, True), (5, True)]


def drawn(**options) -> list[tuple[int, bool]]:
    sampler = TrainingSampler(**{"rows": ROWS, "batch_size": 4, "seed": 0, "start_step": 0, "steps": 20, **options})
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return [item for batch in batches for item in batch]


def test_a_known_order_stays_what_it_is() -> None:
    # Published runs can be repeated only while this holds, on any machine and version of NumPy.
    assert drawn(steps=2) == KNOWN


@given(step=st.integers(0, 20), batch_size=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_a_run_continued_sees_what_the_whole_run_sees(step: int, batch_size: int, seed: int) -> None:
    whole = drawn(batch_size=batch_size, seed=seed)
    assert drawn(batch_size=batch_size, seed=seed, start_step=step) == whole[step * batch_size :]


@given(world_size=st.integers(1, 4), micro_batches=st.integers(1, 4), size=st.integers(1, 3))
def test_processes_and_micro_batches_cut_the_same_global_batch(world_size: int, micro_batches: int, size: int) -> None:
    batch_size = world_size * micro_batches * size
    options = {"rows": ROWS, "batch_size": batch_size, "seed": 1, "start_step": 3, "steps": 12}
    whole = list(TrainingSampler(**options))
    pieces = [
        iter(TrainingSampler(**options, rank=rank, world_size=world_size, micro_batches=micro_batches))
        for rank in range(world_size)
    ]
    for batch in whole:
        cut = [list(islice(piece, micro_batches)) for piece in pieces]
        assert [item for rank in cut for micro_batch in rank for item in micro_batch] == batch
    assert all(next(piece, None) is None for piece in pieces)


def test_every_epoch_visits_every_row_once_in_another_order() -> None:
    items = [row for row, _ in drawn(steps=7 * 5, batch_size=4)]
    epochs = [tuple(items[start : start + 7]) for start in range(0, len(items), 7)]
    assert all(sorted(epoch) == ROWS.tolist() for epoch in epochs)
    assert len(set(epochs)) > 15


def test_a_batch_may_be_larger_than_the_data() -> None:
    counts = Counter(row for row, _ in drawn(rows=np.array([2, 4, 6]), batch_size=10, steps=3))
    assert counts == {2: 10, 4: 10, 6: 10}


def test_the_batch_size_changes_nothing_in_the_stream() -> None:
    assert drawn(batch_size=20, steps=4) == drawn(batch_size=4, steps=20)


def test_half_of_the_visits_are_mirrored() -> None:
    mirrored = [flip for _, flip in drawn(rows=np.arange(1000), batch_size=100, steps=40)]
    assert abs(np.mean(mirrored) - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert mirrored[:1000] != mirrored[1000:2000]


def test_mirroring_can_be_switched_off_without_changing_the_order() -> None:
    still = drawn(mirror=False)
    assert not any(flip for _, flip in still)
    assert [row for row, _ in still] == [row for row, _ in drawn()]


def test_seeds_differ() -> None:
    assert drawn(seed=0) != drawn(seed=1)


def test_a_finished_run_draws_nothing() -> None:
    assert drawn(start_step=20) == drawn(start_step=25) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 6, "world_size": 2, "micro_batches": 2},
            "6 is not a multiple of 2 processes x 2 micro-batches",
        ),
        ({"batch_size": 0}, "batch size 0"),
        ({"rows": np.array([], dtype=np.int64)}, "no rows to train on"),
        ({"rank": 2, "world_size": 2}, r"rank 2 is not in 0\.\.1"),
    ],
)
def test_impossible_plans(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(**options)


@pytest.fixture
def store(tmp_path: Path, memory_source, many) -> ImageStore:
    prepare_images(memory_source(many, classes=10), tmp_path, 8, 0.1)
    return ImageStore(tmp_path)


def test_batches_hold_what_was_asked_for(store: ImageStore) -> None:
    batch = StoreImages(store).__getitems__([(7, False), (7, True), (150, False)])
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "image": (torch.uint8, (3, 8, 8, 3)),
        "label": (torch.int64, (3,)),
        "row": (torch.int64, (3,)),
        "mirrored": (torch.bool, (3,)),
    }
    assert batch["row"].tolist() == [7, 7, 150]
    assert batch["label"].tolist() == [7, 7, 0]
    assert batch["mirrored"].tolist() == [False, True, False]
    np.testing.assert_array_equal(batch["image"][[0, 2]], store.load(np.array([7, 150])))
    assert torch.equal(batch["image"][1], batch["image"][0].flip(1))


def test_one_image_is_a_batch_of_one(store: ImageStore) -> None:
    images = StoreImages(store)
    assert len(images) == 200
    assert images[9, False]["row"].tolist() == [9]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_yields_the_sampler_s_batches(store: ImageStore, workers: int) -> None:
    sampler = TrainingSampler(store.train, 8, seed=0, start_step=2, steps=6, micro_batches=2)
    loader = DataLoader(StoreImages(store), batch_sampler=sampler, collate_fn=StoreImages.collate, num_workers=workers)
    batches = list(loader)
    assert len(batches) == len(loader) == 8
    asked = [list(zip(batch["row"].tolist(), batch["mirrored"].tolist(), strict=True)) for batch in batches]
    assert asked == list(sampler)
    assert all(torch.equal(batch["label"], torch.from_numpy(store.labels)[batch["row"]]) for batch in batches)

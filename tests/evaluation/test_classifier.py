import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reals.evaluation import classifier_training
from reals.evaluation.classifier import (
    RECORD_FILE,
    WEIGHTS_FILE,
    ClassifierConfig,
    class_agreement,
    load_classifier,
    shrink,
    shrink_to_uint8,
)
from reals.evaluation.classifier_training import (
    STATE_FILE,
    ClassifierData,
    augment,
    learning_rate_factor,
    rotate,
    train_classifier,
)
from reals.evaluation.networks import FeatureNetwork
from reals.runtime import interrupt
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.io import read_json, write_json

TINY = ClassifierConfig(width=4, epochs=4, batch_size=32, learning_rate=0.1)


def _data(labelled: bool = True, count: int = 192) -> ClassifierData:
    """Images bright at the top (class 0), or at the bottom (class 1)."""
    rng = np.random.default_rng(0)
    labels = np.arange(count + 64) % 2
    images = rng.integers(0, 80, (count + 64, 16, 16, 3), dtype=np.uint8)
    images[labels == 0, :8] += 150
    images[labels == 1, 8:] += 150
    if not labelled:
        images = images[labels == 0].repeat(2, axis=0)
    return ClassifierData(
        train_images=images[:count],
        train_labels=labels[:count] if labelled else None,
        held_out_images=images[count:],
        held_out_labels=labels[count:] if labelled else None,
        num_classes=2,
    )


def test_learns_classes_and_reads_back_what_it_wrote(tmp_path: Path) -> None:
    data = _data()
    classifier = train_classifier(data, TINY, tmp_path, seed=1)
    assert isinstance(classifier, FeatureNetwork)
    assert (classifier.name, classifier.dimension) == ("classifier", 16)
    assert classifier.record.held_out_accuracy is not None
    assert classifier.record.held_out_accuracy > 0.95
    assert data.held_out_labels is not None
    agreement = class_agreement(classifier.classify(data.held_out_images), data.held_out_labels)
    assert agreement.mean() == classifier.record.held_out_accuracy
    assert not (tmp_path / STATE_FILE).exists()
    again = load_classifier(tmp_path)
    assert again.record == classifier.record
    assert np.array_equal(again(data.held_out_images), classifier(data.held_out_images))
    assert again(data.held_out_images[:1]).shape == (1, 16)
    assert again.classify(data.held_out_images[:0]).shape == (0,)


def test_learns_rotations_of_unlabelled_photos(tmp_path: Path) -> None:
    classifier = train_classifier(_data(labelled=False), TINY, tmp_path)
    assert (classifier.name, classifier.record.num_classes) == ("rotation", 4)
    assert classifier.record.held_out_accuracy is not None
    assert classifier.record.held_out_accuracy > 0.9


def test_same_seed_same_weights(tmp_path: Path) -> None:
    one_epoch = ClassifierConfig(width=4, epochs=1, batch_size=32)
    prints = [
        train_classifier(_data(), one_epoch, tmp_path / name, seed=seed).fingerprint
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_stopped_run_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_classifier(_data(), TINY, tmp_path / "whole")
    calls = itertools.count()

    def stop(where: str) -> None:
        if next(calls) == 14:  # in the third epoch of six steps each
            raise Interrupted(where)

    monkeypatch.setattr(interrupt, "stop_if_requested", stop)
    with pytest.raises(Interrupted, match="epoch 3"):
        train_classifier(_data(), TINY, tmp_path / "stopped")
    assert (tmp_path / "stopped" / STATE_FILE).exists()
    assert train_classifier(_data(), TINY, tmp_path / "stopped").fingerprint == whole.fingerprint


def test_a_state_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def stop(where: str) -> None:
        if next(calls) == 7:
            raise Interrupted(where)

    monkeypatch.setattr(interrupt, "stop_if_requested", stop)
    with pytest.raises(Interrupted):
        train_classifier(_data(), TINY, tmp_path)
    with pytest.raises(UserError, match="other settings or photos"):
        train_classifier(_data(), TINY, tmp_path, seed=5)


def test_a_finished_classifier_is_reused_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_epoch = ClassifierConfig(width=4, epochs=1, batch_size=32)
    first = train_classifier(_data(), one_epoch, tmp_path)
    monkeypatch.setattr(classifier_training, "_fit", None)  # training again would fail
    assert train_classifier(_data(), one_epoch, tmp_path).fingerprint == first.fingerprint
    with pytest.raises(UserError, match="other settings or photos"):
        train_classifier(_data(count=160), one_epoch, tmp_path)


def test_weights_and_record_must_belong_together(tmp_path: Path) -> None:
    one_epoch = ClassifierConfig(width=4, epochs=1, batch_size=32)
    train_classifier(_data(), one_epoch, tmp_path / "a")
    train_classifier(_data(), one_epoch, tmp_path / "b", seed=1)
    (tmp_path / "a" / WEIGHTS_FILE).write_bytes((tmp_path / "b" / WEIGHTS_FILE).read_bytes())
    with pytest.raises(UserError, match="changed since"):
        load_classifier(tmp_path / "a")
    record = read_json(tmp_path / "b" / RECORD_FILE)
    record["num_classes"] = 7
    write_json(tmp_path / "b" / RECORD_FILE, record)
    with pytest.raises(UserError, match="not the weights"):
        load_classifier(tmp_path / "b")


def test_one_class_cannot_be_learnt(tmp_path: Path) -> None:
    data = _data()
    single = ClassifierData(data.train_images, data.train_labels, data.held_out_images, data.held_out_labels, 1)
    with pytest.raises(UserError, match="two classes"):
        train_classifier(single, TINY, tmp_path)


def test_large_photos_are_averaged_down() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pixels = shrink(images)
    assert pixels.shape == (2, 3, 32, 32)
    block = images[0, :2, :2, 0].mean() / 127.5 - 1
    assert pixels[0, 0, 0, 0].item() == pytest.approx(block, abs=1e-5)
    assert np.abs(shrink(shrink_to_uint8(images)) - pixels).max() <= 0.5 / 127.5 + 1e-6
    small = images[:, :16, :16]
    assert np.array_equal(shrink_to_uint8(small), small)


def test_augmented_images_are_shifted_copies() -> None:
    pixels = torch.arange(64.0).reshape(1, 1, 8, 8).expand(40, 1, 8, 8)
    results = augment(pixels, torch.Generator().manual_seed(0))
    assert results.shape == pixels.shape
    assert set(results.unique().tolist()) <= set(range(64))
    steps = {round((image[0, 4, 5] - image[0, 4, 4]).item()) for image in results}
    assert {1, -1} <= steps
    assert torch.equal(results, augment(pixels, torch.Generator().manual_seed(0)))


def test_rotation_by_quarter_turns() -> None:
    pixels = torch.rand(4, 1, 3, 3)
    turned = rotate(pixels, torch.arange(4))
    for turns in range(4):
        assert torch.equal(turned[turns], torch.rot90(pixels[turns], turns, dims=(1, 2)))


def test_learning_rate_rises_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert max(factors) == factors[20] == 1.0
    assert factors[0] == 0.05
    assert factors[-1] < 0.001
    assert learning_rate_factor(0, 1) == 1.0


@pytest.mark.parametrize(
    ("field", "value"), [("width", 0), ("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0), ("weight_decay", -1.0)]
)
def test_config_checks_ranges(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        ClassifierConfig(**{field: value})

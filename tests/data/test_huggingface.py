import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reals.data.decode import BrokenImage
from reals.data.huggingface import HuggingFaceSource
from reals.data.sources import open_source
from reals.runtime.errors import UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def table(columns: dict[str, list], **features) -> Any:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)


@pytest.fixture
def labelled(png: Callable[..., bytes]) -> Any:
    images = [{"bytes": png(value), "path": None} for value in (1, 2, 3)]
    return table(
        {"image": images, "label": [1, 0, 1]}, image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"])
    )


def first_bytes(source) -> list[int]:
    return [source.load(index).getpixel((0, 0))[0] for index in range(len(source))]


def refuse(location: str | Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(location)
    assert "\n" not in str(caught.value)
    for word in (str(location), *words):
        assert word in str(caught.value)


def test_parquet_file(tmp_path: Path, labelled) -> None:
    labelled.to_parquet(tmp_path / "photos.parquet")
    source = open_source(tmp_path / "photos.parquet")
    assert source.keys == ["00000000", "00000001", "00000002"]
    assert source.class_names == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 1]
    assert first_bytes(source) == [1, 2, 3]


def test_folder_of_parquet_takes_the_training_split(tmp_path: Path, labelled, capsys) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    labelled.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    labelled.select([0]).to_parquet(tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    assert first_bytes(open_source(tmp_path / "set")) == [1, 2, 3]
    assert "using the split train of train, test" in capsys.readouterr().err


def test_folder_of_parquet_without_split_names(tmp_path: Path, labelled) -> None:
    (tmp_path / "set").mkdir()
    labelled.select([0, 1]).to_parquet(tmp_path / "set" / "part-0.parquet")
    labelled.select([2]).to_parquet(tmp_path / "set" / "part-1.parquet")
    assert first_bytes(open_source(tmp_path / "set")) == [1, 2, 3]


def test_folder_of_parquet_without_training_split(tmp_path: Path, labelled) -> None:
    (tmp_path / "set").mkdir()
    for split in ("validation", "test"):
        labelled.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    refuse(tmp_path / "set", "validation, test and none named train", "give one Parquet file")


def test_fingerprint_is_of_the_contents_not_of_the_place(tmp_path: Path, labelled) -> None:
    prints = []
    for name, dataset in (("a", labelled), ("b", labelled), ("c", labelled.select([0, 1]))):
        dataset.to_parquet(tmp_path / f"{name}.parquet")
        prints.append(open_source(tmp_path / f"{name}.parquet").fingerprint())
    assert prints[0] == prints[1] != prints[2]
    relabelled = labelled.remove_columns("label").add_column("label", [0, 0, 1])
    assert HuggingFaceSource(relabelled, "memory").fingerprint() != prints[0]


def test_unique_file_names_become_keys(png) -> None:
    images = [{"bytes": png(value), "path": f"{value}.png"} for value in (2, 1)]
    assert HuggingFaceSource(table({"img": images}, img=datasets.Image()), "memory").keys == ["2.png", "1.png"]
    twice = [{**image, "path": "same.png"} for image in images]
    assert HuggingFaceSource(table({"img": twice}, img=datasets.Image()), "memory").keys == ["00000000", "00000001"]


def test_images_kept_as_paths(tmp_path: Path, png) -> None:
    (tmp_path / "a.png").write_bytes(png(9))
    source = HuggingFaceSource(table({"image": [str(tmp_path / "a.png")]}, image=datasets.Image()), "memory")
    assert first_bytes(source) == [9]
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        source.load(0)


def test_parquet_of_other_tools(png) -> None:
    files = [png(1), png(2)]
    plain = HuggingFaceSource(table({"image": files, "width": [8, 8]}), "memory")
    assert first_bytes(plain) == [1, 2]
    assert plain.labels is None, "a width is no label"
    structs = table({"picture": [{"bytes": data, "path": None} for data in files], "label": [7, 3]})
    source = HuggingFaceSource(structs, "memory")
    assert first_bytes(source) == [1, 2]
    assert source.class_names == ("3", "7")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0]


def test_several_columns_are_chosen_from_aloud(png, capsys) -> None:
    image = {"bytes": png(1), "path": None}
    columns = {"mask": [{"bytes": png(2), "path": None}], "image": [image], "fine": [1], "coarse": [0]}
    kinds = {name: datasets.ClassLabel(names=["a", "b"]) for name in ("fine", "coarse")}
    source = HuggingFaceSource(table(columns, mask=datasets.Image(), image=datasets.Image(), **kinds), "memory")
    assert first_bytes(source) == [1]
    assert source.labels is not None
    assert source.labels.tolist() == [1]
    said = capsys.readouterr().err
    assert "image column image of mask, image" in said
    assert "label column fine of fine, coarse" in said


def test_labels_that_are_all_missing_are_no_labels(labelled) -> None:
    hidden = labelled.remove_columns("label").add_column("label", [-1, -1, -1])
    assert HuggingFaceSource(hidden, "memory").labels is None
    partly = labelled.remove_columns("label").add_column("label", [-1, 0, 1])
    with pytest.raises(UserError, match="1 of 3 rows have no label"):
        HuggingFaceSource(partly, "memory")


def test_broken_rows(png) -> None:
    images = [{"bytes": png(1)[:40], "path": None}, None, {"bytes": png(2), "path": None}]
    source = HuggingFaceSource(table({"image": images}, image=datasets.Image()), "memory")
    assert len(source.fingerprint()) == 64
    with pytest.raises(BrokenImage):
        source.load(0)
    with pytest.raises(BrokenImage, match="row has no image"):
        source.load(1)
    assert np.asarray(source.load(2))[0, 0, 0] == 2


def test_no_image_column() -> None:
    with pytest.raises(UserError, match="memory: no image column among text, label"):
        HuggingFaceSource(table({"text": ["a"], "label": [0]}), "memory")


def test_no_rows() -> None:
    with pytest.raises(UserError, match="memory: no images found; the dataset has no rows"):
        HuggingFaceSource(table({"image": []}, image=datasets.Image()), "memory")


def test_truncated_parquet(tmp_path: Path, labelled) -> None:
    buffer = io.BytesIO()
    labelled.to_parquet(buffer)
    (tmp_path / "cut.parquet").write_bytes(buffer.getvalue()[:-50])
    refuse(tmp_path / "cut.parquet", "cannot be read", "copy it again")


def test_unreachable_hub() -> None:
    refuse("hf:nobody/nothing", "hub cannot be reached", "local folder")


@pytest.mark.parametrize("location", ["hf:", "hf:a b", "hf:owner/name@"])
def test_misspelt_hub_location(location: str) -> None:
    refuse(location, "write hf:owner/name")


def test_hub_location_is_taken_apart(monkeypatch: pytest.MonkeyPatch, labelled) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str):
        asked.append((name, config, split))
        return labelled

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for location in ("hf:cifar10", "hf:owner/name@small", "hf:owner/name:test", "hf:owner/name@small:train[:10]"):
        assert len(open_source(location)) == 3
    assert asked == [
        ("cifar10", None, "train"),
        ("owner/name", "small", "train"),
        ("owner/name", None, "test"),
        ("owner/name", "small", "train[:10]"),
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (datasets.exceptions.DatasetNotFoundError("gone"), "no such dataset, or it is private or gated"),
        (ValueError("Unknown split \"x\". Should be one of ['train']."), "Unknown split"),
        (FileNotFoundError("Couldn't find any data file\nmore"), "Couldn't find any data file; give a local"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer supported"),
    ],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def load_dataset(*_arguments, **_options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    refuse("hf:owner/name", words)


def test_a_split_must_be_one(monkeypatch: pytest.MonkeyPatch, labelled) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_arguments, **_options: {"train": labelled})
    refuse("hf:owner/name:all", "names several splits")

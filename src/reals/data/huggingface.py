"""Images of a Hugging Face dataset: on the hub, or in Parquet files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from reals.data.decode import BrokenImage, decode
from reals.data.layout import fingerprint_of
from reals.runtime.errors import UserError
from reals.runtime.progress import say

if TYPE_CHECKING:
    from datasets import Dataset

HUB_PREFIX = "hf:"
_HUB_LOCATION = re.compile(r"hf:(?P<name>[^@:\s]+)(@(?P<config>[^:\s]+))?(:(?P<split>\S+))?")
_DEFAULT_SPLIT = "train"
_IMAGE_NAMES = ("image", "images", "img")
_LABEL_NAMES = ("label", "labels", "class", "target", "y")


def parquet_files(directory: Path) -> list[Path]:
    """Return the Parquet files directly in ``directory`` or one folder below, where the hub's datasets keep them."""
    return sorted([*directory.glob("*.parquet"), *directory.glob("[!.]*/*.parquet")])


class HuggingFaceSource:
    """Images and labels of a dataset's rows, in the dataset's order."""

    def __init__(self, dataset: "Dataset", location: str):
        """Find the image and label columns of ``dataset``.

        Raises:
            UserError: there is no image column, no row, or some rows have a label and others none.
        """
        from datasets import Image as ImageFeature

        self.location = location
        if len(dataset) == 0:
            raise UserError(f"{location}: no images found; the dataset has no rows")
        image = _image_column(dataset, location)
        label = _label_column(dataset, location)
        # Undecoded, so that every source decodes alike and a broken image costs one row, not the run.
        images = dataset.select_columns([image]).cast_column(image, ImageFeature(decode=False))
        self._images, self._column = images, image
        flat = images.flatten()
        self.keys = _keys(flat[f"{image}.path"][:])
        self._bytes = flat.data.column(f"{image}.bytes")
        self.labels, self.class_names = (None, ()) if label is None else _labels(dataset, label, location)

    @classmethod
    def from_hub(cls, location: str) -> "HuggingFaceSource":
        """Open ``hf:owner/name[@config][:split]``; the split is "train" unless given.

        Raises:
            UserError: it is not such a location, the hub cannot be reached, or has no such dataset, config or split.
        """
        from datasets import Dataset, load_dataset

        match = _HUB_LOCATION.fullmatch(location)
        if match is None:
            raise UserError(f"{location}: not a hub dataset; write hf:owner/name, hf:owner/name@config:split at most")
        with _plain_errors(location):
            dataset = load_dataset(match["name"], match["config"], split=match["split"] or _DEFAULT_SPLIT)
        if not isinstance(dataset, Dataset):
            raise UserError(f"{location}: names several splits; give one")
        return cls(dataset, location)

    @classmethod
    def from_parquet(cls, path: Path) -> "HuggingFaceSource":
        """Open a Parquet file, or the training split of a folder of Parquet files.

        Splits are told apart by file names as the hub does (``train-00000-of-00001.parquet``).

        Raises:
            UserError: a file is damaged, or the folder has several splits and none is for training.
        """
        from datasets import Dataset, load_dataset

        location = str(path)
        with _plain_errors(location):
            files = _training_files(path) if path.is_dir() else [location]
            dataset = load_dataset("parquet", data_files=files, split="train")
        if not isinstance(dataset, Dataset):
            raise TypeError(f"{location}: expected one split, found {type(dataset).__name__}")
        return cls(dataset, location)

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, index: int) -> Image.Image:
        """Decode the image of row ``index`` to RGB.

        Raises:
            BrokenImage: it cannot be decoded, or the row has none.
        """
        cell = self._images[index][self._column]
        if cell is None:
            raise BrokenImage("the row has no image")
        if cell["bytes"] is not None:
            return decode(cell["bytes"])
        try:
            return decode(Path(cell["path"]).read_bytes())
        except OSError as error:
            raise UserError(f"{self.location}: {cell['path']}: cannot be read ({error.strerror})") from None

    def fingerprint(self) -> str:
        """Return the SHA-256 over names, byte counts, labels and class names; contents are not read."""
        from pyarrow.compute import call_function

        sizes = call_function("binary_length", [self._bytes]).to_pylist()
        labels = [-1] * len(self) if self.labels is None else self.labels.tolist()
        rows = (f"{key}\0{size}\0{label}" for key, size, label in zip(self.keys, sizes, labels, strict=True))
        return fingerprint_of([*self.class_names, *rows])


def _training_files(directory: Path) -> list[str]:
    from datasets import load_dataset_builder

    splits = load_dataset_builder("parquet", data_dir=str(directory)).config.data_files
    if not splits:
        raise UserError(f"{directory}: no Parquet files found")
    names = [str(name) for name in splits]
    if _DEFAULT_SPLIT not in names and len(names) > 1:
        raise UserError(f"{directory}: has the splits {', '.join(names)} and none named train; give one Parquet file")
    chosen = _DEFAULT_SPLIT if _DEFAULT_SPLIT in names else names[0]
    if len(names) > 1:
        say(f"{directory}: using the split {chosen} of {', '.join(names)}")
    return [str(file) for file in splits[chosen]]


@contextmanager
def _plain_errors(location: str) -> Iterator[None]:
    """Turn what ``datasets`` raises for a wrong location into one line that says what to do."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from pyarrow import ArrowInvalid

    local = "give a local folder, zip or Parquet file instead"
    try:
        yield
    except DatasetNotFoundError:
        raise UserError(
            f"{location}: the hub has no such dataset, or it is private or gated (log in with 'hf auth login'); {local}"
        ) from None
    except ConnectionError:
        raise UserError(f"{location}: the Hugging Face hub cannot be reached; check the network, or {local}") from None
    except FileNotFoundError as error:
        raise UserError(f"{location}: {_first_line(error)}; {local}") from None
    except (DatasetGenerationError, ArrowInvalid) as error:
        reason = _first_line(error.__cause__ or error)
        raise UserError(f"{location}: cannot be read ({reason}); download or copy it again") from None
    except ValueError as error:
        # An unknown configuration or split; the message lists those that exist.
        raise UserError(f"{location}: {_first_line(error)}") from None
    except RuntimeError as error:
        # A dataset that needs its own program to load.
        raise UserError(f"{location}: {_first_line(error)}; {local}") from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _preferred(candidates: list[str], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in candidates), candidates[0])


def _image_column(dataset: "Dataset", location: str) -> str:
    from datasets import Image as ImageFeature

    features = dataset.features
    candidates = [name for name, feature in features.items() if isinstance(feature, ImageFeature)]
    if not candidates:
        # Parquet written by other tools holds encoded files without saying so.
        candidates = [name for name, feature in features.items() if _holds_files(name, feature)]
    if not candidates:
        raise UserError(f"{location}: no image column among {', '.join(features) or 'no columns'}")
    chosen = _preferred(candidates, _IMAGE_NAMES)
    if len(candidates) > 1:
        say(f"{location}: using the image column {chosen} of {', '.join(candidates)}")
    return chosen


def _holds_files(name: str, feature: Any) -> bool:
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return name in _IMAGE_NAMES and getattr(feature, "dtype", None) in ("binary", "large_binary")


def _label_column(dataset: "Dataset", location: str) -> str | None:
    from datasets import ClassLabel

    features = dataset.features
    candidates = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if not candidates:
        # Only by name: any other whole number may be an identifier or a width.
        integers = [name for name, feature in features.items() if "int" in str(getattr(feature, "dtype", ""))]
        candidates = [name for name in integers if name in _LABEL_NAMES]
    if not candidates:
        return None
    chosen = _preferred(candidates, _LABEL_NAMES)
    if len(candidates) > 1:
        say(f"{location}: using the label column {chosen} of {', '.join(candidates)}")
    return chosen


def _labels(dataset: "Dataset", column: str, location: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    from datasets import ClassLabel

    values = list(dataset[column])
    missing = sum(value is None or value < 0 for value in values)
    if missing == len(values):
        return None, ()
    if missing:
        raise UserError(f"{location}: {missing} of {len(values)} rows have no {column}; label all of them or none")
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        return np.array(values, dtype=np.int64), tuple(feature.names)
    present, labels = np.unique(np.array(values, dtype=np.int64), return_inverse=True)
    return labels.astype(np.int64), tuple(str(value) for value in present.tolist())


def _keys(paths: list[str | None]) -> list[str]:
    """Name rows by their files where these are unique relative names, else by their number."""
    names = [path.replace("\\", "/") for path in paths if path]
    if len(set(names)) == len(paths) and not any(name.startswith("/") for name in names):
        return names
    return [f"{row:08d}" for row in range(len(paths))]

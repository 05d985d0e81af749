import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.evaluation.image_sets import open_images
from reals.runtime.errors import UserError

LAYOUTS = ["layout_ref", "layout_sample", "layout_sample_compressed", "layout_fortran"]


@pytest.mark.golden
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_adm_layout_is_read_in_blocks(golden: Path, name: str) -> None:
    path = golden / "metrics" / f"{name}.npz"
    expected = np.load(path, allow_pickle=False)["arr_0"]
    images = open_images(path)
    assert (len(images), images.height, images.width) == expected.shape[:3]
    blocks = list(images.blocks(4))
    assert [len(block) for block in blocks] == [4] * (len(expected) // 4) + [len(expected) % 4]
    assert np.array_equal(np.concatenate(blocks), expected)


def _images(count: int = 5, height: int = 6, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_fingerprint_is_of_pixels_not_of_files(tmp_path: Path) -> None:
    images = _images()
    np.savez(tmp_path / "plain.npz", arr_0=images)
    np.savez_compressed(tmp_path / "compressed.npz", arr_0=images)
    np.savez(tmp_path / "fortran.npz", arr_0=np.asfortranarray(images))
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "folder" / f"{index}.png")
            archive.write(tmp_path / "folder" / f"{index}.png", f"{index}.png")
    names = ("plain.npz", "compressed.npz", "fortran.npz", "folder", "photos.zip")
    assert len({open_images(tmp_path / name).fingerprint() for name in names}) == 1
    np.savez(tmp_path / "other.npz", arr_0=images[::-1])
    assert open_images(tmp_path / "other.npz").fingerprint() != open_images(tmp_path / "plain.npz").fingerprint()


def test_fingerprint_after_a_pass_reads_nothing_again(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, arr_0=_images())
    images = open_images(path)
    for _ in images.blocks(2):
        pass
    path.unlink()
    assert len(images.fingerprint()) == 64


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{"a": 1}], dtype=object), "Python objects"),
        (np.zeros((2, 4, 4, 3), np.float32), "type float32"),
        (np.zeros((2, 4, 4), np.uint8), "shape [2, 4, 4]"),
        (np.zeros((2, 4, 4, 4), np.uint8), "shape [2, 4, 4, 4]"),
        (np.zeros((0, 4, 4, 3), np.uint8), "shape [0, 4, 4, 3]"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "set.npz", arr_0=array)
    with pytest.raises(UserError) as caught:
        open_images(tmp_path / "set.npz")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_statistics_without_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", mu=np.zeros(3), sigma=np.zeros((3, 3)))
    with pytest.raises(UserError, match="found: mu, sigma"):
        open_images(tmp_path / "set.npz")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_images(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(UserError, match="not a whole"):
        open_images(tmp_path / "text.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, save: Callable[..., None], share: float) -> None:
    save(tmp_path / "set.npz", arr_0=_images(40, 16, 16))
    data = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="not a whole"):
        list(open_images(tmp_path / "set.npz").blocks(8))


def test_damage_inside_the_array_is_found_while_reading(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", arr_0=_images(40, 16, 16))
    data = bytearray((tmp_path / "set.npz").read_bytes())
    data[20_000] ^= 255
    (tmp_path / "set.npz").write_bytes(data)
    images = open_images(tmp_path / "set.npz")
    with pytest.raises(UserError, match="not a whole"):
        list(images.blocks(8))


def test_an_array_shorter_than_its_header_says_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", arr_0=_images(40, 16, 16))
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "set.npz", "w") as short:
        short.writestr("arr_0.npy", whole.read("arr_0.npy")[:-100])
    with pytest.raises(UserError, match="ends too early"):
        list(open_images(tmp_path / "set.npz").blocks(8))


def test_mixed_sizes_name_the_odd_file(tmp_path: Path) -> None:
    Image.fromarray(_images()[0]).save(tmp_path / "a.png")
    Image.fromarray(_images(1, 9, 9)[0]).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png is 9x9, a\.png is 4x6"):
        list(open_images(tmp_path).blocks(8))


def test_broken_image_files_are_named(tmp_path: Path) -> None:
    Image.fromarray(_images()[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        list(open_images(tmp_path).blocks(8))

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.evaluation import image_sets, npz_array
from reals.evaluation.image_sets import FileImages, open_images
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


def _claim(path: Path, shape: tuple[int, ...], held: int, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("arr_0.npy", "w") as handle:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)  # pyright: ignore[reportArgumentType]
        handle.write(np.random.default_rng(0).integers(0, 256, held, dtype=np.uint8).tobytes())


@pytest.mark.parametrize("shape", [(10**13, 8, 8, 3), (10, 10**6, 10**6, 3), (10**30, 8, 8, 3), (3, 8, 8, 3)])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_claims_more_than_there_is_is_refused_on_opening(
    tmp_path: Path, shape: tuple[int, ...], method: int
) -> None:
    _claim(tmp_path / "set.npz", shape, 2 * 192, method)
    with pytest.raises(UserError, match="ends too early"):
        open_images(tmp_path / "set.npz")


def _flag(path: Path, local: int, central: int, value: int) -> None:
    data = bytearray(path.read_bytes())
    data[local : local + 2] = struct.pack("<H", value)
    entry = data.rfind(b"PK\x01\x02") + central
    data[entry : entry + 2] = struct.pack("<H", value)
    path.write_bytes(data)


def test_what_zipfile_cannot_read_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    for local, central, value, message in ((6, 8, 1, "encrypted"), (8, 10, 9, "compression")):
        np.savez(path, arr_0=_images())
        _flag(path, local, central, value)
        with pytest.raises(UserError, match=message) as caught:
            list(open_images(path).blocks(2))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_damage_to_any_compression_is_told(tmp_path: Path, method: int) -> None:
    path = tmp_path / "set.npz"
    _claim(path, (200, 8, 8, 3), 200 * 192, method)
    data = bytearray(path.read_bytes())
    data[400:440] = b"\0" * 40
    path.write_bytes(data)
    with pytest.raises(UserError, match="not a whole"):
        list(open_images(path).blocks(50))


def test_labels_of_an_encrypted_array_are_told(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, arr_0=_images(), arr_1=np.arange(5))
    images = open_images(path)
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo("arr_1.npy").header_offset
    _flag(path, local + 6, 8, 1)
    with pytest.raises(UserError, match=r"'arr_1' cannot be read \(.*encrypted"):
        images.labels()


@pytest.mark.parametrize("layout", ["plain", "compressed", "fortran", "folder"])
def test_shares_of_processes_are_the_blocks_of_one(tmp_path: Path, layout: str) -> None:
    images = _images(11)
    location = tmp_path / ("set.npz" if layout != "folder" else "set")
    if layout == "folder":
        location.mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(location / f"{index:02}.png")
    elif layout == "compressed":
        np.savez_compressed(location, arr_0=images)
    else:
        np.savez(location, arr_0=np.asfortranarray(images) if layout == "fortran" else images, arr_1=np.arange(11))
    whole = list(open_images(location).blocks(2))
    for first in range(3):
        share = list(open_images(location).blocks(2, first, 3))
        assert all(np.array_equal(one, other) for one, other in zip(share, whole[first::3], strict=True))
        assert all(block.flags.writeable for block in share)
    wanted = np.array([7, 0, 10, 7])
    assert np.array_equal(open_images(location).take(wanted), images[wanted])


@pytest.mark.parametrize("extra", [b"", b"\xfe\xca\x04\x00abcd"])
def test_a_share_of_a_plain_array_reads_no_more(tmp_path: Path, extra: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    images, path = _images(40), tmp_path / "set.npz"
    np.savez(tmp_path / "whole.npz", arr_0=images)
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(path, "w") as archive:
        archive.writestr("first.txt", "of another length")
        info = zipfile.ZipInfo("arr_0.npy")
        info.extra = extra
        archive.writestr(info, whole.read("arr_0.npy"))
    opened, read = open_images(path), 0
    own = npz_array.exactly

    def count(handle: npz_array.ByteStream, size: int) -> bytearray:
        nonlocal read
        read += size
        return own(handle, size)

    monkeypatch.setattr(image_sets, "exactly", count)
    blocks = list(opened.blocks(5, 3, 4))
    assert np.array_equal(np.concatenate(blocks), np.concatenate([images[15:20], images[35:40]]))
    assert np.array_equal(opened.take(np.array([39, 1])), images[[39, 1]])
    assert read == (10 + 2) * images[0].size


def test_a_plain_array_that_shrinks_is_told_by_every_process(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", arr_0=_images(40, 16, 16))
    images = open_images(tmp_path / "set.npz")
    data = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a whole"):
        list(images.blocks(8, 1, 2))


def test_taking_a_few_files_decodes_just_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, image in enumerate(_images(9)):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    images, decoded = open_images(tmp_path), []
    own = FileImages._decode

    def watch(self: FileImages, index: int) -> Image.Image:
        decoded.append(index)
        return own(self, index)

    monkeypatch.setattr(FileImages, "_decode", watch)
    assert np.array_equal(images.take(np.array([8, 2])), _images(9)[[8, 2]])
    assert sorted(decoded) == [2, 8]


def test_names_of_classes_are_known_where_there_are_any(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(_images()[0]).save(tmp_path / "set" / name / "a.png")
    images = open_images(tmp_path / "set")
    assert images.class_names == ("cat", "dog")
    labels = images.labels()
    assert labels is not None
    assert labels.tolist() == [0, 1]
    assert open_images(tmp_path / "set" / "cat").class_names is None
    np.savez(tmp_path / "set.npz", arr_0=_images(), arr_1=np.arange(5))
    assert open_images(tmp_path / "set.npz").class_names is None


def test_a_batch_in_the_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "set.npz", arr_0=_images())
    assert len(open_images("~/set.npz")) == 5

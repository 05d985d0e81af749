import multiprocessing
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from reals.data.decode import BrokenImage
from reals.data.folder import FolderSource
from reals.data.sources import open_source
from reals.runtime.errors import UserError


@pytest.fixture(params=["folder", "zip"])
def write(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Write the same files as a folder or as a zip."""
    return request.getfixturevalue(f"write_{request.param}")


def first_byte(image) -> int:
    return image.getpixel((0, 0))[0]


def refuse(location: str | Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(location)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(location), *words):
        assert word in message


def test_class_folders(write, png) -> None:
    source = open_source(write({"dog/b.PNG": png(3), "cat/z.jpeg": png(2, kind="JPEG"), "cat/a.png": png(1)}))
    assert source.keys == ["cat/a.png", "cat/z.jpeg", "dog/b.PNG"]
    assert source.class_names == ("cat", "dog")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1]
    assert len(source) == 3
    assert [first_byte(source.load(index)) for index in (0, 2)] == [1, 3]


def test_a_class_folder_may_have_folders(write, png) -> None:
    source = open_source(write({"cat/2024/a.png": png(1), "cat/b.png": png(2), "dog/c.png": png(3)}))
    assert source.keys == ["cat/2024/a.png", "cat/b.png", "dog/c.png"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]


def test_a_flat_set_has_no_labels(write, png) -> None:
    source = open_source(str(write({"b.png": png(2), "a.png": png(1), "notes.txt": b"x"})))
    assert source.keys == ["a.png", "b.png"]
    assert source.labels is None
    assert source.class_names == ()
    assert first_byte(source.load(1)) == 2


@pytest.mark.parametrize("wrapper", ["photos", "my/photos"])
def test_a_lone_wrapping_folder_is_looked_into(write, png, wrapper: str) -> None:
    source = open_source(write({f"{wrapper}/cat/a.png": png(1), f"{wrapper}/dog/b.png": png(2)}))
    assert source.keys == ["cat/a.png", "dog/b.png"]
    assert source.class_names == ("cat", "dog")
    assert first_byte(source.load(1)) == 2


def test_a_wrapped_flat_set_has_no_labels(write, png) -> None:
    source = open_source(write({"photos/a.png": png(1), "photos/b.png": png(2)}))
    assert source.keys == ["a.png", "b.png"]
    assert source.labels is None
    assert first_byte(source.load(1)) == 2


def test_hidden_and_foreign_files_are_ignored(write, png) -> None:
    hidden = {"__MACOSX/cat/._a.png": b"x", "cat/._a.png": b"x", ".cache/a.png": b"x", "cat/.png": b"x", "read.md": b""}
    source = open_source(write({**hidden, "cat/a.png": png(1), "dog/b.png": png(2)}))
    assert source.keys == ["cat/a.png", "dog/b.png"]


def test_fingerprint_follows_names_and_contents(write, png) -> None:
    files = {"a.png": png(1), "b.png": png(2)}
    first = open_source(write(files, "1.zip")).fingerprint()
    assert len(first) == 64
    assert open_source(write(files, "2.zip")).fingerprint() == first
    assert open_source(write({"a.png": png(1), "c.png": png(2)}, "3.zip")).fingerprint() != first
    assert open_source(write({"a.png": png(1), "b.png": png(2, (9, 9))}, "4.zip")).fingerprint() != first
    assert open_source(write({**files, "c.png": png(3)}, "5.zip")).fingerprint() != first


def test_zip_fingerprint_sees_a_change_of_equal_size(write_zip) -> None:
    first = open_source(write_zip({"a.png": b"123"}, "1.zip")).fingerprint()
    assert open_source(write_zip({"a.png": b"124"}, "2.zip")).fingerprint() != first


def test_links_are_followed_but_not_for_ever(write_folder, png) -> None:
    shared = write_folder({"a.png": png(1)}, "elsewhere")
    root = write_folder({"dog/b.png": png(2)})
    (root / "cat").symlink_to(shared)
    (root / "dog" / "loop").symlink_to(root)
    assert "cat/a.png" in open_source(root).keys


def test_zip_is_read_by_threads_and_by_forked_processes(write_zip, png) -> None:
    source = open_source(write_zip({f"{value:03d}.png": png(value) for value in range(100)}))
    first_byte(source.load(0))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda index: first_byte(source.load(index)), range(100))) == list(range(100))
    results = multiprocessing.get_context("fork").SimpleQueue()
    children = [
        multiprocessing.get_context("fork").Process(
            target=lambda: results.put([first_byte(source.load(index)) for index in range(100)])
        )
        for _ in range(2)
    ]
    for child in children:
        child.start()
    assert [results.get() for _ in children] == [list(range(100))] * 2
    for child in children:
        child.join()


def test_zip_with_backslashes_from_windows(tmp_path: Path, png) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("cat\\a.png", png(1))
        archive.writestr("dog\\b.png", png(2))
    source = open_source(tmp_path / "w.zip")
    assert source.keys == ["cat/a.png", "dog/b.png"]
    assert first_byte(source.load(1)) == 2


def test_damaged_zip_member_is_a_broken_image(write_zip, png) -> None:
    path = write_zip({"a.png": png(1), "b.png": png(2)})
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(BrokenImage, match="CRC"):
        source.load(0)
    assert first_byte(source.load(1)) == 2


def test_vanished_file_is_named(write_folder, png) -> None:
    root = write_folder({"a.png": png(1), "b.png": png(2)})
    source = open_source(root)
    (root / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png: cannot be read \(No such file"):
        source.load(1)
    with pytest.raises(UserError, match=r"b\.png: cannot be read \(No such file"):
        source.fingerprint()


def test_no_such_path(tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", "no such file or folder", "hf:owner/name")


def test_neither_zip_nor_parquet(tmp_path: Path) -> None:
    (tmp_path / "photos.tar").write_bytes(b"ustar")
    refuse(tmp_path / "photos.tar", "neither a zip nor a Parquet file")


@pytest.mark.parametrize("files", [{}, {"a.txt": b"x"}])
def test_nothing_to_see(write, files) -> None:
    refuse(write(files), "no images found", ".jpg")


def test_truncated_zip(write_zip, png) -> None:
    path = write_zip({"a.png": png(1), "b.png": png(2)})
    path.write_bytes(path.read_bytes()[:-40])
    refuse(path, "damaged or cut short", "copy it again")


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>"])
def test_a_zip_that_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "photos.zip").write_bytes(data)
    refuse(tmp_path / "photos.zip", "damaged or cut short")


def test_encrypted_zip(write_zip, png) -> None:
    path = write_zip({"a.png": png(1)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refuse(path, "a.png is encrypted", "without a password")


def test_unknown_compression(write_zip, png) -> None:
    path = write_zip({"a.png": png(1)})
    data = bytearray(path.read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 97
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png: .*compression.*make the zip with deflate"):
        open_source(path).load(0)


def test_images_at_the_top_and_in_class_folders(write, png) -> None:
    location = write({"a.png": png(1), "b.png": png(2), "cat/c.png": png(3), "dog/d.png": png(4), "dog/e.png": png(5)})
    refuse(location, "2 images lie at the top and 3 in 2 folders", "move every image")


def test_splits_are_not_classes(write, png) -> None:
    location = write({"train/cat/a.png": png(1), "val/cat/b.png": png(2)})
    refuse(location, "splits (train, val), not classes")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "photos.zip").chmod(0)
    refuse(tmp_path / "photos.zip", "Permission denied")


def test_names_that_are_not_utf8(tmp_path: Path, png) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(png(1))
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    assert len(FolderSource(tmp_path).fingerprint()) == 64


@pytest.mark.photos
def test_real_photos_open(photos: Path) -> None:
    source = open_source(photos)
    assert len(source) >= 100
    assert source.labels is not None
    assert len(source.labels) == len(source)
    assert len(np.unique(source.labels)) == len(source.class_names) > 1
    for index in (0, len(source) - 1):
        assert source.load(index).mode == "RGB"
        assert source.keys[index].startswith(source.class_names[source.labels[index]] + "/")

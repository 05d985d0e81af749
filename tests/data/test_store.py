import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.data import decoding
from reals.data.sources import open_source
from reals.data.split import is_held_out
from reals.data.store import ImageStore, prepare_images
from reals.runtime import interrupt, progress
from reals.runtime.errors import Interrupted, UserError


@pytest.fixture(autouse=True)
def small_shards_and_all_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MAX_SHARD_ROWS", 64)
    monkeypatch.setattr(progress, "_WORTH_TELLING_SECONDS", 0.0)


def refuse(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_class_folder_zip_becomes_a_store(tmp_path: Path, write_zip, png, capsys) -> None:
    files = {f"{name}/{value}.png": png(value) for value in range(30) for name in ("cat", "dog")}
    source = open_source(write_zip(files))
    prepare_images(source, tmp_path / "store", 8, 0.2)
    store = ImageStore(tmp_path / "store")
    assert (len(store), store.size, store.num_classes, store.labelled) == (60, 8, 2, True)
    assert store.class_names == ("cat", "dog")
    assert store.keys == source.keys
    assert source.labels is not None
    np.testing.assert_array_equal(store.labels, source.labels)
    assert store.labels.dtype == np.int64
    rows = np.array([59, 0, 3])
    np.testing.assert_array_equal(store.load(rows), [np.asarray(source.load(row)) for row in rows.tolist()])
    assert store.load(rows).dtype == np.uint8
    assert store.held_out.tolist() == [row for row, key in enumerate(store.keys) if is_held_out(key, 0.2)]
    assert sorted([*store.train.tolist(), *store.held_out.tolist()]) == list(range(60))
    said = capsys.readouterr().err
    assert "decoding: 60/60" in said
    assert "60 images of 2 classes, 8 x 8" in said


def test_larger_images_are_cropped(tmp_path: Path, memory_source, png) -> None:
    source = memory_source({f"{value}.png": png(value, (21 + value, 17)) for value in range(4)})
    prepare_images(source, tmp_path / "store", 8, 0.0)
    assert ImageStore(tmp_path / "store").load(np.arange(4)).shape == (4, 8, 8, 3)


def test_an_unlabelled_store_has_one_class(tmp_path: Path, memory_source, many) -> None:
    prepare_images(memory_source(many), tmp_path, 8, 0.1)
    store = ImageStore(tmp_path)
    assert (store.labelled, store.num_classes, store.class_names) == (False, 1, ())
    assert not store.labels.any()


def test_nothing_held_out(tmp_path: Path, memory_source, many) -> None:
    prepare_images(memory_source(many), tmp_path, 8, 0.0)
    store = ImageStore(tmp_path)
    assert len(store.held_out) == 0
    assert len(store.train) == 200


def test_broken_images_are_left_out_and_named(tmp_path: Path, memory_source, many, capsys) -> None:
    many["070.png"] = many["070.png"][:60]
    many["130.png"] = b"<html>"
    source = memory_source(many, classes=10)
    prepare_images(source, tmp_path, 8, 0.1)
    said = capsys.readouterr().err
    assert f"left out 2 of 200 images that cannot be read (070.png, 130.png); all are listed in {tmp_path}" in said
    skipped = json.loads((tmp_path / "skipped.json").read_text())
    assert skipped["count"] == 2
    assert [file["key"] for file in skipped["files"]] == ["070.png", "130.png"]
    assert skipped["files"][1]["reason"] == "not an image in a known format"
    store = ImageStore(tmp_path)
    usable = [row for row in range(200) if row not in (70, 130)]
    assert len(store) == len(store.images) == 198
    assert store.keys == [source.keys[row] for row in usable]
    assert store.labels.tolist() == [row % 10 for row in usable]
    assert store.load(np.arange(198))[:, 0, 0, 0].tolist() == usable
    assert store.images.all("image")[:, 0, 0, 0].tolist() == usable
    assert store.images.gather("image", np.array([70, 129]))[:, 0, 0, 0].tolist() == [71, 131]


def test_every_name_is_listed_but_three_are_said(tmp_path: Path, memory_source, many, capsys) -> None:
    files = {f"{copy}/{key}": data for copy in range(3) for key, data in many.items()}
    broken = [key for row, key in enumerate(files) if row in (5, 105, 205, 305)]
    prepare_images(memory_source({**files, **dict.fromkeys(broken, b"")}), tmp_path, 8, 0.1)
    assert f"left out 4 of 600 images that cannot be read ({', '.join(broken[:3])}, ...)" in capsys.readouterr().err
    assert [file["key"] for file in json.loads((tmp_path / "skipped.json").read_text())["files"]] == broken


def test_more_than_one_percent_broken_stops_early(tmp_path: Path, memory_source, many) -> None:
    for row in (3, 4, 5):
        many[f"{row:03d}.png"] = b""
    source = memory_source(many)
    refuse(
        lambda: prepare_images(source, tmp_path, 8, 0.1),
        "memory: at least 3 of 200 images cannot be read, more than 1 %",
        "the first is 003.png (empty)",
        str(tmp_path / "skipped.json"),
    )
    assert max(source.loaded) < 64
    assert json.loads((tmp_path / "skipped.json").read_text())["count"] == 3
    assert not ImageStore.complete(tmp_path)
    prepare_images(memory_source({**many, "003.png": many["000.png"]}), tmp_path, 8, 0.1)
    assert len(ImageStore(tmp_path)) == 198


def test_broken_images_count_across_interruptions(tmp_path: Path, memory_source, many) -> None:
    for row in (3, 70, 140):
        many[f"{row:03d}.png"] = b""
    for stop in (64, 128):
        source = memory_source(many)
        source.stop_before = stop
        with pytest.raises(KeyboardInterrupt):
            prepare_images(source, tmp_path, 8, 0.1)
    refuse(lambda: prepare_images(memory_source(many), tmp_path, 8, 0.1), "3 of 200 images", "003.png (empty)")


def test_an_interrupted_preparation_is_continued(tmp_path: Path, memory_source, many, capsys) -> None:
    many["001.png"] = b""
    source = memory_source(many)
    source.stop_before = 150
    with pytest.raises(KeyboardInterrupt):
        prepare_images(source, tmp_path / "store", 8, 0.1)
    assert not ImageStore.complete(tmp_path / "store")
    again = memory_source(many)
    capsys.readouterr()
    prepare_images(again, tmp_path / "store", 8, 0.1)
    assert "decoding: 200/200" in capsys.readouterr().err
    assert sorted(again.loaded) == [1, *range(128, 200)], "two shards of 64 were whole; only why 1 is broken is asked"
    prepare_images(memory_source(many), tmp_path / "whole", 8, 0.1)
    first, second = ImageStore(tmp_path / "store"), ImageStore(tmp_path / "whole")
    np.testing.assert_array_equal(first.load(np.arange(199)), second.load(np.arange(199)))
    assert first.fingerprint == second.fingerprint
    assert (tmp_path / "store" / "skipped.json").read_text() == (tmp_path / "whole" / "skipped.json").read_text()


def test_a_signal_stops_between_shards(tmp_path: Path, memory_source, many, monkeypatch) -> None:
    monkeypatch.setattr(interrupt, "_requested", "SIGTERM")
    with pytest.raises(Interrupted, match="stopped by SIGTERM after 0 of 200 rows"):
        prepare_images(memory_source(many), tmp_path, 8, 0.1)


def test_a_finished_store_is_not_made_again(tmp_path: Path, memory_source, many) -> None:
    prepare_images(memory_source(many), tmp_path, 8, 0.1)
    again = memory_source(many)
    prepare_images(again, tmp_path, 8, 0.1)
    assert again.loaded == []


@pytest.mark.dist
def test_processes_share_the_work(tmp_path: Path, write_folder, png) -> None:
    photos = write_folder({f"{value:03d}.png": png(value) for value in range(40)})
    program = (
        "import torch.distributed as d; from reals.data import decoding\n"
        "from reals.data.sources import open_source; from reals.data.store import prepare_images\n"
        "import os; from reals.runtime import progress\n"
        "decoding._MAX_SHARD_ROWS = 8; progress._WORTH_TELLING_SECONDS = 0.0\n"
        f"d.init_process_group('gloo', f'file://{tmp_path}/meet', rank=int(os.environ['RANK']), world_size=2)\n"
        f"prepare_images(open_source({str(photos)!r}), {str(tmp_path / 'store')!r}, 8, 0.2); d.destroy_process_group()"
    )
    environment = {**os.environ, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert "decoding: 24/24" in said[0]
    assert ImageStore(tmp_path / "store").load(np.arange(40))[:, 0, 0, 0].tolist() == list(range(40))


def test_another_source_size_or_split_is_refused(tmp_path: Path, memory_source, many) -> None:
    prepare_images(memory_source(many), tmp_path, 8, 0.1)
    fewer = memory_source(dict(list(many.items())[:-1]))
    refuse(lambda: prepare_images(fewer, tmp_path, 8, 0.1), str(tmp_path), "not those of memory", "another directory")
    refuse(lambda: prepare_images(memory_source(many), tmp_path, 4, 0.1), "image size 8, not 4", "another directory")
    refuse(lambda: prepare_images(memory_source(many), tmp_path, 8, 0.2), "held-out fraction 0.1, not 0.2")


def test_an_unfinished_store_of_another_source_is_refused(tmp_path: Path, memory_source, many) -> None:
    source = memory_source(many)
    source.stop_before = 100
    with pytest.raises(KeyboardInterrupt):
        prepare_images(source, tmp_path, 8, 0.1)
    refuse(lambda: prepare_images(memory_source(many), tmp_path, 4, 0.1), "other settings", "another output directory")


def test_another_version_is_refused(tmp_path: Path, memory_source, many) -> None:
    prepare_images(memory_source(many), tmp_path, 8, 0.1)
    summary = json.loads((tmp_path / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**summary, "format": 0}))
    refuse(lambda: ImageStore(tmp_path), "another version", "prepare the images again")
    refuse(lambda: prepare_images(memory_source(many), tmp_path, 8, 0.1), "another version")


def test_small_images_are_named(tmp_path: Path, memory_source, many, png) -> None:
    many["010.png"] = png(1, (9, 5))
    refuse(
        lambda: prepare_images(memory_source(many), tmp_path, 8, 0.1),
        "memory: 010.png has 9 x 5 pixels, fewer than the image size 8; give a smaller image size",
    )
    many["011.png"] = png(1, (4, 4))
    refuse(lambda: prepare_images(memory_source(many), tmp_path, 8, 0.1), "010.png", "like 1 more of 64 looked at")


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images(tmp_path: Path, memory_source, many, count: int) -> None:
    few = memory_source(dict(list(many.items())[:count]))
    refuse(lambda: prepare_images(few, tmp_path, 8, 0.0), f"memory: has {count} image", "at least 2")


def test_an_impossible_split_is_refused_before_decoding(tmp_path: Path, memory_source, many) -> None:
    few = memory_source(dict(list(many.items())[:2]))
    refuse(lambda: prepare_images(few, tmp_path, 8, 0.001), "holds out none of its 2 images")
    assert few.loaded == []


def test_an_impossible_size_is_refused(tmp_path: Path, memory_source, many) -> None:
    refuse(lambda: prepare_images(memory_source(many), tmp_path, 0, 0.1), "image size 0 is not a positive number")


def test_a_directory_without_a_store(tmp_path: Path) -> None:
    refuse(lambda: ImageStore(tmp_path), str(tmp_path), "no prepared images here", "prepare them first")


def test_fingerprint_follows_size_and_split(tmp_path: Path, memory_source, many) -> None:
    prints = set()
    for number, (size, fraction) in enumerate([(8, 0.1), (4, 0.1), (8, 0.2), (8, 0.1)]):
        prepare_images(memory_source(many), tmp_path / str(number), size, fraction)
        prints.add(ImageStore(tmp_path / str(number)).fingerprint)
    assert len(prints) == 3


def test_a_copy_for_a_worker_holds_no_image(tmp_path: Path, memory_source, many) -> None:
    prepare_images(memory_source(many), tmp_path, 8, 0.1)
    store = ImageStore(tmp_path)
    store.load(np.arange(200))
    assert len(bytes(ForkingPickler.dumps(store))) < 1000
    np.testing.assert_array_equal(copy.deepcopy(store).load(np.array([7])), store.load(np.array([7])))


@pytest.mark.photos
def test_real_photos_are_prepared(tmp_path: Path, photos: Path) -> None:
    source = open_source(photos)
    rows = range(0, len(source), max(1, len(source) // 300))

    class Some:
        def __init__(self):
            self.location, self.class_names = source.location, source.class_names
            self.keys = [source.keys[row] for row in rows]
            self.labels = None if source.labels is None else source.labels[list(rows)]

        def load(self, index: int) -> Image.Image:
            return source.load(rows[index])

        def fingerprint(self) -> str:
            return source.fingerprint()

        def __len__(self) -> int:
            return len(rows)

    prepare_images(Some(), tmp_path, 16, 0.1)
    store = ImageStore(tmp_path)
    assert len(store) == len(rows)
    assert store.load(store.train[:50]).std() > 20

"""Shards survive a kill, are never mixed, and give back the rows that were written."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from reals.runtime import interrupt
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.shards import ShardedArrays, write_shards

ROWS = 10


def produce(start: int, stop: int) -> dict[str, np.ndarray]:
    """Row i is [i, -i] in each of three views, plus ten times the view; its label is i."""
    rows = np.arange(start, stop)
    x = np.stack([rows, -rows], axis=1)[:, None].repeat(3, axis=1) + 10 * np.arange(3)[None, :, None]
    return {"x": x.astype(np.float32), "label": rows.astype(np.int64)}


def write(
    directory: Path,
    make: Callable[[int, int], Mapping[str, np.ndarray]] = produce,
    *,
    on_rows: Callable[[int], None] = lambda count: None,
    **metadata: object,
) -> None:
    write_shards(
        directory, ROWS, make, names=("x", "label"), rows_per_shard=4, metadata=metadata or {"kind": 1}, on_rows=on_rows
    )


def test_rows_come_back_in_the_wanted_order(tmp_path: Path) -> None:
    write(tmp_path)
    arrays = ShardedArrays(tmp_path)
    assert (len(arrays), arrays.names, arrays.metadata) == (ROWS, ("x", "label"), {"kind": 1})
    rows = np.array([9, 0, 5, 5, 3])
    assert arrays.gather("label", rows).tolist() == rows.tolist()
    assert arrays.gather("x", rows)[:, 2].tolist() == [[row + 20, 20 - row] for row in rows]
    assert arrays.all("label").tolist() == list(range(ROWS))
    assert arrays.gather("x", np.array([], dtype=np.int64)).shape == (0, 3, 2)


def test_a_view_is_one_for_all_or_one_per_row(tmp_path: Path) -> None:
    write(tmp_path)
    arrays = ShardedArrays(tmp_path)
    rows, views = np.array([8, 1, 6, 2]), np.array([0, 2, 1, 0])
    assert arrays.gather("x", rows, 1).tolist() == [[row + 10, 10 - row] for row in rows]
    expected = [[row + 10 * view, 10 * view - row] for row, view in zip(rows, views, strict=True)]
    assert arrays.gather("x", rows, views).tolist() == expected


def test_what_is_gathered_may_be_changed(tmp_path: Path) -> None:
    write(tmp_path)
    arrays = ShardedArrays(tmp_path)
    arrays.gather("label", np.arange(3))[:] = -1
    assert arrays.all("label").tolist() == list(range(ROWS))


def test_resuming_skips_finished_shards(tmp_path: Path) -> None:
    def die(start: int, stop: int) -> dict[str, np.ndarray]:
        if start == 8:
            raise KeyboardInterrupt
        return produce(start, stop)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, die)
    assert not ShardedArrays.complete(tmp_path)
    with pytest.raises(UserError, match=r"not a complete cache \(no manifest"):
        ShardedArrays(tmp_path)
    made: list[int] = []
    counted: list[int] = []

    def note(start: int, stop: int) -> dict[str, np.ndarray]:
        made.append(start)
        return produce(start, stop)

    write(tmp_path, note, on_rows=counted.append)
    assert made == [8]
    assert counted == [4, 4, 2]
    assert ShardedArrays(tmp_path).all("label").tolist() == list(range(ROWS))


def test_a_shard_counts_only_with_all_its_arrays(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "label-00001.npy").unlink()
    made: list[int] = []
    write(tmp_path, lambda start, stop: made.append(start) or produce(start, stop))
    assert made == [4]


def test_killed_in_the_middle_of_a_shard(tmp_path: Path) -> None:
    """A real SIGKILL while the second shard's file is half written: the file does not exist, the first shard does."""
    program = f"""
import os, signal
from pathlib import Path
import numpy as np
from reals.runtime.shards import write_shards


def produce(start, stop):
    return {{"x": np.arange(start, stop)}}

def save(handle, array, allow_pickle):
    handle.write(b"half")
    handle.flush()
    if array[0] >= 4:
        os.kill(os.getpid(), signal.SIGKILL)
    handle.seek(0)
    original(handle, array, allow_pickle=False)

original, np.save = np.save, save
write_shards(Path({str(tmp_path)!r}), 10, produce, names=("x",), rows_per_shard=4, metadata={{}})
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["x-00000.npy"]
    assert len(list(tmp_path.glob(".*.partial"))) == 1
    made: list[int] = []

    def note(start: int, stop: int) -> dict[str, np.ndarray]:
        made.append(start)
        return {"x": np.arange(start, stop)}

    write_shards(tmp_path, 10, note, names=("x",), rows_per_shard=4, metadata={})
    assert made == [4, 8]
    assert not list(tmp_path.glob(".*.partial"))
    assert ShardedArrays(tmp_path).all("x").tolist() == list(range(10))


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write(tmp_path, kind=1)
    before = (tmp_path / "plan.json").read_text()
    with pytest.raises(UserError, match="holds arrays made with other settings; give another output"):
        write(tmp_path, kind=2)
    with pytest.raises(UserError, match="other settings"):
        write_shards(tmp_path, ROWS, produce, names=("x",), rows_per_shard=4, metadata={"kind": 1})
    assert (tmp_path / "plan.json").read_text() == before


def test_a_wrong_number_of_rows_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x: produced 3 rows, expected 4"):
        write(tmp_path, lambda start, stop: produce(start, stop - 1))
    assert not ShardedArrays.complete(tmp_path)


def test_a_signal_stops_between_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def produce_and_be_told(start: int, stop: int) -> dict[str, np.ndarray]:
        monkeypatch.setattr(interrupt, "_requested", "SIGTERM")
        return produce(start, stop)

    with pytest.raises(Interrupted, match="after 4 of 10 rows"):
        write(tmp_path, produce_and_be_told)
    assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["label-00000.npy", "x-00000.npy"]


def test_processes_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process of a launch makes its own shards, and the rows are those of a single process."""
    monkeypatch.setattr("reals.runtime.dist.barrier", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    made: dict[str, list[int]] = {"0": [], "1": []}
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        write(tmp_path, lambda start, stop, rank=rank: made[rank].append(start) or produce(start, stop))
        assert ShardedArrays.complete(tmp_path) == (rank == "0")
    assert made == {"0": [0, 8], "1": [4]}
    assert ShardedArrays(tmp_path).all("label").tolist() == list(range(ROWS))


def test_no_pickled_objects(tmp_path: Path) -> None:
    write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["rows"] == ROWS
    with open(tmp_path / "label-00000.npy", "wb") as handle:
        np.save(handle, np.array([os.sep, None], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        ShardedArrays(tmp_path).gather("label", np.arange(2))

"""Two runs never share a directory, and time is counted once."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from reals.recipes import workspace
from reals.recipes.presets import preset
from reals.recipes.workspace import RunDirectory, timed
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, write_json

RECIPE = preset("debug")
OTHER = replace(RECIPE, seed=1)


def test_a_directory_is_claimed_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.check("photos", RECIPE)
    assert not run.path.exists()
    run.claim("photos", RECIPE)
    before = run.description.stat()
    run.claim("photos", RECIPE)
    assert run.description.stat().st_mtime_ns == before.st_mtime_ns
    run.base_training.mkdir()
    with pytest.raises(UserError, match=r"holds another run \(seed is 0 there, 1 now\); give another --out"):
        run.claim("photos", OTHER)
    with pytest.raises(UserError, match=r"holds another run \(data is 'photos' there, 'pictures' now\)"):
        run.check("pictures", RECIPE)
    assert read_json(run.description)["recipe"]["seed"] == 0


def test_a_run_from_before_a_setting_existed_goes_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim("photos", RECIPE)
    run.base_training.mkdir()
    written = read_json(run.description)
    del written["recipe"]["latent_gain"], written["recipe"]["generator"]["qk_norm"]
    write_json(run.description, written)
    run.check("photos", RECIPE)
    with pytest.raises(UserError, match=r"holds another run \(latent_gain is 1.0 there, 2.0 now\)"):
        run.check("photos", replace(RECIPE, latent_gain=2.0))


def test_a_run_that_has_not_begun_may_become_another(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim("typo", RECIPE)
    run.images.mkdir()
    (run.path / ".run.json.01234567.partial").touch()
    assert not run.begun
    run.claim("photos", OTHER)
    assert read_json(run.description)["data"] == "photos"
    assert sorted(path.name for path in run.path.iterdir()) == ["images", "run.json"]
    run.discard_images()
    assert not run.images.exists()


def test_photos_of_a_run_that_has_begun_are_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim("photos", RECIPE)
    for directory in (run.images, run.base_training):
        directory.mkdir()
    run.discard_images()
    assert run.images.exists()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim("photos", RECIPE)
    arm = run.arm("aligned")
    kept = arm.samples(1.0).with_suffix(".partial")
    (arm.path / ".autoencoder.0a1b2c3d.partial" / "deep").mkdir(parents=True)
    kept.mkdir(parents=True)
    (kept / ".image-00000.npy.0a1b2c3d.partial").touch()
    run.claim("photos", RECIPE)
    assert sorted(path.name for path in run.path.rglob("*")) == ["aligned", "guidance-1.partial", "run.json", "samples"]


def test_files_of_others_are_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="is not empty and not a run of reals"):
        RunDirectory(tmp_path).claim("photos", RECIPE)
    with pytest.raises(UserError, match=r"thesis\.txt: is a file"):
        RunDirectory(tmp_path / "thesis.txt" / "chapter" / "run").claim("photos", RECIPE)
    write_json(tmp_path / "run.json", ["of", "another", "program"])
    with pytest.raises(UserError, match="holds another run"):
        RunDirectory(tmp_path).claim("photos", RECIPE)


def test_time_is_added_up_over_attempts_until_there_is_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    timings, result = tmp_path / "timings.json", tmp_path / "result"

    def attempt(seconds: float, *, fails: bool = False) -> None:
        with timed(timings, "train", result, images=64):
            now[0] += seconds
            if fails:
                raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        attempt(3.0, fails=True)
    attempt(2.0)
    assert read_json(timings) == {"train": {"seconds": 5.0, "images": 64}}
    result.touch()
    attempt(7.0)
    assert read_json(timings) == {"train": {"seconds": 5.0, "images": 64}}


def test_a_killed_attempt_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_HEARTBEAT_SECONDS", 0.02)
    timings = tmp_path / "timings.json"
    with timed(timings, "train", tmp_path / "result", images=64):
        deadline = time.monotonic() + 10
        while not (timings.exists() and read_json(timings)["train"]["seconds"] > 0.03):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_photos_may_be_named_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    run = RunDirectory(tmp_path / "run")
    run.claim(str(tmp_path / "photos"), RECIPE)
    run.base_training.mkdir()
    monkeypatch.chdir(tmp_path)
    run.claim("photos", RECIPE)
    run.claim("../" + tmp_path.name + "/photos", RECIPE)

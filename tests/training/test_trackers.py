"""What trackers are told is the log, once, whatever happened on the way."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reals.runtime.errors import UserError
from reals.training.log import read_log
from reals.training.loop import fit
from reals.training.state import TrainState
from reals.training.trackers import TENSORBOARD_NAME, NoTracker, TensorBoard, Tracker, WandB
from tests.training.toy import NoisyRegression, batches, loop


def train(directory: Path, tracker: Tracker, die_after: int = 0, checkpoint_every: int = 3) -> None:
    """Train the toy, killed after one step or not at all."""

    def hook(state: TrainState) -> dict[str, float] | None:
        if state.step == die_after:
            raise KeyboardInterrupt
        return {"fd/tiny": 0.5} if state.step in (4, 6) else None

    config = loop(checkpoint_every=checkpoint_every)
    with tracker.watch(directory, "toy", {"seed": 3}) as watcher:
        fit(
            NoisyRegression(),
            batches(config),
            config,
            directory,
            seed=3,
            description="toy",
            hooks=(hook,),
            watchers=(watcher,),
        )


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Read all event files as TensorBoard does."""
    events = EventAccumulator(str(directory / TENSORBOARD_NAME)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_log(tmp_path: Path) -> None:
    train(tmp_path, TensorBoard())
    shown, log = scalars(tmp_path), read_log(tmp_path)
    assert shown["fd/tiny"] == [(4, 0.5), (6, 0.5)]
    for name in ("loss", "mse", "gradient_norm"):
        assert shown[name] == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in log]


def test_a_killed_run_that_goes_on_leaves_no_point_twice(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, TensorBoard(), die_after=5)
    # It had checkpointed step 3 and logged step 4.
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [2, 4]
    train(tmp_path, TensorBoard())
    shown = scalars(tmp_path)
    assert [step for step, _ in shown["loss"]] == [2, 4, 6, 8]
    assert shown["fd/tiny"] == [(4, 0.5), (6, 0.5)]


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    for tracker in (TensorBoard(), WandB(), NoTracker()):
        with tracker.watch(tmp_path, "toy", {}) as watcher:
            watcher(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


class Service:
    """The part of the wandb module that is used."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.lines: list[tuple[int, Mapping[str, float]]] = []
        self.finished = 0

    def init(self, **settings: Any) -> "Service":
        self.begun.append(settings)
        return self

    def log(self, line: Mapping[str, float], step: int) -> None:
        self.lines.append((step, line))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_is_sent_the_log_as_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, WandB(project="latents"), die_after=7, checkpoint_every=4)
    train(tmp_path, WandB(project="latents"))
    first, second = service.begun
    assert first == second
    assert (first["project"], first["name"], first["config"]) == ("latents", "toy", {"seed": 3})
    assert first["resume"] == "allow"
    assert service.finished == 2
    assert [step for step, _ in service.lines] == [2, 4, 6, 6, 8]
    # What is sent twice is the same, but for the time it took.
    before, after = (
        {name: value for name, value in line.items() if name != "seconds"} for _, line in service.lines[2:4]
    )
    assert before == after == {**before, "fd/tiny": 0.5}


def test_missing_wandb_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'reals\[wandb\]'"):
        train(tmp_path, WandB())
    assert not list(tmp_path.iterdir())

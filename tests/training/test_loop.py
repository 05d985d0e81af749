"""The loop resumes exactly, accumulates exactly, and stops when told to."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reals.runtime import interrupt
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.io import load_tensors
from reals.training.config import Constant, Cosine, LoopConfig, OptimiserConfig
from reals.training.ema import MovingAverage, trainable
from reals.training.log import read_log
from reals.training.loop import fit
from reals.training.optimisers import Optimisers
from reals.training.state import TrainState, checkpoints
from tests.training.toy import NoisyRegression, batches, loop


def run(directory: Path, config: LoopConfig, objective: NoisyRegression | None = None, **more: object) -> TrainState:
    return fit(
        objective or NoisyRegression(),
        batches(config),
        config,
        directory,
        seed=3,
        description="toy",
        **more,  # pyright: ignore[reportArgumentType]
    )


def weights(state: TrainState) -> dict[str, Tensor]:
    return state.objective.state_dict() | {f"average.{name}": value for name, value in state.average.average.items()}


def assert_equal(first: TrainState, second: TrainState) -> None:
    for (name, one), two in zip(weights(first).items(), weights(second).values(), strict=True):
        assert torch.equal(one, two), name


@pytest.fixture(autouse=True)
def no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "_requested", None)


@pytest.mark.parametrize("schedule", [Constant(), Cosine(warm_up=2)])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, schedule: Constant | Cosine) -> None:
    config = loop(schedule=schedule)
    whole = run(tmp_path / "whole", config)

    def stop(state: TrainState) -> None:
        if state.step == 5:
            interrupt._requested = "SIGTERM"

    with pytest.raises(Interrupted, match="step 5 of 8"):
        run(tmp_path / "parts", config, hooks=(stop,))
    interrupt._requested = None
    resumed = run(tmp_path / "parts", config)
    assert_equal(whole, resumed)
    whole_log, resumed_log = read_log(tmp_path / "whole"), read_log(tmp_path / "parts")
    assert [line["step"] for line in resumed_log] == [line["step"] for line in whole_log]


def test_killed_between_checkpoints_goes_on_from_the_last_one(tmp_path: Path) -> None:
    config = loop()
    whole = run(tmp_path / "whole", config)

    def die(state: TrainState) -> None:
        if state.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", config, hooks=(die,))
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["checkpoint-000000006"]
    steps: list[int] = []
    resumed = run(tmp_path / "parts", config, hooks=(lambda state: steps.append(state.step),))
    assert steps == [7, 8]
    assert_equal(whole, resumed)


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    config = loop()
    first = run(tmp_path, config)
    steps: list[int] = []
    second = run(tmp_path, config, hooks=(lambda state: steps.append(state.step),))
    assert steps == []
    assert_equal(first, second)


def test_more_steps_continue_a_finished_run(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", loop(steps=9))
    run(tmp_path / "parts", loop(steps=4))
    assert_equal(whole, run(tmp_path / "parts", loop(steps=9)))


def test_accumulation_equals_the_large_batch(tmp_path: Path) -> None:
    large = run(tmp_path / "large", loop(), NoisyRegression(noise=0.0))
    small = run(tmp_path / "small", loop(accumulate=4), NoisyRegression(noise=0.0))
    for one, two in zip(weights(large).values(), weights(small).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_training_lowers_the_loss_and_leaves_frozen_weights_alone(tmp_path: Path) -> None:
    objective = NoisyRegression(noise=0.0)
    frozen = objective.frozen.weight.clone()
    run(tmp_path, loop(steps=200, log_every=10), objective)
    log = read_log(tmp_path)
    assert log[-1]["loss"] < 0.1 * log[0]["loss"]
    assert torch.equal(frozen, objective.frozen.weight)
    assert {"step", "loss", "mse", "seconds"} <= log[-1].keys()


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, loop(steps=2))
    other = NoisyRegression()
    other.network = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    with pytest.raises(UserError, match="other sizes"):
        run(tmp_path, loop(), other)
    fewer = NoisyRegression()
    fewer.network = torch.nn.Sequential(torch.nn.Linear(6, 1))
    with pytest.raises(UserError, match="other weights"):
        run(tmp_path, loop(), fewer)


@pytest.mark.parametrize("name", ["weights.safetensors", "average.safetensors", "optimiser.pt", "progress.json"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    run(tmp_path, loop())
    damaged = checkpoints(tmp_path)[-1] / name
    damaged.write_bytes(damaged.read_bytes()[:5])
    with pytest.raises(UserError, match=rf"{name}: not .*; delete .*checkpoint-\d+ to train this stage"):
        run(tmp_path, loop())


def test_too_many_broken_steps_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite in 3 of 3 steps, found at step 3; lower"):
        run(tmp_path, loop(skip_limit=2), NoisyRegression(noise=float("inf")))


class Hiccup(NoisyRegression):
    """Its loss, or else only its gradient, is not a number in some steps."""

    def __init__(self, broken: tuple[int, ...], *, gradient_only: bool):
        super().__init__(noise=0.0)
        self.broken, self.gradient_only = broken, gradient_only
        self.calls = 0

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        losses = super().forward(x, y)
        self.calls += 1
        if self.calls in self.broken:
            bad = torch.sqrt(losses["loss"] * 0.0) if self.gradient_only else losses["loss"] * float("nan")
            losses = {"loss": losses["loss"] + bad, "mse": losses["mse"]}
        return losses


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_broken_step_is_left_out_and_counted(tmp_path: Path, gradient_only: bool) -> None:
    seen: list[dict[str, Tensor]] = []

    def remember(state: TrainState) -> None:
        seen.append({name: value.clone() for name, value in weights(state).items()})

    state = run(tmp_path, loop(), Hiccup((3, 4), gradient_only=gradient_only), hooks=(remember,))
    assert (state.step, state.skipped.item()) == (8, 2)
    for name in seen[1]:
        assert torch.equal(seen[1][name], seen[3][name])
        assert torch.isfinite(seen[-1][name]).all()
    assert not torch.equal(seen[3]["network.0.weight"], seen[4]["network.0.weight"])
    log = read_log(tmp_path)
    assert [line.get("skipped", 0) for line in log] == [0, 2, 2, 2]
    # Both micro-batches of the second line were broken: there is nothing to average.
    assert ("loss" in log[1]) == gradient_only
    assert "gradient_norm" not in log[1]
    resumed = run(tmp_path, loop(steps=10), NoisyRegression(noise=0.0))
    assert (resumed.step, resumed.skipped.item()) == (10, 2)


class Duel(torch.nn.Module):
    """A part under an optimiser of its own, which the main loss looks at without training it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = torch.nn.Linear(6, 1)
        self.critic = torch.nn.Linear(1, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        made = self.network(x)
        frozen = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        judged = torch.func.functional_call(self.critic, frozen, (made,))
        critic = (self.critic(made.detach()).squeeze(1) - y).square().mean()
        return {"loss": (made.squeeze(1) - y).square().mean() + judged.square().mean(), "critic_loss": critic}


def test_two_optimisers_share_a_backward_pass(tmp_path: Path) -> None:
    """The same weights as two backward passes and two optimisers by hand."""
    config = loop()
    rule = OptimiserConfig(learning_rate=3e-2, betas=(0.5, 0.9))
    state = fit(Duel(), batches(config), config, tmp_path, seed=3, description="duel", others={"critic": rule})
    by_hand = Duel()
    adams = [
        torch.optim.AdamW(by_hand.network.parameters(), 1e-2, (0.9, 0.999), weight_decay=0.0),
        torch.optim.AdamW(by_hand.critic.parameters(), 3e-2, (0.5, 0.9), weight_decay=0.0),
    ]
    stream = batches(config)(0)
    for _ in range(config.steps):
        losses = by_hand(**next(stream))
        for adam, name in zip(adams, ("loss", "critic_loss"), strict=True):
            adam.zero_grad()
            losses[name].backward(retain_graph=True)
        for adam in adams:
            adam.step()
    for one, two in zip(state.objective.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert state.average.average.keys() == {"network.weight", "network.bias"}
    resumed = fit(Duel(), batches(config), config, tmp_path, seed=3, description="duel", others={"critic": rule})
    assert torch.equal(
        resumed.optimisers.adams["critic"].state_dict()["state"][0]["exp_avg"],
        state.optimisers.adams["critic"].state_dict()["state"][0]["exp_avg"],
    )
    with pytest.raises(ValueError, match="'judge' has no parameters"):
        fit(Duel(), batches(config), config, tmp_path / "other", seed=3, description="duel", others={"judge": rule})


def test_half_written_checkpoints_are_ignored_and_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-000000009.abc.partial").mkdir()
    state = run(tmp_path, loop(steps=2))
    assert state.step == 2
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-000000002"]
    assert not list(tmp_path.glob(".*.partial"))


def test_moving_average_is_the_recursion() -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    start = module.weight.detach().clone()
    average = MovingAverage(trainable(module), 0.75)
    with torch.no_grad():
        module.weight.add_(1.0)
    average.update(torch.tensor(1.0))
    torch.testing.assert_close(average.average["weight"], start + 0.25)
    average.update(torch.tensor(0.0))
    torch.testing.assert_close(average.average["weight"], start + 0.25)


def test_further_averages_are_what_runs_of_their_own_would_keep(tmp_path: Path) -> None:
    run(tmp_path / "both", loop(further_ema_decays=(0.5,), steps=4))
    both = run(tmp_path / "both", loop(further_ema_decays=(0.5,)))
    alone = run(tmp_path / "alone", loop(ema_decay=0.5))
    assert_equal(run(tmp_path / "without", loop()), both)
    for name, average in alone.average.average.items():
        assert torch.equal(both.further[0.5].average[name], average)
        assert not torch.equal(both.average.average[name], average)
    final = both.final_weights("network.", 0.5)
    assert torch.equal(final["0.weight"], alone.final_weights("network.")["0.weight"])


def test_averages_of_one_decay_are_refused() -> None:
    with pytest.raises(ValueError, match="give each once"):
        loop(further_ema_decays=(0.9,))
    with pytest.raises(ValueError, match="each must lie"):
        loop(further_ema_decays=(1.0,))


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_broken_first_step_leaves_no_trace_in_the_optimiser(clip_norm: float | None) -> None:
    """Moments and bias corrections are those of the steps taken, although the device alone knows which these were."""
    hurt, whole = NoisyRegression(noise=0.0), NoisyRegression(noise=0.0)
    for objective, first in ((hurt, 0), (whole, 1)):
        optimisers = Optimisers(objective, loop(clip_norm=clip_norm), {})
        stream = batches(loop())(0)
        drawn = [next(stream) for _ in range(3)]
        for number in range(first, 3):
            (objective(**drawn[number])["loss"] * (1.0 if number else float("inf"))).backward()
            taken, norms = optimisers.step()
            assert taken.item() == torch.isfinite(norms["main"]).item() == (number > 0)
    for one, two in zip(hurt.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, two)


class Reads(TorchDispatchMode):
    """Counts how often the host asks for a tensor's value: on a GPU, each waits for all work before it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_does_not_ask_the_device_how_it_went() -> None:
    objective = NoisyRegression()
    optimisers = Optimisers(objective, loop(clip_norm=0.5), {})
    average = MovingAverage(optimisers.parameters["main"], 0.9)
    objective(**next(batches(loop())(0)))["loss"].backward()
    with Reads() as reads:
        taken, norms = optimisers.step()
        average.update(taken)
        assert reads.count == 0
        assert norms["main"].item() > 0
        assert reads.count == 1


def test_what_a_hook_says_is_logged_at_its_step_and_told_to_watchers(tmp_path: Path) -> None:
    told: list[tuple[int, float | None]] = []

    def score(state: TrainState) -> dict[str, float] | None:
        return {"score": 10.0 * state.step} if state.step in (3, 8) else None

    def watch(step: int, line: Mapping[str, float]) -> None:
        told.append((step, line.get("score")))

    run(tmp_path, loop(), hooks=(score,), watchers=(watch,))
    assert [(int(line["step"]), line.get("score")) for line in read_log(tmp_path)] == told
    assert told == [(2, None), (3, 30.0), (4, None), (6, None), (8, 80.0)]


@pytest.mark.parametrize("name", ["steps", "batch_size", "accumulate"])
def test_nonsense_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0"):
        loop(**{name: 0})


def test_cosine_ends_at_zero_and_constant_stays() -> None:
    assert Cosine().factor(0, 10) == 1.0
    assert Cosine().factor(5, 10) == pytest.approx(0.5)
    assert Cosine().factor(10, 10) == pytest.approx(0.0)
    assert Cosine(warm_up=4).factor(0, 10) == 0.25
    assert Constant().factor(9, 10) == 1.0


_PROGRAM = """
import sys, time
from pathlib import Path
from reals.runtime import dist, interrupt
from reals.training.loop import fit
from tests.training.toy import NoisyRegression, batches, loop
interrupt.install()
config = loop(**eval(sys.argv[2]))
slow = (lambda state: time.sleep(0.05),) if "--slow" in sys.argv else ()
fit(NoisyRegression(noise=0.0), batches(config, dist.rank(), dist.world_size()), config, Path(sys.argv[1]),
    seed=3, description="toy", hooks=slow)
"""


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.mark.slow
def test_sigterm_checkpoints_before_the_process_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path), "{'steps': 400, 'checkpoint_every': 1000}", "--slow"]
    process = subprocess.Popen(command, env=_environment(), stderr=subprocess.PIPE, text=True)
    while not read_log(tmp_path) and process.poll() is None:
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "checkpoint saved" in errors
    assert len(checkpoints(tmp_path)) == 1


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one(tmp_path: Path, parallel: str) -> None:
    settings = {"accumulate": 2, "clip_norm": 0.5, "parallel": parallel}
    one = run(tmp_path / "one", loop(**settings), NoisyRegression(noise=0.0))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    command += [str(program), str(tmp_path / "two"), str(settings)]
    subprocess.run(command, env=_environment(), check=True, capture_output=True, timeout=120)
    saved = load_tensors(checkpoints(tmp_path / "two")[-1] / "average.safetensors")
    for name, value in one.average.average.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    # What two processes saved, sharded or not, one can continue.
    longer = loop(**settings, steps=10)
    continued = run(tmp_path / "two", longer, NoisyRegression(noise=0.0))
    whole = run(tmp_path / "one", longer, NoisyRegression(noise=0.0))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(continued)[name], value, rtol=1e-5, atol=1e-6)

"""One loop for both stages, over Accelerate: one process or ``torchrun``, any precision, exact resume."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from reals.runtime import dist, interrupt
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.progress import Progress, progress
from reals.runtime.seed import seed_everything
from reals.training.config import MAIN, LoopConfig, OptimiserConfig
from reals.training.ema import MovingAverage
from reals.training.log import TrainingLog
from reals.training.optimisers import Optimisers
from reals.training.parallel import callable_on_all, make_accelerator, spread, unsynchronised
from reals.training.state import TrainState

Batch = Mapping[str, Any]
"""Keyword arguments of the objective: tensors, or tuples of them, of one micro-batch on this process."""

Hook = Callable[[TrainState], Mapping[str, float] | None]
"""Something periodic (a preview, a validation score); called after each optimiser step, on every process.

What it returns, if not None, is written into a line of the log of this step; the main process's values count, and the
others return a mapping, even if an empty one, at the same steps.
"""

Watcher = Callable[[int, Mapping[str, float]], None]
"""Told every line of the log: the step, the averages since the last line, and what hooks had to say."""

# How often the processes of one run ask each other whether one of them was told to stop.
_AGREE_EVERY = 10


@runtime_checkable
class Adaptive(Protocol):
    """An objective that learns something from its own gradients, such as the balance of two losses."""

    def after_backward(self) -> None:
        """Take note: the gradients of a step are complete. Called on every process, before the optimisers step."""
        ...


def fit(
    objective: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    config: LoopConfig,
    directory: Path,
    *,
    seed: int,
    description: str,
    others: Mapping[str, OptimiserConfig] | None = None,
    hooks: tuple[Hook, ...] = (),
    watchers: tuple[Watcher, ...] = (),
) -> TrainState:
    """Train until ``config.steps``, resuming from the newest checkpoint under ``directory``.

    Args:
        objective: called as ``objective(**batch)``; returns ``{"loss": scalar, name: scalar, …}``. ``loss`` is
            minimised, and ``NAME_loss`` for each of ``others``; the rest is logged.
        batches: ``batches(step)`` yields this process's micro-batches from optimiser step ``step`` on; a function of
            the step alone, so that a resumed run sees what an uninterrupted one would have seen.
        config: length, optimiser and precision.
        directory: receives ``checkpoint-STEP/`` and ``log.jsonl``.
        seed: every micro-batch reseeds torch from ``(seed, step, micro-batch, rank)``: random numbers, too, are a
            function of progress.
        description: what the progress line calls this run.
        others: further optimisers; each trains the objective's attribute of its name, which is not averaged. No loss
            may send gradients into another's part: one backward pass serves them all.
        hooks: called with the state after every optimiser step; what they return is logged.
        watchers: called with every line of the log.

    Returns the final state; its ``average`` is the moving average of the weights.

    Raises:
        Interrupted: a signal asked the process to stop; a checkpoint has been written.
        UserError: too many steps had broken gradients, or the checkpoint or the batch size does not fit.
    """
    others = others or {}
    _check_batch(config)
    accelerator = make_accelerator(config.precision, partly_unused=bool(others))
    objective.to(accelerator.device).train()
    spread(objective, config.parallel)
    optimisers = Optimisers(objective, config, others)
    main = optimisers.parameters[MAIN]
    state = TrainState(
        objective,
        optimisers,
        MovingAverage(main, config.ema_decay),
        {decay: MovingAverage(main, decay) for decay in config.further_ema_decays},
        skipped=torch.zeros((), device=accelerator.device),
    )
    state.resume(directory)
    parallel = callable_on_all(objective, accelerator)
    log = TrainingLog(directory, state.step, write=dist.is_main())
    stream = batches(state.step) if state.step < config.steps else iter(())
    started = time.monotonic() - state.seconds
    with progress(description, config.steps * config.batch_size, "images", state.step * config.batch_size) as bar:
        while state.step < config.steps:
            optimisers.schedule(state.step)
            for micro_batch in range(config.accumulate):
                seed_everything(seed, "training", state.step, micro_batch, dist.rank())
                last = micro_batch + 1 == config.accumulate
                log.add(_forward_backward(accelerator, parallel, next(stream), config, others, synchronise=last))
            _apply_gradients(state, config, log)
            state.seconds = time.monotonic() - started
            told = [said for hook in hooks if (said := hook(state)) is not None]
            _record(state, config, log, bar, directory, watchers, told)
    return state


def _check_batch(config: LoopConfig) -> None:
    if config.batch_size % (dist.world_size() * config.accumulate):
        raise UserError(
            f"batch_size {config.batch_size} does not divide into {dist.world_size()} processes x {config.accumulate} "
            "micro-batches; choose another batch_size or accumulate"
        )


def _forward_backward(
    accelerator: Accelerator,
    parallel: nn.Module,
    batch: Batch,
    config: LoopConfig,
    others: Mapping[str, OptimiserConfig],
    *,
    synchronise: bool,
) -> Mapping[str, Tensor]:
    """Add one micro-batch's gradients; processes exchange them only with the last one."""
    with nullcontext() if synchronise else unsynchronised(parallel, accelerator):
        with accelerator.autocast():
            losses = parallel(**batch)
        total = losses["loss"]
        for name in others:
            # A discriminator that has not started yet has no loss.
            if f"{name}_loss" in losses:
                total = total + losses[f"{name}_loss"]
        accelerator.backward(total / config.accumulate)
    return losses


def _apply_gradients(state: TrainState, config: LoopConfig, log: TrainingLog) -> None:
    """Take the step, or leave it out and count it if a gradient is not finite.

    Raises:
        UserError: too many steps were left out.
    """
    if isinstance(state.objective, Adaptive):
        state.objective.after_backward()
    taken, norms = state.optimisers.step()
    state.step += 1
    for average in state.averages().values():
        average.update(taken)
    state.skipped += 1.0 - taken
    log.add({"gradient_norm" if name == MAIN else f"{name}_gradient_norm": norm for name, norm in norms.items()})
    # Reading the count waits for the device: each step where that costs nothing, else when a line of the log waits.
    if state.skipped.device.type == "cpu" or _due(state, config):
        skipped = int(state.skipped)
        if skipped > config.skip_limit:
            raise UserError(
                f"the gradients were not finite in {skipped} of {state.step} steps, found at step {state.step}; "
                "lower the learning rate, or use float32 (the last checkpoint is kept)"
            )


def _due(state: TrainState, config: LoopConfig) -> bool:
    """Return whether this step ends a line of the log."""
    return state.step % config.log_every == 0 or state.step == config.steps


def _record(
    state: TrainState,
    config: LoopConfig,
    log: TrainingLog,
    bar: Progress,
    directory: Path,
    watchers: tuple[Watcher, ...],
    told: list[Mapping[str, float]],
) -> None:
    """Log, show and checkpoint what is due; stop here, saved, if a signal asked for it."""
    note = None
    # What a hook has to say is not kept for later: a run that is stopped in between would lose it.
    if told or _due(state, config):
        skipped = float(state.skipped)
        more = {name: value for values in told for name, value in values.items()}
        more |= {"skipped": skipped} if skipped else {}
        averages = log.flush(state.step, seconds=round(state.seconds, 3), **more)
        note = " ".join(f"{name} {value:.4g}" for name, value in list(averages.items())[:4])
        for watcher in watchers:
            watcher(state.step, averages | more)
    bar.advance(config.batch_size, note)
    stop = _stop_requested(state.step)
    if stop or state.step % config.checkpoint_every == 0 or state.step == config.steps:
        state.save(directory)
    if stop and state.step < config.steps:
        raise Interrupted(f"stopped after step {state.step} of {config.steps}; checkpoint saved in {directory}")


def _stop_requested(step: int) -> bool:
    """Return whether any process was asked to stop; all processes get the same answer at the same step."""
    if dist.world_size() == 1:
        return interrupt.requested() is not None
    if step % _AGREE_EVERY:
        return False
    votes: list[str | None] = [None] * dist.world_size()
    torch.distributed.all_gather_object(votes, interrupt.requested())
    return any(vote is not None for vote in votes)

"""One loop for both stages, over Accelerate: one process or ``torchrun``, any precision, exact resume."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from reals.runtime import dist, interrupt
from reals.runtime.errors import Interrupted, UserError
from reals.runtime.progress import Progress, progress
from reals.runtime.seed import seed_everything
from reals.training.config import LoopConfig, Precision
from reals.training.ema import MovingAverage, trainable
from reals.training.log import TrainingLog
from reals.training.state import TrainState

Batch = Mapping[str, Any]
"""Keyword arguments of the objective: tensors, or tuples of them, of one micro-batch on this process."""

Hook = Callable[[TrainState], None]
"""Something periodic (a preview, a validation score); called after each optimiser step."""

# How often the processes of one run ask each other whether one of them was told to stop.
_AGREE_EVERY = 10


def fit(
    objective: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    config: LoopConfig,
    directory: Path,
    *,
    seed: int,
    description: str,
    hooks: tuple[Hook, ...] = (),
) -> TrainState:
    """Train until ``config.steps``, resuming from the newest checkpoint under ``directory``.

    Args:
        objective: called as ``objective(**batch)``; returns ``{"loss": scalar, name: scalar, …}``. Only ``loss`` is
            minimised, the rest is logged.
        batches: ``batches(step)`` yields this process's micro-batches from optimiser step ``step`` on; a function of
            the step alone, so that a resumed run sees what an uninterrupted one would have seen.
        config: length, optimiser and precision.
        directory: receives ``checkpoint-STEP/`` and ``log.jsonl``.
        seed: every micro-batch reseeds torch from ``(seed, step, micro-batch, rank)``: random numbers, too, are a
            function of progress.
        description: what the progress line calls this run.
        hooks: called with the state after every optimiser step.

    Returns:
        The final state; ``state.average`` holds the moving average of the weights.

    Raises:
        Interrupted: a signal asked the process to stop; a checkpoint has been written.
        UserError: the loss stopped being finite, the checkpoint is of another model, or the batch does not divide.
    """
    pieces = dist.world_size() * config.accumulate
    if config.batch_size % pieces:
        raise UserError(
            f"batch_size {config.batch_size} does not divide into {dist.world_size()} processes x {config.accumulate} "
            "micro-batches; choose another batch_size or accumulate"
        )
    accelerator = make_accelerator(config.precision)
    objective.to(accelerator.device).train()
    optimiser = torch.optim.AdamW(
        trainable(objective).values(), config.learning_rate, config.betas, weight_decay=config.weight_decay, fused=True
    )
    state = TrainState(objective, optimiser, MovingAverage(objective, config.ema_decay))
    state.resume(directory)
    parallel: nn.Module = accelerator.prepare_model(objective)
    log = TrainingLog(directory, state.step, write=dist.is_main())
    stream = batches(state.step) if state.step < config.steps else iter(())
    started = time.monotonic() - state.seconds
    with progress(description, config.steps * config.batch_size, "images", state.step * config.batch_size) as bar:
        while state.step < config.steps:
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * config.schedule.factor(state.step, config.steps)
            for micro_batch in range(config.accumulate):
                seed_everything(seed, "training", state.step, micro_batch, dist.rank())
                last = micro_batch + 1 == config.accumulate
                log.add(_forward_backward(accelerator, parallel, next(stream), config.accumulate, synchronise=last))
            _apply_gradients(accelerator, state, config)
            state.seconds = time.monotonic() - started
            for hook in hooks:
                hook(state)
            _record(state, config, log, bar, directory)
    return state


def _forward_backward(
    accelerator: Accelerator, parallel: nn.Module, batch: Batch, accumulate: int, *, synchronise: bool
) -> Mapping[str, Tensor]:
    """Add one micro-batch's gradients; processes exchange them only with the last one."""
    if synchronise or dist.world_size() == 1:
        with accelerator.autocast():
            losses = parallel(**batch)
        accelerator.backward(losses["loss"] / accumulate)
    else:
        with accelerator.no_sync(parallel), accelerator.autocast():
            losses = parallel(**batch)
            accelerator.backward(losses["loss"] / accumulate)
    return losses


def _apply_gradients(accelerator: Accelerator, state: TrainState, config: LoopConfig) -> None:
    if config.clip_norm is not None:
        accelerator.clip_grad_norm_(state.objective.parameters(), config.clip_norm)
    state.optimiser.step()
    state.optimiser.zero_grad(set_to_none=True)
    state.average.update()
    state.step += 1


def _record(state: TrainState, config: LoopConfig, log: TrainingLog, bar: Progress, directory: Path) -> None:
    """Log, show and checkpoint what is due; stop here, saved, if a signal asked for it."""
    note = None
    if state.step % config.log_every == 0 or state.step == config.steps:
        averages = log.flush(state.step, seconds=round(state.seconds, 3))
        note = " ".join(f"{name} {value:.4g}" for name, value in list(averages.items())[:4])
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


def make_accelerator(precision: Precision) -> Accelerator:
    """Return the launch's Accelerator in the wanted precision.

    Raises:
        UserError: bfloat16 was demanded of a GPU that lacks it.
    """
    wanted = computes_in_bfloat16(precision)
    return Accelerator(mixed_precision="bf16" if wanted else "no", cpu=not torch.cuda.is_available())


def computes_in_bfloat16(precision: Precision) -> bool:
    """Return whether to autocast; ``auto`` does where the hardware multiplies in bfloat16.

    Raises:
        UserError: bfloat16 was demanded of a GPU that lacks it.
    """
    cuda = torch.cuda.is_available()
    supported = torch.cuda.is_bf16_supported() if cuda else cpu_has_bfloat16()
    if precision == "bfloat16" and cuda and not supported:
        raise UserError("this GPU does not compute in bfloat16; use float32")
    return precision == "bfloat16" or (precision == "auto" and supported)


def autocast_dtype(precision: Precision) -> torch.dtype:
    """Return what networks are autocast to outside training, by the rule of :func:`computes_in_bfloat16`."""
    return torch.bfloat16 if computes_in_bfloat16(precision) else torch.float32


def cpu_has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 matrices natively (AVX-512 BF16 or AMX)."""
    flags = ("avx512_bf16", "amx_bf16")
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(capabilities.get(flag)) for flag in flags)

"""What a training run needs to know apart from what it trains."""

import math
from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
Parallel = Literal["ddp", "fsdp"]

MAIN = "main"
"""Name of the optimiser that a :class:`LoopConfig` describes."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant learning rate, as DiT and SiT are trained."""

    def factor(self, step: int, steps: int) -> float:
        """Return what the learning rate is multiplied by at ``step`` of ``steps``."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """A half cosine from the full learning rate to zero (ReaLS, Table 1, stage 1)."""

    warm_up: int = 0
    """Steps over which the rate first rises linearly."""

    def factor(self, step: int, steps: int) -> float:
        """Return what the learning rate is multiplied by at ``step`` of ``steps``."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(steps - self.warm_up, 1)
        return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW for one part of an objective."""

    learning_rate: float
    """Peak learning rate."""
    schedule: Constant | Cosine = Constant()
    """How it moves."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Moment decays."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip_norm: float | None = None
    """Largest gradient norm, or None to leave gradients alone."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length, batch, optimiser and safety of one training run (AdamW throughout)."""

    steps: int
    """Optimiser steps."""
    batch_size: int
    """Images per optimiser step, over all processes and micro-batches."""
    learning_rate: float
    """Peak learning rate of AdamW; never scaled behind your back."""
    schedule: Constant | Cosine = Constant()
    """How the learning rate moves."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    ema_decay: float = 0.9999
    """Decay of the moving average of the weights; the average is what is exported."""
    further_ema_decays: tuple[float, ...] = ()
    """Decays of further averages kept at the same time, to be compared with the exported one."""
    clip_norm: float | None = None
    """Largest gradient norm, or None to leave gradients alone."""
    accumulate: int = 1
    """Micro-batches per optimiser step: the memory of a smaller batch, the result of the whole one."""
    precision: Precision = "auto"
    """bfloat16 autocast; auto takes it where the hardware computes in it."""
    parallel: Parallel = "ddp"
    """With several processes: ddp keeps the whole model on each, fsdp a part (less memory, more communication)."""
    skip_limit: int = 20
    """Steps that may be left out because their gradients were not finite, before the run stops."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between lines of log.jsonl; losses are averaged in between."""
    workers: int = 0
    """Data-loading processes per rank; 0 loads in the training process."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.skip_limit < 0:
            raise ValueError(f"skip_limit is {self.skip_limit}; it must not be negative")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must lie in [0, 1)")
        if not all(0.0 <= decay < 1.0 for decay in self.further_ema_decays):
            raise ValueError(f"further_ema_decays is {list(self.further_ema_decays)}; each must lie in [0, 1)")
        if len({self.ema_decay, *self.further_ema_decays}) <= len(self.further_ema_decays):
            raise ValueError(
                f"further_ema_decays is {list(self.further_ema_decays)} and ema_decay {self.ema_decay}; give each once"
            )
        if self.learning_rate <= 0.0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")

    @property
    def optimiser(self) -> OptimiserConfig:
        """The main optimiser's rule."""
        return OptimiserConfig(
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            betas=self.betas,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )

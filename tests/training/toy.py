"""A small objective whose loss uses random numbers, and data that are a function of the step."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from reals.training.config import LoopConfig
from reals.training.loop import Batch


class NoisyRegression(nn.Module):
    """Regress ``x @ w`` from a noisy ``x``: without exact random state, two runs differ."""

    def __init__(self, noise: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.noise = noise

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        prediction = self.network(self.frozen(x) + self.noise * torch.randn_like(x))
        loss = (prediction.squeeze(1) - y).square().mean()
        return {"loss": loss, "mse": loss.detach()}


def batches(config: LoopConfig, rank: int = 0, world_size: int = 1) -> Callable[[int], Iterator[Batch]]:
    """Batches that depend on the step alone, cut into micro-batches and ranks."""

    def stream(step: int) -> Iterator[Batch]:
        while True:
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(config.batch_size, 6, generator=generator)
            y = x.sum(1)
            for micro in range(config.accumulate):
                local = config.batch_size // config.accumulate // world_size
                start = (micro * world_size + rank) * local
                yield {"x": x[start : start + local], "y": y[start : start + local]}
            step += 1

    return stream


def loop(**changes: object) -> LoopConfig:
    """Return a short float32 run."""
    settings: dict[str, object] = {
        "steps": 8,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "ema_decay": 0.9,
        "precision": "float32",
        "checkpoint_every": 3,
        "log_every": 2,
    }
    return LoopConfig(**(settings | changes))  # pyright: ignore[reportArgumentType]

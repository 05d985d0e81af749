"""Everything that a training run changes, and how it gets to disk and back."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from reals.runtime import dist
from reals.runtime.errors import UserError
from reals.runtime.io import (
    atomic_directory,
    load_state,
    load_tensors,
    read_json,
    remove_leftovers,
    save_state,
    save_tensors,
    write_json,
)
from reals.training.ema import MovingAverage

_NAME = re.compile(r"checkpoint-(\d{9})")


@dataclass
class TrainState:
    """Weights, their average, the optimiser and the position in the run.

    Random numbers and the order of the data are functions of ``step`` (see :func:`reals.training.loop.fit`), so the
    step is their whole state.
    """

    objective: nn.Module
    optimiser: torch.optim.Optimizer
    average: MovingAverage
    step: int = 0
    seconds: float = 0.0

    def save(self, directory: Path) -> None:
        """Write ``directory/checkpoint-STEP``, whole or not at all, and drop the one before it.

        Called by every process; the main one writes.
        """
        if dist.is_main():
            with atomic_directory(directory / f"checkpoint-{self.step:09d}") as temporary:
                save_tensors(temporary / "weights.safetensors", _changing(self.objective))
                save_tensors(temporary / "average.safetensors", self.average.average)
                save_state(temporary / "optimiser.pt", self.optimiser.state_dict())
                write_json(temporary / "progress.json", {"step": self.step, "seconds": self.seconds})
            for older in checkpoints(directory)[:-1]:
                shutil.rmtree(older)
        dist.barrier()

    def resume(self, directory: Path) -> bool:
        """Load the newest checkpoint under ``directory``; return whether there was one.

        Raises:
            UserError: the checkpoint is of another model, or damaged.
        """
        if dist.is_main() and directory.exists():
            remove_leftovers(directory)
        dist.barrier()
        found = checkpoints(directory)
        if not found:
            return False
        try:
            weights = load_tensors(found[-1] / "weights.safetensors")
            average = load_tensors(found[-1] / "average.safetensors")
            optimiser = load_state(found[-1] / "optimiser.pt")
            position = read_json(found[-1] / "progress.json")
        except UserError as error:
            raise UserError(f"{error}; delete {found[-1]} to train this stage from its beginning") from None
        if weights.keys() != _changing(self.objective).keys():
            raise UserError(f"{found[-1]}: holds other weights than this model; give another output directory")
        try:
            self.objective.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{found[-1]}: holds a model of other sizes ({reason})") from None
        self.average.load(average)
        self.optimiser.load_state_dict(optimiser)
        self.step, self.seconds = position["step"], position["seconds"]
        return True


def checkpoints(directory: Path) -> list[Path]:
    """Return the whole checkpoints under ``directory``, oldest first."""
    if not directory.exists():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _changing(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state without frozen parameters: a frozen encoder is not part of what was trained."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}

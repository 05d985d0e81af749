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
from reals.training.config import MAIN
from reals.training.ema import MovingAverage
from reals.training.optimisers import Optimisers
from reals.training.sharded import load_whole, load_whole_optimiser_state, whole, whole_optimiser_state

_NAME = re.compile(r"checkpoint-(\d{9})")


@dataclass
class TrainState:
    """Weights, their average, the optimisers and the position in the run.

    Random numbers and the order of the data are functions of ``step`` (see :func:`reals.training.loop.fit`), so the
    step is their whole state.
    """

    objective: nn.Module
    optimisers: Optimisers
    average: MovingAverage
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    """Steps left out because their gradients were not finite."""

    def save(self, directory: Path) -> None:
        """Write ``directory/checkpoint-STEP``, whole or not at all, and drop the one before it.

        Called by every process; the main one writes. What is written does not depend on how weights are spread.
        """
        weights = {name: whole(tensor).cpu() for name, tensor in _changing(self.objective).items()}
        average = {name: tensor.cpu() for name, tensor in self.average.whole().items()}
        optimisers = {name: whole_optimiser_state(adam) for name, adam in self.optimisers.adams.items()}
        if dist.is_main():
            with atomic_directory(directory / f"checkpoint-{self.step:09d}") as temporary:
                save_tensors(temporary / "weights.safetensors", weights)
                save_tensors(temporary / "average.safetensors", average)
                for name, state in optimisers.items():
                    save_state(temporary / _optimiser_file(name), state)
                position = {"step": self.step, "seconds": self.seconds, "skipped": self.skipped}
                write_json(temporary / "progress.json", position)
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
        newest = found[-1]
        try:
            weights = load_tensors(newest / "weights.safetensors")
            average = load_tensors(newest / "average.safetensors")
            optimisers = {name: load_state(newest / _optimiser_file(name)) for name in self.optimisers.adams}
            position = read_json(newest / "progress.json")
        except UserError as error:
            raise UserError(f"{error}; delete {newest} to train this stage from its beginning") from None
        if weights.keys() != _changing(self.objective).keys():
            raise UserError(f"{newest}: holds other weights than this model; give another output directory")
        try:
            load_whole(self.objective, weights)
        except ValueError as error:
            raise UserError(f"{newest}: holds a model of other sizes ({error})") from None
        self.average.load(average)
        for name, adam in self.optimisers.adams.items():
            load_whole_optimiser_state(adam, optimisers[name])
        self.step, self.seconds = position["step"], position["seconds"]
        self.skipped = position.get("skipped", 0)
        return True

    def final_weights(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the weights below ``prefix`` without it, whole, averaged where they are; every process calls this."""
        final = {name: whole(tensor) for name, tensor in _changing(self.objective).items()} | self.average.whole()
        return {name.removeprefix(prefix): tensor for name, tensor in final.items() if name.startswith(prefix)}


def _optimiser_file(name: str) -> str:
    return "optimiser.pt" if name == MAIN else f"optimiser-{name}.pt"


def checkpoints(directory: Path) -> list[Path]:
    """Return the whole checkpoints under ``directory``, oldest first."""
    if not directory.exists():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def _changing(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state without frozen parameters: a frozen encoder is not part of what was trained."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}

"""Everything that a training run changes, and how it gets to disk and back."""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

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
_AVERAGE = "average"


@dataclass
class TrainState:
    """Weights, their average, the optimisers and the position in the run.

    Random numbers and the order of the data are functions of ``step`` (see :func:`reals.training.loop.fit`), so the
    step is their whole state.
    """

    objective: nn.Module
    optimisers: Optimisers
    average: MovingAverage
    """What is exported."""
    further: dict[float, MovingAverage] = field(default_factory=dict)
    """Averages with other decays."""
    step: int = 0
    seconds: float = 0.0
    skipped: Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    """Steps left out because their gradients were not finite; on the training device, so reading it waits for it."""

    def averages(self) -> dict[str, MovingAverage]:
        """Return every moving average by the name of its file."""
        return {_AVERAGE: self.average} | {f"{_AVERAGE}-{decay:g}": one for decay, one in self.further.items()}

    def save(self, directory: Path) -> None:
        """Write ``directory/checkpoint-STEP``, whole or not at all, and drop the one before it.

        Called by every process; the main one writes. What is written does not depend on how weights are spread.
        """
        weights = {name: whole(tensor).cpu() for name, tensor in _changing(self.objective).items()}
        averages = {
            file: {name: tensor.cpu() for name, tensor in average.whole().items()}
            for file, average in self.averages().items()
        }
        optimisers = {name: whole_optimiser_state(adam) for name, adam in self.optimisers.adams.items()}
        if dist.is_main():
            with atomic_directory(directory / f"checkpoint-{self.step:09d}") as temporary:
                save_tensors(temporary / "weights.safetensors", weights)
                for file, average in averages.items():
                    save_tensors(temporary / f"{file}.safetensors", average)
                for name, state in optimisers.items():
                    save_state(temporary / _optimiser_file(name), state)
                position = {"step": self.step, "seconds": self.seconds, "skipped": int(self.skipped)}
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
            averages = {file: load_tensors(newest / f"{file}.safetensors") for file in self.averages()}
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
        for file, average in self.averages().items():
            average.load(averages[file])
        for name, adam in self.optimisers.adams.items():
            load_whole_optimiser_state(adam, optimisers[name])
        self.step, self.seconds = position["step"], position["seconds"]
        self.skipped.fill_(position.get("skipped", 0))
        return True

    def final_weights(self, prefix: str, decay: float | None = None) -> dict[str, Tensor]:
        """Return the weights below ``prefix`` without it, whole, averaged where they are; every process calls this.

        Args:
            prefix: of their names in the objective.
            decay: which of the further averages, or None for the one that is exported.
        """
        average = self.average if decay is None else self.further[decay]
        final = {name: whole(tensor) for name, tensor in _changing(self.objective).items()} | average.whole()
        return {name.removeprefix(prefix): tensor for name, tensor in final.items() if name.startswith(prefix)}


def _optimiser_file(name: str) -> str:
    return "optimiser.pt" if name == MAIN else f"optimiser-{name}.pt"


def checkpoints(directory: Path) -> list[Path]:
    """Return the whole checkpoints under ``directory``, oldest first."""
    if not directory.exists():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def checkpointed_step(directory: Path) -> int:
    """Return the step from which training under ``directory`` goes on; 0 if it begins there."""
    found = checkpoints(directory)
    return int(found[-1].name.removeprefix("checkpoint-")) if found else 0


def _changing(module: nn.Module) -> dict[str, Tensor]:
    """Return the state without frozen parameters: a frozen encoder is not part of what was trained."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}

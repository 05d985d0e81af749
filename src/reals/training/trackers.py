"""Where the lines of the log go besides ``log.jsonl``: TensorBoard, Weights & Biases, or nowhere."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reals.runtime import dist
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, write_json
from reals.training.loop import Watcher
from reals.training.state import checkpointed_step

TENSORBOARD_NAME = "tensorboard"
"""Of the directory of event files, beside ``log.jsonl``."""
_WANDB_NAME = "wandb.json"


def _ignore(step: int, line: Mapping[str, float]) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class NoTracker:
    """``log.jsonl`` alone."""

    @contextmanager
    def watch(self, directory: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Watcher]:
        """Yield a watcher that does nothing."""
        yield _ignore


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """TensorBoard event files: ``tensorboard --logdir DIR`` shows them, of all runs below DIR at once."""

    @contextmanager
    def watch(self, directory: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Watcher]:
        """Yield a watcher for :func:`reals.training.loop.fit` in ``directory``; only the main process writes.

        What a killed run has written beyond its last checkpoint is superseded when the run goes on.

        Args:
            directory: of the training run; the event files lie below it.
            name: of the run; TensorBoard takes its directory's.
            settings: of the run, shown nowhere here: they lie in its directory.
        """
        if not dist.is_main():
            yield _ignore
            return
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(directory / TENSORBOARD_NAME), purge_step=checkpointed_step(directory) + 1)

        def write(step: int, line: Mapping[str, float]) -> None:
            for key, value in line.items():
                writer.add_scalar(key, value, step)

        try:
            yield write
        finally:
            writer.close()


@dataclass(frozen=True, kw_only=True)
class WandB:
    """Weights & Biases; ``pip install 'reals[wandb]'``, then ``wandb login`` or WANDB_MODE=offline."""

    project: str = "reals"
    """Project that the run appears in."""

    @contextmanager
    def watch(self, directory: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Watcher]:
        """Yield a watcher for :func:`reals.training.loop.fit` in ``directory``; only the main process sends.

        A run that goes on is the same run there. Steps that it repeats after being killed are sent again and left out
        by the service, which takes no step twice. Nothing is lost by that: training is a function of the step.

        Args:
            directory: of the training run, which remembers its identity in the service.
            name: what the run is called there.
            settings: of the run, shown beside it.

        Raises:
            UserError: wandb is not installed.
        """
        if not dist.is_main():
            yield _ignore
            return
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError(
                "Weights & Biases is not installed: pip install 'reals[wandb]', or choose another tracker"
            ) from None
        run = wandb.init(
            project=self.project,
            name=name,
            id=_identity(directory),
            resume="allow",
            dir=str(directory),
            config=dict(settings),
        )

        def send(step: int, line: Mapping[str, float]) -> None:
            run.log(dict(line), step=step)

        try:
            yield send
        finally:
            run.finish()


def _identity(directory: Path) -> str:
    """Return the run's identity in the service: the one it has had, if it has begun."""
    path = directory / _WANDB_NAME
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex})
    return read_json(path)["id"]


Tracker = TensorBoard | WandB | NoTracker
"""Any tracker; each has ``watch(directory, name, settings)``, the context of a watcher."""

TRACKERS: Mapping[str, Tracker] = {"tensorboard": TensorBoard(), "wandb": WandB(), "none": NoTracker()}
"""What each is called on the command line."""

"""How an objective is spread over the processes of a launch: not at all, as copies (DDP), or in parts (FSDP2)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from reals.runtime import dist
from reals.training.config import Parallel, Precision
from reals.training.precision import computes_in_bfloat16


@runtime_checkable
class Shardable(Protocol):
    """An objective, or a network in it, that knows which of its parts are worth gathering one at a time."""

    def shards(self) -> list[nn.Module]:
        """Return modules that are sharded each by itself; the rest is sharded together."""
        ...


def make_accelerator(precision: Precision, *, partly_unused: bool = False) -> Accelerator:
    """Return the launch's Accelerator in the wanted precision.

    ``partly_unused`` says that some steps leave some parameters without gradient (a discriminator that starts late).

    Raises:
        UserError: bfloat16 was demanded of a GPU that lacks it.
    """
    import torch

    wanted = computes_in_bfloat16(precision)
    # What buffers hold is reduced by their owners; copying the first process's over the others' would undo that.
    copies = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=partly_unused)
    return Accelerator(
        mixed_precision="bf16" if wanted else "no", cpu=not torch.cuda.is_available(), kwargs_handlers=[copies]
    )


def spread(objective: nn.Module, parallel: Parallel) -> None:
    """Shard the objective in place if there are several processes and ``parallel`` is "fsdp".

    Before its optimisers are made: they must own the sharded parameters.
    """
    if parallel == "ddp" or dist.world_size() == 1:
        return
    parts = [part for module in objective.modules() if isinstance(module, Shardable) for part in module.shards()]
    for part in parts:
        fully_shard(part)
    fully_shard(objective)


def callable_on_all(objective: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Return what to call for a forward pass whose gradients are those of all processes together."""
    return objective if isinstance(objective, FSDPModule) else accelerator.prepare_model(objective)


def unsynchronised(module: nn.Module, accelerator: Accelerator) -> AbstractContextManager[None]:
    """Return a context in which gradients stay on their process, for all but the last micro-batch of a step."""
    if dist.world_size() == 1:
        return nullcontext()
    return _Unsynchronised(module) if isinstance(module, FSDPModule) else accelerator.no_sync(module)


class _Unsynchronised(AbstractContextManager[None]):
    def __init__(self, module: FSDPModule):
        self._module = module

    def __enter__(self) -> None:
        self._module.set_requires_gradient_sync(False)

    def __exit__(self, *error: object) -> None:
        self._module.set_requires_gradient_sync(True)

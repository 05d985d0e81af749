"""Tensors that may be spread over processes (FSDP2's ``DTensor``), seen whole or as this process's part.

Everything that is saved is whole, so that a run can be resumed on another number of processes, sharded or not.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor gathered from all processes, each of which must call this; a plain tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return this process's part, sharing its memory; a plain tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return a whole tensor spread as ``model`` is, or on its device if it is not spread."""
    if isinstance(model, DTensor):
        return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
    return tensor.to(model.device)


@torch.no_grad()
def load_whole(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy whole tensors into the parameters and buffers of those names.

    Raises:
        ValueError: a tensor has another shape than its parameter.
    """
    own = module.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} there, {tuple(own[name].shape)} here")
        own[name].copy_(like(tensor, own[name]))


def whole_optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimiser's state with every tensor whole and on the CPU."""
    state = optimiser.state_dict()
    moments = {
        index: {name: whole(value).cpu() if isinstance(value, Tensor) else value for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return state | {"state": moments}


def load_whole_optimiser_state(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what :func:`whole_optimiser_state` returned, its moments spread as the parameters are."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = {
        index: {
            name: like(value, parameters[index]) if isinstance(value, Tensor) and value.dim() > 0 else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    optimiser.load_state_dict(state | {"state": moments})

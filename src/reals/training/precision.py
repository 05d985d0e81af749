"""Which precision networks compute in; weights, moments, averages and losses stay in float32."""

import torch

from reals.runtime.errors import UserError
from reals.training.config import Precision


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

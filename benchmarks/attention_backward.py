"""A small transformer's training step on the CPU: our choice of attention kernel against torch's default, in one run.

``python benchmarks/attention_backward.py`` prints JSON; ``ratio`` above 1 means that ours is faster. torch's fused
kernel has a slow backward pass in bfloat16 on CPUs, so ``reals.models.transformer_blocks.attend`` avoids it there.
"""

import json
import os
import platform
import time

import torch

from reals.diffusion.objective import FlowMatching
from reals.models import transformer_blocks
from reals.models.transformer import TransformerConfig
from reals.runtime.memory import keep_freed_memory

_BATCH = 128
_ROUNDS = 5


def step_seconds(objective: torch.nn.Module, latents: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the CPU seconds of one forward and backward pass."""
    started = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(latents, labels, torch.randn_like(latents), torch.rand(len(latents)))["loss"]
    loss.backward()
    return time.process_time() - started


def main() -> None:
    """Alternate the two kernels and keep the best of each, so that other load on the machine hits both."""
    keep_freed_memory()
    torch.set_num_threads(1)
    network = TransformerConfig(depth=6, width=192, heads=6, patch_size=2).build(4, 8, 10)
    objective = FlowMatching().build(network)
    latents, labels = torch.randn(_BATCH, 4, 8, 8), torch.randint(0, 10, (_BATCH,))
    ours, default = transformer_blocks.attend, torch.nn.functional.scaled_dot_product_attention
    best = {"ours": float("inf"), "default": float("inf")}
    for _ in range(_ROUNDS):
        for name, kernel in (("ours", ours), ("default", default)):
            transformer_blocks.attend = kernel  # pyright: ignore[reportAttributeAccessIssue]
            best[name] = min(best[name], step_seconds(objective, latents, labels))
    transformer_blocks.attend = ours
    result = {
        "what": "training step of a 6 x 192 transformer, batch 128, 16 tokens, bfloat16, one thread",
        "milliseconds_per_image": {name: 1e3 * seconds / _BATCH for name, seconds in best.items()},
        "ratio": best["default"] / best["ours"],
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

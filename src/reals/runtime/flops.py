"""How many floating-point operations a diffusion transformer takes, and how many a device could do meanwhile.

An operation is a multiplication or an addition: twice the multiply-accumulates that DiT and SiT print as "Gflops".
"""

import time

import torch

TRAINING_FACTOR = 3
"""A training step's operations as a multiple of the forward pass's: gradients of inputs and weights cost one each."""

# Dense bfloat16 with float32 accumulation, in operations per second, by the names that CUDA reports. From NVIDIA's data
# sheets, which print twice as much "with sparsity".
_PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}


def transformer_flops(
    *, depth: int, width: int, hidden: int, tokens: int, patch_inputs: int, patch_outputs: int, frequencies: int = 256
) -> int:
    """Return the operations of one image's forward pass through the matrix products of SiT and DiT.

    Normalisations, activations and other elementwise work is not counted, as usual.

    Args:
        depth: number of blocks.
        width: channels of a token.
        hidden: channels of a block's perceptron between its layers.
        tokens: per image.
        patch_inputs: numbers that become one token.
        patch_outputs: numbers that are predicted from one token.
        frequencies: channels of the time's sinusoid.
    """
    attention = tokens * 4 * width**2 + 2 * tokens**2 * width
    perceptron = tokens * 2 * width * hidden
    modulation = 6 * width**2
    embedding = tokens * patch_inputs * width + frequencies * width + width**2
    final = 2 * width**2 + tokens * width * patch_outputs
    return 2 * (depth * (attention + perceptron + modulation) + embedding + final)


def known_peak(device_name: str) -> float | None:
    """Return the dense bfloat16 operations per second of a GPU by its data sheet, or None if it is not listed."""
    return _PEAKS.get(device_name)


def measured_peak(device: torch.device, dtype: torch.dtype, side: int = 1024, rounds: int = 5) -> float:
    """Return the operations per second of the fastest of some products of square matrices.

    On a CPU these are seconds of the processor, which other work on the machine disturbs less.

    Args:
        device: where to multiply.
        dtype: of the matrices.
        side: of the matrices; a GPU needs 8192 to be busy.
        rounds: products measured, after one that is not.
    """
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    fastest = float("inf")
    for number in range(rounds + 1):
        started = processor_seconds(device)
        torch.mm(left, right)
        seconds = processor_seconds(device) - started
        if number:
            fastest = min(fastest, seconds)
    return 2 * side**3 / fastest


def processor_seconds(device: torch.device) -> float:
    """Return a clock for work on ``device``: this process's processor time, or the time when the GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()

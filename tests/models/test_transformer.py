"""What the transformer computes, in any arithmetic and when trained, and which sizes it refuses."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reals.models.transformer import Transformer, TransformerConfig
from reals.models.transformer_blocks import Attention, attend  # pyright: ignore[reportPrivateUsage]
from reals.runtime.errors import UserError

TINY = TransformerConfig(depth=2, width=32, heads=2, patch_size=2)


def randomised(config: TransformerConfig = TINY, num_classes: int = 5) -> Transformer:
    """A network whose zero-initialised layers are not zero, so that everything reaches the output."""
    torch.manual_seed(0)
    network = config.build(4, 8, num_classes)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def inputs(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, 4, 8, 8), torch.rand(batch), torch.arange(batch) % 5


def outputs_of(*modules: torch.nn.Module) -> list[Tensor]:
    """Return a list to which the modules will add their outputs."""
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Any) -> None:
        seen.append(output)

    for module in modules:
        module.register_forward_hook(keep)
    return seen


def test_output_is_zero_at_initialisation() -> None:
    assert (TINY.build(4, 8, 5).eval()(*inputs()) == 0).all()


def test_patch_size_one_and_one_class() -> None:
    network = TransformerConfig(depth=1, width=16, heads=2, patch_size=1).build(3, 4, 1)
    assert network.null_label == 1
    assert network(torch.randn(2, 3, 4, 4), torch.rand(2), torch.zeros(2, dtype=torch.int64)).shape == (2, 3, 4, 4)


def test_each_sample_depends_on_its_own_input_only() -> None:
    network, (x, t, y) = randomised(), inputs()
    whole = network(x, t, y)
    assert torch.allclose(network(x[1:2], t[1:2], y[1:2]), whole[1:2], atol=1e-5)
    assert not torch.allclose(network(x, t, y.flip(0)), whole, atol=1e-3)
    assert not torch.allclose(network(x, t.flip(0), y), whole, atol=1e-3)


def test_training_mode_changes_nothing() -> None:
    network, batch = randomised(), inputs()
    expected = network(*batch)
    assert network.config.label_dropout > 0
    before = torch.get_rng_state()
    assert torch.equal(network.train()(*batch), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_variance_is_the_second_half_of_the_channels() -> None:
    network = randomised(replace(TINY, learn_sigma=True, variance=True))
    without = replace(TINY, learn_sigma=True).build(4, 8, 5)
    without.load_state_dict(network.state_dict())
    patches = outputs_of(network.final_layer)
    x, t, y = inputs()
    whole = network(x, t, y)
    assert whole.shape == (3, 8, 8, 8)
    assert network.output_channels == 8
    # DiT's own arrangement of patches.
    expected = torch.einsum("nhwpqc->nchpwq", patches[0].view(3, 4, 4, 2, 2, 8)).reshape(3, 8, 8, 8)
    assert torch.equal(whole, expected)
    assert torch.equal(without(x, t, y), whole[:, :4])
    assert without.output_channels == 4


def test_integer_times_are_dits() -> None:
    network, (x, _, y) = randomised(), inputs()
    steps = torch.tensor([0, 500, 999])
    assert torch.equal(network(x, steps, y), network(x, steps.float(), y))
    assert not torch.allclose(network(x, steps, y), network(x, steps / 999, y), atol=1e-3)


def test_features_are_the_tokens_after_a_block() -> None:
    network, batch = randomised(), inputs()
    expected = outputs_of(*network.blocks)
    output, first = network.features(*batch, block=1)
    assert torch.equal(output, network(*batch))
    assert torch.equal(first, expected[0])
    assert torch.equal(network.features(*batch, block=2)[1], expected[1])
    assert first.shape == (3, 16, 32)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


@pytest.mark.parametrize("block", [0, 3])
def test_features_of_no_block_are_refused(block: int) -> None:
    with pytest.raises(ValueError, match="must lie between 1 and the depth, 2"):
        randomised().features(*inputs(), block=block)


def test_queries_and_keys_are_normalised_per_head() -> None:
    attention = Attention(32, heads=2, qk_norm=True)
    assert [name for name, _ in attention.named_parameters()] == [
        "qkv.weight",
        "qkv.bias",
        "q_norm.weight",
        "q_norm.bias",
        "k_norm.weight",
        "k_norm.bias",
        "proj.weight",
        "proj.bias",
    ]
    torch.nn.init.normal_(attention.q_norm.weight)  # pyright: ignore[reportArgumentType]
    torch.nn.init.normal_(attention.k_norm.bias)  # pyright: ignore[reportArgumentType]
    x = torch.randn(3, 5, 32)
    q, k, v = (part.view(3, 5, 2, 16).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    q = (q - q.mean(-1, keepdim=True)) / (q.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    k = (k - k.mean(-1, keepdim=True)) / (k.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    weights = ((q * attention.q_norm.weight) @ (k + attention.k_norm.bias).transpose(-1, -2) / 4).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).reshape(3, 5, 32))
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_normalised_queries_and_keys_start_plain_and_survive_autocast() -> None:
    config = replace(TINY, qk_norm=True)
    weights = config.build(4, 8, 5).state_dict()
    assert (weights["blocks.1.attn.q_norm.weight"] == 1).all()
    assert (weights["blocks.1.attn.k_norm.bias"] == 0).all()
    network, batch = randomised(config), inputs()
    expected = network(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (network(*batch).float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert network.bfloat16()(batch[0].bfloat16(), *batch[1:]).dtype == torch.bfloat16


def test_activation_checkpointing_changes_memory_only() -> None:
    network, batch = randomised(), inputs()
    plain, plain_gradients, much = one_backward_pass(network, batch)
    network.checkpoint_activations = True
    saved, saved_gradients, little = one_backward_pass(network, batch)
    assert torch.equal(plain, saved)
    assert plain_gradients.keys() == saved_gradients.keys()
    assert all(torch.equal(plain_gradients[name], saved_gradients[name]) for name in plain_gradients)
    assert little < 0.5 * much
    assert "checkpoint" not in str(network.config)


def one_backward_pass(
    network: Transformer, batch: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, dict[str, Tensor], int]:
    """Return the output, the gradients, and how many numbers were kept between the passes."""
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output, tokens = network.features(*batch, block=1)
    network.zero_grad()
    (output.square().mean() + tokens.square().mean()).backward()
    return output, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}, sum(kept)


COMPILING = """
import torch
from reals.models.transformer import TransformerConfig

config = TransformerConfig(depth=1, width=16, heads=2, patch_size=2, qk_norm=True)
network = config.build(4, 4, 5)
torch.nn.init.normal_(network.final_layer.linear.weight)
x, t, y = torch.randn(3, 4, 4, 4), torch.rand(3), torch.arange(3)
for reduced, recompute in ((False, False), (True, False), (True, True)):
    network.zero_grad()
    network.checkpoint_activations = recompute
    torch.compiler.reset()
    function = network.features if reduced else network
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    arguments = (x, t, y, 1) if reduced else (x, t, y)
    # Recomputation counts casts, which the cache would leave out the second time.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=reduced, cache_enabled=False):
        expected, output = function(*arguments), compiled(*arguments)
    expected, output = (expected[0], output[0]) if reduced else (expected, output)
    assert output.dtype == (torch.bfloat16 if reduced else torch.float32) and output.abs().max() > 0.1
    assert torch.equal(output, expected)
    output.float().square().mean().backward()
    assert network.final_layer.linear.weight.grad is not None
    print("compiled")
"""


def test_compiles_without_graph_breaks() -> None:
    # In a process of its own: the type checks under pytest wrap every method in code that dynamo cannot follow.
    done = subprocess.run([sys.executable, "-c", COMPILING], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["compiled"] * 3, done.stderr


def test_gradient_reaches_every_trainable_parameter() -> None:
    network = randomised()
    network(*inputs()).square().mean().backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert network.pos_embed.grad is None


def test_normalisation_stays_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = randomised(), inputs()
    expected = network(*batch)
    seen: list[torch.dtype] = []
    original = torch.nn.functional.layer_norm

    def spy(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        seen.append(x.dtype)
        return original(x, *args, **kwargs)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(torch.nn.functional, "layer_norm", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(*batch)
    assert seen == [torch.float32] * 5
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("tokens", [50, 520])
def test_attention_is_attention_by_any_kernel(monkeypatch: pytest.MonkeyPatch, tokens: int, gradients: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, tokens, 32).bfloat16()
    fused = torch.nn.functional.scaled_dot_product_attention
    expected = fused(q.float(), k.float(), v.float())
    calls: list[torch.dtype] = []

    def spy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(q.dtype)
        return fused(q, k, v)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with torch.set_grad_enabled(gradients):
        out = attend(q, k, v)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).abs().max() < 0.02
    # Written out where that is faster, but not where all pairs of tokens would fill the memory of a sampler.
    assert bool(calls) == (tokens == 520 and not gradients)
    attend(q.float(), k.float(), v.float())
    assert calls[-1:] == [torch.float32]


def test_whole_network_in_bfloat16() -> None:
    network, (x, t, y) = randomised().bfloat16(), inputs()
    assert network(x.bfloat16(), t, y).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"heads": 3}, "must divide the width"),
        ({"width": 18, "heads": 3}, "multiple of 4"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"label_dropout": 1.0}, "label_dropout"),
        ({"variance": True}, "variance is on without learn_sigma"),
        ({"frequency_shift": 2}, "frequency_shift is 2"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{"depth": 2, "width": 32, "heads": 2, "patch_size": 2, **change})  # pyright: ignore[reportArgumentType]


def test_patch_must_divide_the_latent() -> None:
    with pytest.raises(UserError, match="does not divide the 9x9 latent"):
        TINY.build(4, 9, 5)


def test_at_least_one_class() -> None:
    with pytest.raises(ValueError, match="num_classes is 0"):
        TINY.build(4, 8, 0)

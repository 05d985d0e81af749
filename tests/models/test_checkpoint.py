"""Where trainers leave autoencoders in their checkpoints, and which copy is taken."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reals.models.checkpoint import find_autoencoder
from reals.runtime.errors import UserError

NAMES = (
    "encoder.conv_in.weight",
    "encoder.mid.attn_1.q.weight",
    "decoder.conv_in.weight",
    "decoder.up.0.block.0.norm1.weight",
    "quant_conv.weight",
    "post_quant_conv.bias",
)


def copy(value: float, prefix: str = "", dots: bool = True) -> dict[str, Tensor]:
    """Tensors of one copy, all of them ``value``."""
    return {prefix + (name if dots else name.replace(".", "")): torch.full((1,), value) for name in NAMES}


LOSS = {"loss.discriminator.main.0.weight": torch.zeros(1), "loss.logvar": torch.zeros(())}

LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "bare": (copy(1.0), ""),
    "lightning": ({"epoch": 3, "state_dict": {**copy(1.0), **LOSS}}, "state_dict"),
    "inside a module": ({"state_dict": {**copy(1.0, "model.vae."), **LOSS}}, "state_dict.model.vae"),
    "inside stable diffusion": ({"state_dict": copy(1.0, "first_stage_model.")}, "state_dict.first_stage_model"),
    "prefixed average": ({"state_dict": {**copy(0.0), **copy(1.0, "ema.")}}, "state_dict.ema"),
    "average inside a module": (
        {"state_dict": {**copy(0.0, "model.vae."), **copy(1.0, "ema_model.vae.")}},
        "state_dict.ema_model.vae",
    ),
    "separate average": ({"state_dict": copy(0.0), "ema_state_dict": copy(1.0)}, "ema_state_dict"),
    "average of a callback": (
        {"state_dict": copy(0.0, "vae."), "callbacks": {"EMA": {"ema_state_dict": copy(1.0, "vae.")}}},
        "callbacks.EMA.ema_state_dict.vae",
    ),
    "average without dots": (
        {"state_dict": {**copy(0.0), **copy(1.0, "model_ema.", dots=False), "model_ema.decay": torch.zeros(())}},
        "state_dict.model_ema",
    ),
    "average without dots of a module inside": (
        {"state_dict": {**copy(0.0, "model.vae."), **copy(1.0, "model_ema.modelvae", dots=False)}},
        "state_dict.model_ema",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str) -> None:
    checkpoint, where = LAYOUTS[layout]
    found = find_autoencoder(checkpoint)
    assert (found.where, found.averaged) == (where, "average" in layout)
    assert set(found.tensors) == set(NAMES)
    assert all(tensor == 1.0 for tensor in found.tensors.values())
    assert not set(found.others) & set(NAMES)


def test_what_lies_with_it_is_of_the_same_copy() -> None:
    state = {
        **copy(0.0),
        **copy(1.0, "ema."),
        **LOSS,
        "head.0.weight": torch.zeros(1),
        "ema.head.0.weight": torch.ones(1),
    }
    averaged = find_autoencoder({"state_dict": state})
    assert set(averaged.others) == {"ema.head.0.weight"}
    plain = find_autoencoder({"state_dict": state}, "state_dict")
    assert not plain.averaged
    assert plain.tensors["quant_conv.weight"] == 0.0
    assert set(plain.others) == {*LOSS, "head.0.weight"}


def test_an_average_without_dots_brings_the_averages_of_what_lies_with_it() -> None:
    state = {**copy(0.0), "head.0.weight": torch.zeros(1), **copy(1.0, "model_ema.", dots=False)}
    state["model_ema.head0weight"] = torch.ones(1)
    found = find_autoencoder({"state_dict": state})
    assert found.others["head.0.weight"] == 1.0


def test_an_incomplete_average_without_dots_is_not_taken() -> None:
    state = {**copy(0.0), **copy(1.0, "model_ema.", dots=False)}
    del state["model_ema.quant_convweight"]
    found = find_autoencoder({"state_dict": state})
    assert (found.where, found.averaged) == ("state_dict", False)


def test_several_copies_need_a_choice() -> None:
    checkpoint = {"state_dict": {**copy(0.0, "student."), **copy(1.0, "teacher.")}}
    with pytest.raises(
        UserError, match=r"several .* 'state_dict\.student', 'state_dict\.teacher'; choose .* --weights"
    ):
        find_autoencoder(checkpoint)
    assert find_autoencoder(checkpoint, "state_dict.teacher").tensors["quant_conv.weight"] == 1.0
    with pytest.raises(UserError, match=r"no autoencoder at 'teacher'; there is one at 'state_dict\.student'"):
        find_autoencoder(checkpoint, "teacher")


def test_nothing_that_looks_like_an_autoencoder() -> None:
    with pytest.raises(UserError, match="holds no autoencoder"):
        find_autoencoder({"state_dict": LOSS, "epoch": 1})
    # An encoder alone, such as the semantic one's.
    with pytest.raises(UserError, match="holds no autoencoder"):
        find_autoencoder({"encoder.conv_in.weight": torch.zeros(1)})

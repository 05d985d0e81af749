"""Other people's autoencoders: the authors' release, diffusers' directories, trainers' checkpoints."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from reals.apps.importing import ImportConfig, import_autoencoder
from reals.apps.origin import Alignment, read_origin
from reals.latents.align import AlignHeads
from reals.latents.codec import LatentCodec
from reals.latents.normalise import SD_VAE_SCALING, LatentNormalisation, MinMax, Standardise
from reals.latents.statistics import LatentStatistics, read_statistics
from reals.models.autoencoder import load_autoencoder, save_autoencoder
from reals.models.compvis import to_compvis
from reals.models.fingerprint import weights_fingerprint
from reals.runtime.errors import UserError
from tests.apps import exchanged
from tests.latents import tiny

GROUPS = ImportConfig(norm_groups=4)
AUTHORS = {"mean": -0.016722, "std": 1.0266, "min": -6.86283, "max": 10.76242}
"""Printed in the paper with Eq. 8; the deviation is Table 10's."""


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A directory as the authors' converter leaves it: diffusers' defaults, statistics without a count."""
    network = exchanged.autoencoder()
    network.register_to_config(scaling_factor=SD_VAE_SCALING)
    save_autoencoder(network, tmp_path / "released")
    (tmp_path / "released" / "mean_std.json").write_text(json.dumps(AUTHORS))
    return tmp_path / "released"


def save(path: Path, state: Any) -> Path:
    """Write a checkpoint as a trainer does."""
    torch.save(state, path)  # noqa: TID251
    return path


def compvis(seed: int = 0, prefix: str = "") -> dict[str, Tensor]:
    """An autoencoder's tensors by latent-diffusion's names."""
    return {prefix + name: tensor for name, tensor in to_compvis(exchanged.autoencoder(seed).state_dict()).items()}


@pytest.mark.golden
def test_the_authors_release_is_normalised_by_equation_7(released: Path, tmp_path: Path, golden: Path) -> None:
    out = import_autoencoder(str(released), tmp_path / "out", ImportConfig(factor=1.0))
    values = json.loads((golden / "extras" / "reals_norm.json").read_text())
    codec = LatentCodec.from_directory(out)
    raw = torch.tensor(values["z"], dtype=torch.float64)
    expected = torch.tensor(values["eq7"], dtype=torch.float64)
    torch.testing.assert_close(codec.normalisation.normalise(raw), expected)
    assert codec.normalisation.scale == pytest.approx(values["gain"])
    usual = LatentCodec.from_directory(import_autoencoder(str(released), tmp_path / "usual"))
    expected = torch.tensor(values["eq7_then_018215"], dtype=torch.float64)
    torch.testing.assert_close(usual.normalisation.normalise(raw), expected)
    assert read_statistics(out) == LatentStatistics(**AUTHORS, count=None)
    assert json.loads((out / "mean_std.json").read_text()) == AUTHORS
    assert weights_fingerprint(load_autoencoder(out)) == weights_fingerprint(load_autoencoder(released))


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        ("max-min", MinMax().from_statistics(LatentStatistics(**AUTHORS, count=1))),
        ("std", Standardise().from_statistics(LatentStatistics(**AUTHORS, count=1))),
        ("keep", LatentNormalisation(shift=0.0, scale=SD_VAE_SCALING)),
    ],
)
def test_every_normalisation(normalisation: Any, expected: LatentNormalisation, released: Path, tmp_path: Path) -> None:
    out = import_autoencoder(str(released), tmp_path / "out", ImportConfig(normalisation=normalisation))
    assert LatentNormalisation.of(load_autoencoder(out)) == expected


def test_numbers_may_stand_in_lists_of_one(released: Path, tmp_path: Path) -> None:
    (released / "mean_std.json").write_text(json.dumps({name: [[value]] for name, value in AUTHORS.items()}))
    out = import_autoencoder(str(released), tmp_path / "out")
    assert read_statistics(out) == LatentStatistics(**AUTHORS, count=None)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"mean": 0.0, "std": 1.0}, "field 'min' is missing"),
        ({**AUTHORS, "mean": [0.1, 0.2, 0.3, 0.4]}, r"mean_std\.json\.mean: has 4 numbers; .* one for all channels"),
        ({**AUTHORS, "max": "large"}, "max: expected float, found 'large'"),
        ([1.0], "expected an object"),
    ],
)
def test_statistics_that_cannot_be_used(statistics: Any, message: str, released: Path, tmp_path: Path) -> None:
    (released / "mean_std.json").write_text(json.dumps(statistics))
    with pytest.raises(UserError, match=message):
        import_autoencoder(str(released), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plain_autoencoder_keeps_its_factor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = exchanged.autoencoder()
    network.register_to_config(scaling_factor=0.13025)
    save_autoencoder(network, tmp_path / "plain")
    out = import_autoencoder(str(tmp_path / "plain"), tmp_path / "out")
    assert LatentNormalisation.of(load_autoencoder(out)) == LatentNormalisation(shift=0.0, scale=0.13025)
    assert not (out / "mean_std.json").exists()
    assert "has no mean_std.json; reals encode measures latent statistics on photos" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--normalisation std: .* has no mean_std\.json; give --statistics FILE"):
        import_autoencoder(str(tmp_path / "plain"), tmp_path / "std", ImportConfig(normalisation="std"))
    (tmp_path / "measured.json").write_text(json.dumps(AUTHORS))
    config = ImportConfig(normalisation="std", statistics=tmp_path / "measured.json")
    again = import_autoencoder(str(tmp_path / "plain"), tmp_path / "std", config)
    assert LatentNormalisation.of(load_autoencoder(again)).scale == 1.0 / AUTHORS["std"]


def test_our_own_keeps_its_normalisation_and_its_heads(tmp_path: Path) -> None:
    trained = exchanged.trained(tmp_path / "trained")
    out = import_autoencoder(str(trained), tmp_path / "out")
    assert exchanged.same(trained, out)


def test_a_checkpoint_of_latent_diffusion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {**compvis(5), **compvis(0, "ema."), "loss.discriminator.main.0.weight": torch.zeros(2)}
    path = save(tmp_path / "last.ckpt", {"epoch": 9, "state_dict": state, "optimizer_states": [{"state": {}}]})
    out = import_autoencoder(str(path), tmp_path / "out", GROUPS)
    assert "took the moving average at 'state_dict.ema'" in capsys.readouterr().err
    imported, expected = load_autoencoder(out), exchanged.autoencoder()
    assert weights_fingerprint(imported) == weights_fingerprint(expected)
    shape = ("block_out_channels", "layers_per_block", "latent_channels", "mid_block_add_attention", "use_quant_conv")
    assert [imported.config[name] for name in shape] == [[8, 8], 1, tiny.CHANNELS, False, True]
    assert LatentNormalisation.of(imported) == LatentNormalisation(shift=0.0, scale=1.0)
    origin = read_origin(out)
    assert origin is not None
    assert (origin.source, origin.weights) == ("last.ckpt", "moving average at 'state_dict.ema'")
    assert origin.alignment is None
    plain = import_autoencoder(str(path), tmp_path / "plain", ImportConfig(norm_groups=4, weights="state_dict"))
    assert weights_fingerprint(load_autoencoder(plain)) == weights_fingerprint(exchanged.autoencoder(5))
    shown = capsys.readouterr().err
    assert "took the weights at 'state_dict', which are no moving average" in shown
    assert "left out 1 tensors that are no autoencoder and no known alignment heads (loss)" in shown


def test_a_checkpoint_with_statistics_and_half_precision(tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in compvis().items()}, tmp_path / "vae.safetensors")
    (tmp_path / "mean_std.json").write_text(json.dumps(AUTHORS))
    config = ImportConfig(norm_groups=4, statistics=tmp_path / "mean_std.json")
    imported = load_autoencoder(import_autoencoder(str(tmp_path / "vae.safetensors"), tmp_path / "out", config))
    assert LatentNormalisation.of(imported) == MinMax().from_statistics(LatentStatistics(**AUTHORS, count=None))
    for name, tensor in exchanged.autoencoder().state_dict().items():
        assert torch.equal(imported.state_dict()[name], tensor.half().float()), name


def test_a_checkpoint_with_diffusers_names_and_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = exchanged.heads()
    state = {f"model.vae.{name}": tensor for name, tensor in exchanged.autoencoder().state_dict().items()}
    for name, tensor in theirs.state_dict().items():
        if "_head." in name:
            state["model.align_" + name.replace("pooled_head", "cls_mlp").replace("patch_head", "patch_mlp")] = tensor
    out = import_autoencoder(str(save(tmp_path / "a.pt", {"state_dict": state})), tmp_path / "out", GROUPS)
    assert "alignment heads from model.align_patch_mlp and model.align_cls_mlp" in capsys.readouterr().err
    assert weights_fingerprint(load_autoencoder(out)) == weights_fingerprint(exchanged.autoencoder())
    latents = torch.randn(1, tiny.CHANNELS, 4, 4)
    assert torch.equal(AlignHeads.load(out).patch(latents), theirs.patch(latents))
    assert torch.equal(AlignHeads.load(out).pooled(latents), theirs.pooled(latents))
    origin = read_origin(out)
    assert origin is not None
    # The default of our own configuration is no fact about theirs.
    assert origin.alignment == Alignment(encoder=None, weight=None)


def test_a_release_without_safetensors(released: Path, tmp_path: Path) -> None:
    pickled = save(released / "diffusion_pytorch_model.bin", exchanged.autoencoder().state_dict())
    (released / exchanged.WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"as diffusion_pytorch_model\.bin only; give that file, .* --statistics"):
        import_autoencoder(str(released), tmp_path / "out")
    config = ImportConfig(norm_groups=4, statistics=released / "mean_std.json")
    out = import_autoencoder(str(pickled), tmp_path / "out", config)
    assert weights_fingerprint(load_autoencoder(out)) == weights_fingerprint(exchanged.autoencoder())


def test_a_checkpoint_that_would_run_code(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", {"state_dict": compvis(), "hyper_parameters": Namespace(lr=1e-4)})
    with pytest.raises(UserError, match=r"holds a argparse\.Namespace besides tensors") as caught:
        import_autoencoder(str(path), tmp_path / "out", GROUPS)
    message = str(caught.value)
    assert "\n" not in message
    # The program in the message does what it says.
    program = message[message.index('"') + 1 : message.rindex('"')]
    assert "weights_only=False" in program
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    out = import_autoencoder(str(tmp_path / "tensors.pt"), tmp_path / "out", GROUPS)
    assert weights_fingerprint(load_autoencoder(out)) == weights_fingerprint(exchanged.autoencoder())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole file of tensors"),
        (b"hello", "not a whole file of tensors"),
        (None, "not a whole file of tensors"),
    ],
)
def test_damaged_checkpoints(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", {"state_dict": compvis()})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match=message) as caught:
        import_autoencoder(str(path), tmp_path / "out", GROUPS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_something_else(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"state_dict": {"layer.weight": torch.zeros(1)}})
    with pytest.raises(UserError, match=r"a\.pt: holds no autoencoder"):
        import_autoencoder(str(path), tmp_path / "out")
    path = save(tmp_path / "a.pt", [torch.zeros(1)])
    with pytest.raises(UserError, match="holds a list instead of named tensors"):
        import_autoencoder(str(path), tmp_path / "out")
    path = save(tmp_path / "a.pt", {"state_dict": compvis()})
    with pytest.raises(UserError, match=r"a\.pt: a level has 8 channels, no multiple of 32 groups; give --norm-groups"):
        import_autoencoder(str(path), tmp_path / "out")
    with pytest.raises(UserError, match="nowhere: no such directory"):
        import_autoencoder(str(tmp_path / "nowhere"), tmp_path / "out")


def test_flags_that_do_not_fit(released: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--weights ema: only a checkpoint file holds several"):
        import_autoencoder(str(released), tmp_path / "out", ImportConfig(weights="ema"))
    with pytest.raises(UserError, match="released: exists already"):
        import_autoencoder(str(released), released)
    with pytest.raises(ValueError, match="factor is 0"):
        ImportConfig(factor=0.0)
    with pytest.raises(ValueError, match="norm_groups is 0"):
        ImportConfig(norm_groups=0)

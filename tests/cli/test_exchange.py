"""The verbs export, import, push and pull from the command line."""

from pathlib import Path

import numpy as np
import pytest

from reals.apps import sharing
from reals.latents.normalise import LatentNormalisation
from reals.models.transformer import TransformerConfig
from reals.runtime.io import save_state
from tests.apps import exchanged
from tests.apps.test_sharing import Hub
from tests.cli.test_bad_input import Refused, refused  # noqa: F401
from tests.latents import tiny
from tests.recipes.runs import reals


def test_export_and_import_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = exchanged.trained(tmp_path / "trained")
    assert reals("export", trained, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"autoencoder: {tmp_path / 'out'}"
    assert reals("import", tmp_path / "out", "--out", tmp_path / "back") == 0
    shown = capsys.readouterr().err
    assert f"normalisation: as it was, shift {exchanged.MAP.shift:g}, scale {exchanged.MAP.scale:g}" in shown
    assert exchanged.same(trained, tmp_path / "back")
    assert reals("export", trained, "--out", tmp_path / "half", "--normalisation", "folded", "--dtype", "float16") == 0


@pytest.mark.parametrize(("flags", "private"), [((), False), (("--private",), True), (("--private", "False"), False)])
def test_push_and_pull(flags: tuple[str, ...], private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(sharing, "_client", lambda: hub)
    monkeypatch.setattr(sharing, "_hub", lambda: hub)
    trained = exchanged.trained(tmp_path / "trained")
    assert reals("push", trained, "someone/vae", *flags, "--license", "mit") == 0
    assert hub.private == {"someone/vae": private}
    assert reals("pull", "someone/vae", "--out", tmp_path / "out", "--revision", "v1") == 0
    assert hub.revision == "v1"
    assert exchanged.same(trained, tmp_path / "out", but=frozenset({"README.md"}))


def test_mistakes_cost_one_line(tmp_path: Path, refused: Refused) -> None:  # noqa: F811
    out = ("--out", tmp_path / "out")
    assert refused("export", "x/y") == "export: missing --out PATH; see --help"
    assert "no such directory" in refused("export", tmp_path / "absent", *out)
    assert "--dtype" in refused("export", "x", *out, "--dtype", "float8")
    assert "no such directory" in refused("import", tmp_path / "absent", *out)
    assert refused("import", "x", *out, "--factor", "0") == "import: factor is 0.0; it must be positive"
    assert "--normalisation" in refused("import", "x", *out, "--normalisation", "minmax")
    assert refused("push", tmp_path) == "push: missing REPO_ID; see --help"
    assert "is no repository's name" in refused("push", tmp_path, "vae")
    assert "is no repository's name" in refused("pull", "vae", *out)
    assert "unknown flag '--privat'; did you mean '--private'?" in refused("push", tmp_path, "a/b", "--privat", "True")
    assert list(tmp_path.iterdir()) == []


def published(path: Path) -> Path:
    """Write a transformer as DiT's code saves it, of a size that nobody published, and return its path."""
    config = TransformerConfig(depth=1, width=16, heads=2, patch_size=2, learn_sigma=True)
    save_state(path, config.build(tiny.CHANNELS, 8, 5).state_dict())
    return path


def test_a_published_generator_is_imported_sampled_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae = exchanged.trained(tmp_path / "vae", LatentNormalisation(shift=0.0, scale=0.18215), aligned=False)
    source, made = published(tmp_path / "DiT-tiny.pt"), tmp_path / "generator"
    flags = ("--autoencoder", vae, "--heads", 2)
    assert reals("import", "--generator", source, *flags, "--out", made) == 0
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"{source}: a DiT of 5 classes, 8x8 latents, 16x16 pixels", f"generator: {made}"]
    output = tmp_path / "images.npz"
    sampling = ("--autoencoder", vae, "--count", 2, "--solver.steps", 2, "--guidance-scale", 1.5)
    assert reals("sample", f"--generator={made}", *sampling, "--out", output) == 0
    assert np.load(output)["arr_0"].shape == (2, 16, 16, 3)
    assert reals("export", f"--generator={made}", "--out", tmp_path / "back.pt", "--family", "DiT") == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"generator: {tmp_path / 'back.pt'}"
    again = ("--generator", tmp_path / "back.pt", "--family", "DiT", "--out", tmp_path / "again")
    assert reals("import", *again, *flags) == 0
    assert exchanged.same(made, tmp_path / "again")
    assert reals("export", "--generator", made, "--out", tmp_path / "diffusers", "--copied", True) == 0
    assert (tmp_path / "diffusers" / "config.json").exists()


@pytest.mark.parametrize(("verb", "flag"), [("import", "--interpolant"), ("export", "--projector")])
def test_help_on_generators(verb: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        reals(verb, "--generator", "--help")
    assert not ended.value.code
    assert flag in capsys.readouterr().out


def test_mistakes_with_generators_cost_one_line(tmp_path: Path, refused: Refused) -> None:  # noqa: F811
    out = ("--out", tmp_path / "out")
    assert refused("import", "--generator", "x.pt", *out) == "import: missing --autoencoder STR; see --help"
    assert refused("export", "--generator", "x") == "export: missing --out PATH; see --help"
    assert "no such file or directory" in refused("import", "--generator", "x.pt", "--autoencoder", "y", *out)
    assert "not a generator" in refused("export", "--generator", tmp_path / "absent", *out)
    assert "unknown flag '--famly'; did you mean '--family'?" in refused(
        "export", "--generator", "x", "--famly", "SiT", *out
    )
    published(tmp_path / "DiT-tiny.pt")
    assert "give heads" in refused("import", "--generator", tmp_path / "DiT-tiny.pt", "--autoencoder", "y", *out)
    assert not (tmp_path / "out").exists()

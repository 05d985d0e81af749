"""The verbs export, import, push and pull from the command line."""

from pathlib import Path

import pytest

from reals.apps import sharing
from tests.apps import exchanged
from tests.apps.test_sharing import Hub
from tests.cli.test_bad_input import Refused, refused  # noqa: F401
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

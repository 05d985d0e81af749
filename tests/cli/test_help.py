"""Help is quick because it imports nothing heavy, and it names every flag."""

import subprocess
import sys

import pytest

from reals import __version__
from reals.cli.main import VERBS, _dispatch

HEAVY = ("torch", "numpy", "diffusers", "transformers", "datasets", "accelerate", "sklearn", "torchmetrics", "PIL")


def imported_by(*arguments: str) -> set[str]:
    """Return which heavy packages a command imports, in a fresh process; its output is thrown away."""
    program = f"""
import contextlib, io, sys
from reals.cli.main import _dispatch
code = 0
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    code = _dispatch({list(arguments)!r})
assert not code and "reals" in shown.getvalue(), shown.getvalue()
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_overview_imports_nothing_heavy() -> None:
    assert imported_by("--help") == set()


@pytest.mark.parametrize("verb", ["report", "evaluate", "verify", "export", "import", "push", "pull"])
def test_help_of_what_needs_no_recipe_imports_nothing_heavy(verb: str) -> None:
    assert imported_by(verb, "--help") == set()


def test_help_of_a_recipe_imports_no_hub_client() -> None:
    """A recipe's settings lie beside the networks, which need torch, but nothing is loaded or downloaded."""
    assert imported_by("run", "--help") <= {"torch", "numpy", "accelerate", "PIL"}


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert _dispatch(arguments) == 0
        shown = capsys.readouterr().out
        for verb, (_, summary) in VERBS.items():
            assert f"  {verb} " in shown
            assert summary in shown


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _dispatch(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


FLAGS = {
    "run": ("--data", "--out", "--arms", "--align.weight", "--stage2.steps", "--sampling.guidance-scales", "--seed"),
    "quickstart": ("--out", "--stage2.steps"),
    "align": ("--data", "--out", "--align.weight", "--stage1.training.steps"),
    "encode": ("--data", "--autoencoder", "--out"),
    "train": ("--latents", "--autoencoder", "--out", "--stage2.batch-size"),
    "sample": ("--generator", "--autoencoder", "--out", "--count", "--guidance-scale", "--solver.steps", "--seed"),
    "evaluate": ("REFERENCE", "SAMPLES", "--out", "--replicates"),
    "export": ("AUTOENCODER", "--out", "--normalisation", "--dtype", "--pipeline-factor"),
    "import": ("SOURCE", "--out", "--normalisation", "--factor", "--statistics", "--weights", "--norm-groups"),
    "push": ("DIR", "REPO_ID", "--private", "--license"),
    "pull": ("REPO_ID", "--out", "--revision"),
    "analyze": ("DIR", "--data", "--out", "--encoder", "--images"),
    "report": ("DIR",),
    "verify": ("A", "B"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_its_flags(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _dispatch([verb, "--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].startswith(f"usage: reals {verb}")
    for flag in FLAGS[verb]:
        assert flag in shown


def test_help_shows_the_values_of_the_chosen_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    for recipe, size in (("debug", 16), ("photos256", 256)):
        with pytest.raises(SystemExit):
            _dispatch(["run", "--recipe", recipe, "--help"])
        assert f"(default: {size})" in capsys.readouterr().out


def test_the_installed_program_exits_as_promised() -> None:
    program = [sys.executable, "-c", "from reals.cli import main; main()"]
    done = subprocess.run([*program, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")
    done = subprocess.run([*program, "quikstart"], capture_output=True, text=True)
    expected = "reals: unknown command 'quikstart'; did you mean 'quickstart'?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)

"""A mistake costs one line: what is wrong, where, what to do. Nothing is left that would be in the way afterwards."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.recipes.data import prepare_store
from reals.recipes.presets import preset
from reals.recipes.workspace import RunDirectory
from tests.recipes.runs import contents, reals

Refused = Callable[..., str]
RUN = ("run", "--recipe", "debug")


def png(number: int, size: int = 16) -> bytes:
    """Return an image file whose pixels depend on ``number``."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files given as {relative name: bytes} below ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in two class folders, enough for the smallest recipe."""
    return write(tmp_path_factory.mktemp("data") / "photos", {f"{'ab'[i % 2]}/{i:02d}.png": png(i) for i in range(60)})


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail with one line, and return that line without ``"reals: "``."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        code = reals(*arguments)
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.startswith("reals: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        return err.removeprefix("reals: ").rstrip("\n")

    return run


BAD_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda root: root / "nope", "no such file or folder"),
    "empty": (lambda root: write(root / "empty", {}), "no images found"),
    "one": (lambda root: write(root / "one", {"1.png": png(1)}), "has 1 image; at least 2"),
    "small": (
        lambda root: write(root / "small", {f"{i}.png": png(i, 8) for i in range(30)}),
        "8 x 8 pixels, fewer than the image size 16",
    ),
    "few": (
        lambda root: write(root / "few", {f"{'ab'[i % 2]}/{i}.png": png(i) for i in range(12)}),
        "photos to train on; measuring needs at least 20",
    ),
    "damaged": (lambda root: write(root / "damaged", {f"{i}.png": b"?" for i in range(30)}), "30 of 30 images cannot"),
    "not an image": (lambda root: write(root, {"notes.txt": b"hello"}) / "notes.txt", "neither a zip nor a Parquet"),
    "no zip": (lambda root: write(root, {"fake.zip": b"hello"}) / "fake.zip", "damaged or cut short"),
    "truncated zip": (lambda root: truncated_zip(root / "cut.zip"), "damaged or cut short"),
    "no count": (lambda root: "scenes:many", "give a number of at least 2 scenes"),
    "one scene": (lambda root: "scenes:1", "give a number of at least 2 scenes"),
}


def truncated_zip(path: Path) -> Path:
    """Write the first half of a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(30):
            archive.writestr(f"{i}.png", png(i))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_do_not_spoil_the_directory(
    kind: str, tmp_path: Path, photos: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = BAD_DATA[kind]
    location, out = make(tmp_path), tmp_path / "out"
    if kind == "few":
        # Here decoding succeeds, and says so.
        assert reals(*RUN, "--data", location, "--out", out) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    else:
        assert message in refused(*RUN, "--data", location, "--out", out)
    if kind not in ("one", "small", "few", "damaged"):
        assert not out.exists(), "data that cannot be opened: nothing is written"
    # The corrected command is accepted: all that happens before training works.
    assert "patch_size" in refused(*RUN, "--data", photos, "--out", out, "--generator.patch-size", "3")
    recipe = preset("debug")
    RunDirectory(out).claim(str(photos), recipe)
    assert len(prepare_store(str(photos), RunDirectory(out).images, recipe.data)) == 60


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--stage2.stepz", "5"), "unknown flag '--stage2.stepz'; did you mean '--stage2.steps'?"),
        (("--stage2.steps", "five"), "--stage2.steps: invalid literal for int() with base 10: 'five'"),
        (("--stage2.steps", "0"), "stage2: steps is 0; it must be at least 1"),
        (("--stage2.steps",), "Missing value for argument '--stage2.steps'"),
        (("stray",), "unexpected 'stray'"),
        (("--align.weight", "-1"), "align: weight is -1.0; it must not be negative"),
        (("--data.held-out-fraction", "2"), "held_out_fraction is 2.0"),
        (("--data.image-size", "15"), "images of 15 pixels do not divide into cells of 2"),
        (("--sampling.count", "0"), "sampling: count is 0"),
        (("--sampling.guidance-interval", "0.9", "0.1"), "guidance interval is 0.9 to 0.1"),
        (("--sampling.solver.steps", "0"), "sampling.solver: steps is 0"),
        (("--evaluation.replicates", "1"), "evaluation: replicates is 1"),
        (("--generator.heads", "5"), "heads is 5; it must divide the width, 32"),
        (("--generator.patch-size", "3"), "patch_size is 3, which does not divide the 8x8 latent"),
        (("--arms", "baselin"), "unknown arm 'baselin'; did you mean 'baseline'?"),
        (("--arms", "baseline", "baseline"), "name each arm once"),
        (("--arms",), "name each arm once"),
    ],
)
def test_bad_flags_make_no_directory(
    flags: tuple[str, ...], message: str, tmp_path: Path, photos: Path, refused: Refused
) -> None:
    assert message in refused(*RUN, "--data", photos, "--out", tmp_path / "out", *flags)
    assert list(tmp_path.iterdir()) == []


def test_names_that_do_not_exist(tmp_path: Path, refused: Refused) -> None:
    assert refused("rnu") == "unknown command 'rnu'; did you mean 'run'?"
    out = ("--data", "scenes:50", "--out", tmp_path / "out")
    assert refused("run", "--recipe", "quickstrt", *out) == "unknown recipe 'quickstrt'; did you mean 'quickstart'?"
    assert refused("run", "--recipe", "--data", "x") == "--recipe: a value is missing"
    message = "--sampler: unknown 'eler'; did you mean 'euler'?"
    assert refused("sample", "--sampler", "eler", "--out", tmp_path / "x.npz") == message
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(tmp_path: Path, refused: Refused) -> None:
    assert refused(*RUN, "--out", tmp_path / "out") == "run --recipe debug: missing --data STR; see --help"
    assert refused(*RUN, "--data", "x") == "run --recipe debug: missing --out PATH; see --help"
    assert refused("report") == "report: missing DIR; see --help"
    assert refused("evaluate", "x") == "evaluate: missing SAMPLES; see --help"
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path, photos: Path, refused: Refused) -> None:
    foreign = write(tmp_path / "thesis", {"chapter.txt": b"years of work", "images/figure.png": png(0)})
    before = contents(foreign)
    for verb in ("run", "align"):
        message = refused(verb, "--recipe", "debug", "--data", photos, "--out", foreign)
        assert message == f"{foreign}: is not empty and not a run of reals; give another --out"
    assert contents(foreign) == before


@pytest.mark.parametrize("inside", ["", "below", "far/below"])
def test_a_file_in_the_way_is_left_alone(inside: str, tmp_path: Path, photos: Path, refused: Refused) -> None:
    file = write(tmp_path, {"notes.txt": b"hello"}) / "notes.txt"
    message = f"{file}: is a file; give a directory as --out"
    out = file / inside if inside else file
    assert refused(*RUN, "--data", photos, "--out", out) == message
    assert refused("encode", "--recipe", "debug", "--data", photos, "--autoencoder", "x/y", "--out", out) == message
    placed = f"{file}: is a file; give a path below a directory as --out"
    assert refused("evaluate", photos, photos, "--out", out / "result.json") == placed
    assert refused("sample", "--generator", "x", "--autoencoder", "y", "--out", out / "samples.npz") == placed
    assert file.read_bytes() == b"hello"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a directory that nobody can write")
def test_a_place_that_cannot_be_written(photos: Path, refused: Refused) -> None:
    assert "cannot be written" in refused(*RUN, "--data", photos, "--out", "/proc/reals")


@pytest.mark.slow
def test_another_run_is_left_alone(debug_run: Path, photos: Path, refused: Refused) -> None:
    before = contents(debug_run)
    there = (*RUN, "--out", debug_run, "--data")
    assert "holds another run (stage2.steps is 4 there, 5 now)" in refused(*there, "scenes:120", "--stage2.steps", "5")
    assert "holds another run (data is 'scenes:120' there, 'scenes:121' now)" in refused(*there, "scenes:121")
    message = refused("run", "--recipe", "photos32", "--data", "scenes:120", "--out", debug_run)
    assert "holds another run (name is 'debug' there, 'photos32' now); give another --out" in message
    assert contents(debug_run) == before


@pytest.mark.slow
def test_sampling_from_what_does_not_belong_together(debug_run: Path, tmp_path: Path, refused: Refused) -> None:
    aligned, baseline = debug_run / "aligned", debug_run / "baseline"
    empty = write(tmp_path / "empty", {})

    def sample(generator: Path, autoencoder: Path, name: str = "x.npz", *more: object) -> str:
        out = tmp_path / "samples" / name
        return refused("sample", "--generator", generator, "--autoencoder", autoencoder, "--out", out, *more)

    assert "not a generator (no config.json)" in sample(empty, aligned / "autoencoder")
    assert "not a generator" in sample(tmp_path / "absent", aligned / "autoencoder")
    assert "holds no readable AutoencoderKL" in sample(aligned / "generator", empty)
    assert "no such directory" in sample(aligned / "generator", tmp_path / "absent")
    mismatch = sample(aligned / "generator", baseline / "autoencoder")
    assert "not the autoencoder in whose latent space" in mismatch
    fitting = (aligned / "generator", aligned / "autoencoder")
    assert "give an output that ends in .npz" in sample(*fitting, "x.txt")
    assert sample(*fitting, "x.npz", "--count", 0) == "sample: count is 0; it must be at least 1"
    assert "guidance scale is -1.0" in sample(*fitting, "x.npz", "--guidance-scale", -1)
    assert "solver: steps is 0" in sample(*fitting, "x.npz", "--solver.steps", 0)
    assert not (tmp_path / "samples").exists()


@pytest.mark.slow
def test_training_on_another_autoencoders_latents(debug_run: Path, tmp_path: Path, refused: Refused) -> None:
    latents, other = debug_run / "aligned" / "latents", debug_run / "baseline" / "autoencoder"
    train = ("train", "--recipe", "debug", "--out", tmp_path / "out")
    assert "made by another autoencoder" in refused(*train, "--latents", latents, "--autoencoder", other)
    assert "not a complete cache" in refused(*train, "--latents", tmp_path / "absent", "--autoencoder", other)
    # The mistake can be mended in the same directory.
    RunDirectory(tmp_path / "out").check(str(latents), preset("debug"))


@pytest.mark.slow
def test_encoding_does_not_replace_what_is_there(
    debug_run: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write(tmp_path / "out" / "autoencoder", {"precious.txt": b"weights"})
    plain, store = debug_run / "base", debug_run / "images"
    encode = ("encode", "--recipe", "debug", "--data", store, "--out", tmp_path / "out", "--autoencoder")
    assert "is in the way of a copy" in refused(*encode, plain)
    assert "no such directory" in refused(*encode, tmp_path / "absent")
    assert contents(own) == contents(write(tmp_path / "same", {"precious.txt": b"weights"}))
    (own / "precious.txt").unlink()
    own.rmdir()
    assert reals(*encode, plain) == 0
    before = contents(tmp_path / "out")
    capsys.readouterr()
    # Another autoencoder without statistics: the copy of the first one must not pass for its own.
    other = write(
        tmp_path / "other",
        {
            "config.json": (plain / "config.json").read_bytes(),
            "diffusion_pytorch_model.safetensors": (
                debug_run / "baseline" / "autoencoder" / "diffusion_pytorch_model.safetensors"
            ).read_bytes(),
        },
    )
    assert "is a copy of another autoencoder than" in refused(*encode, other)
    assert contents(tmp_path / "out") == before


def test_nothing_to_report(tmp_path: Path, refused: Refused) -> None:
    assert "no such directory" in refused("report", tmp_path / "absent")
    assert "there is nothing to report" in refused("report", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sets_that_cannot_be_compared(tmp_path: Path, photos: Path, refused: Refused) -> None:
    out = ("--out", tmp_path / "result.json")
    few = write(tmp_path / "few", {"1.png": png(1)})
    larger = write(tmp_path / "larger", {f"{i}.png": png(i, 24) for i in range(5)})
    assert "no such file or folder" in refused("evaluate", tmp_path / "absent", photos, *out)
    assert "absent.npz: no such file" in refused("evaluate", photos, tmp_path / "absent.npz", *out)
    assert "holds 1 images; give at least 4" in refused("evaluate", photos, few, *out)
    assert "bring both to one size" in refused("evaluate", photos, larger, *out)
    assert not (tmp_path / "result.json").exists()


def test_a_real_process_shows_no_traceback(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from reals.cli import main; main()"]
    command = [*program, *RUN, "--data", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"reals: {tmp_path / 'absent'}: no such file or folder; a dataset on the Hugging Face hub is written "
        "hf:owner/name"
    ]
    assert list(tmp_path.iterdir()) == []

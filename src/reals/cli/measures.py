"""``reals evaluate``, ``reals verify`` and ``reals report``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reals.cli.parse import parse
from reals.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

    from reals.apps.evaluation_request import Extras
    from reals.evaluation.inception import InceptionFeatures
    from reals.recipes.evaluation_inputs import TrainedGenerator

_NOT_COMPARABLE_EXIT_CODE = 1
_REFERENCE_SIZE = 256
_KEPT = 10_000
_PUBLISHED = "published"
# What --make-reference does not ignore.
_OF_REFERENCES = ("make_reference", "inception", "inception_sha256", "size", "kept", "seed")


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Compare two sets of images.

    Each is a zip, a folder, a Parquet file, ``hf:OWNER/NAME``, or an ``.npz`` in the ADM layout. Under ``torchrun`` the
    processes share the networks' work.
    """

    reference: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="REFERENCE")] = None
    """The photos that the samples should look like; an ADM reference batch may hold their statistics."""
    samples: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="SAMPLES")] = None
    """The generated images; or a generator's directory, which then makes them, with --autoencoder and --count."""
    out: Path | None = None
    """Also write the result, with its protocol, to this JSON file."""
    inception: str | None = None
    """Weights of the FID Inception network: a path, an https address, owner/name:file of the hub, or "published" for
    the published file's address. Gives inception_score, fid, sfid, precision and recall as the ADM evaluator does."""
    inception_sha256: str = _PUBLISHED
    """What the SHA-256 of that file must be; "any" accepts other weights, whose distances are no FID."""
    baseline: str | None = None
    """Other samples, or the directory of another generator: to say how SAMPLES differ from them, with intervals of the
    difference."""
    arithmetic: Literal["exact", "adm_fp16"] = "exact"
    """Of precision and recall: decided exactly, or with ADM's float16 distances."""
    labels: Literal["random", "balanced", "unconditional", "unknown"] | None = None
    """How the classes of SAMPLES and --baseline were chosen, for the protocol; by default what lies beside them says.
    """
    cache: bool = True
    """Keep the features of downloaded networks under the hash of the images, and a generator's samples; reuse them."""
    more: bool = False
    """Also measure KID, density, coverage and the Fréchet distance extrapolated to infinitely many samples."""
    per_class: bool = False
    """Also measure the Fréchet distance of each class, of labelled sets; into --out."""
    nearest: Path | None = None
    """Also save a picture of the samples that look most like copies of REFERENCE's images, beside those images."""
    reconstructions: bool = False
    """SAMPLES are reconstructions of REFERENCE's images, in the same order: also measure PSNR and SSIM."""
    lpips: str | None = None
    """Of --reconstructions: VGG16's ImageNet weights under torchvision's names, to measure LPIPS as well."""
    dinov2: str | None = None
    """Also compare in the features of this DINOv2 model: a directory or a hub id."""
    clip: str | None = None
    """Also measure CMMD with this CLIP model: a directory, or a hub id such as openai/clip-vit-large-patch14-336."""
    autoencoder: Path | None = None
    """Of a generator as SAMPLES: the autoencoder in whose latent space it was trained."""
    baseline_autoencoder: Path | None = None
    """Of a generator as --baseline: its autoencoder; by default the one of --autoencoder."""
    count: int | None = None
    """Of a generator: how many images it makes, by the defaults of ``reals sample``."""
    make_reference: tuple[str, Path] | None = None
    """DATA OUT.npz: instead, write a reference batch of a set of photos, which the ADM evaluator reads as well."""
    size: int | None = None
    """Crop image files and datasets as ADM does to this side; without it sizes must agree, --make-reference takes 256.
    """
    kept: int = _KEPT
    """Of --make-reference: how many images it holds; its statistics are of all."""
    replicates: int = 200
    """Bootstrap resamples behind the intervals."""
    seed: int = 0
    """Seeds the bootstrap, a generator's samples, and the choice of images that --make-reference keeps."""


@dataclass(frozen=True, kw_only=True)
class VerifyArguments:
    """Say whether the numbers of two evaluations may be compared, and if not, why; exit code 1 if none may."""

    one: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A.json")]
    """A result of ``reals evaluate --out``."""
    other: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B.json")]
    """Another."""


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write ``DIR/report.html``, one self-contained page, from a run's ``metrics.json`` and pictures."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """The run's directory."""


def evaluate(arguments: Sequence[str]) -> None:
    """Parse and run ``reals evaluate``."""
    parsed = parse(EvaluateArguments, arguments, verb="evaluate")
    if parsed.make_reference is not None:
        _make_reference(parsed)
        return
    if parsed.kept != _KEPT:
        raise UserError("evaluate: --kept says how many images --make-reference keeps; give both or neither")
    if parsed.inception is None and parsed.inception_sha256 != _PUBLISHED:
        raise UserError("evaluate: --inception-sha256 is of the file of --inception; give both or neither")
    # An empty word is a variable of the shell that was never set.
    if not parsed.reference or not parsed.samples:
        raise UserError(f"evaluate: missing {'SAMPLES' if parsed.reference else 'REFERENCE'}; see --help")
    if parsed.size is not None and parsed.size < 1:
        raise UserError(f"--size {parsed.size}: give at least 1")
    from reals.apps.evaluate import evaluate as measure
    from reals.apps.evaluation_table import render
    from reals.evaluation.shared_extraction import main_first
    from reals.models.weights import cache_directory
    from reals.recipes.evaluation_inputs import samples_directory
    from reals.recipes.pipeline import prepare_process
    from reals.runtime import dist

    device = prepare_process()
    with main_first():
        network = None if parsed.inception is None else _inception(parsed, device)
        extras = _extras(parsed, device)
    downloaded = any((parsed.inception, parsed.dinov2, parsed.clip))
    with samples_directory(cache_directory() / "samples", keep=parsed.cache) as directory:
        made = _made_samples(parsed, extras, directory, device)
        result = measure(
            parsed.reference,
            made.get("samples", parsed.samples),
            output=parsed.out,
            baseline=made.get("baseline", parsed.baseline),
            seed=parsed.seed,
            replicates=parsed.replicates,
            network=network,
            arithmetic=parsed.arithmetic,
            extras=extras,
            labels=parsed.labels,
            # The features of the network that comes with this program are hardly worth keeping.
            cache=cache_directory() / "features" if parsed.cache and downloaded else None,
            size=parsed.size,
            device=device,
        )
    if dist.is_main():
        sys.stdout.write(render(result) + "\n")


def _made_samples(
    parsed: EvaluateArguments, extras: "Extras", directory: Path, device: "torch.device"
) -> dict[str, str]:
    """Return the samples of those of SAMPLES and --baseline that are generators, after a look for every mistake."""
    from reals.apps.evaluation_request import check_request
    from reals.evaluation.image_sets import open_images
    from reals.evaluation.shared_extraction import main_first
    from reals.recipes.evaluation_inputs import generated_samples

    generators = _generators(parsed, parsed.samples or "")
    if not generators:
        return {}
    locations = {"reference": parsed.reference, "samples": parsed.samples, "baseline": parsed.baseline}
    with main_first():
        sets = {
            role: open_images(location, parsed.size)
            for role, location in locations.items()
            if location is not None and role not in generators
        }
        check_request(sets, extras, replicates=parsed.replicates, output=parsed.out)
    made = generated_samples(
        generators, directory, reference=sets["reference"], count=parsed.count or 0, seed=parsed.seed, device=device
    )
    return {role: str(path) for role, path in made.items()}


def _generators(parsed: EvaluateArguments, samples: str) -> "dict[str, TrainedGenerator]":
    """Return those of SAMPLES and --baseline that are generators, with their autoencoders."""
    from reals.recipes.evaluation_inputs import TrainedGenerator, is_generator

    places = {"samples": (samples, parsed.autoencoder, "--autoencoder")}
    if parsed.baseline is not None:
        autoencoder = parsed.baseline_autoencoder or parsed.autoencoder
        places["baseline"] = parsed.baseline, autoencoder, "--baseline-autoencoder"
    found: dict[str, TrainedGenerator] = {}
    for role, (place, autoencoder, flag) in places.items():
        if not is_generator(place):
            continue
        if autoencoder is None:
            raise UserError(f"{place}: is a generator; give its autoencoder with {flag}")
        if parsed.count is None:
            raise UserError(f"{place}: is a generator; say with --count how many images it should make")
        if parsed.reconstructions:
            raise UserError(f"{place}: is a generator, whose images reconstruct none; leave out --reconstructions")
        found[role] = TrainedGenerator(Path(place).expanduser(), autoencoder)
    if parsed.baseline_autoencoder is not None and "baseline" not in found:
        raise UserError(f"{parsed.baseline or 'evaluate'}: no generator as --baseline, for --baseline-autoencoder")
    for flag, given in (("--autoencoder", parsed.autoencoder), ("--count", parsed.count)):
        if given is not None and not found:
            raise UserError(f"{samples}: not a generator, which {flag} is for; give what 'reals train' wrote")
    return found


def _inception(parsed: EvaluateArguments, device: "torch.device") -> "InceptionFeatures":
    from reals.evaluation.inception import inception_features
    from reals.models.inception import INCEPTION_SHA256, INCEPTION_URL

    assert parsed.inception is not None
    location = INCEPTION_URL if parsed.inception == _PUBLISHED else parsed.inception
    known: dict[str, str | None] = {_PUBLISHED: INCEPTION_SHA256, "any": None}
    return inception_features(location, known.get(parsed.inception_sha256, parsed.inception_sha256), device)


def _extras(parsed: EvaluateArguments, device: "torch.device") -> "Extras":
    from reals.apps.evaluation_request import Extras
    from reals.evaluation.foundation import clip_features, dino_features
    from reals.models.lpips import Lpips

    if parsed.lpips is not None and not parsed.reconstructions:
        raise UserError("evaluate: --lpips compares images with their reconstructions; give --reconstructions True")
    loaders = ((parsed.dinov2, dino_features), (parsed.clip, clip_features))
    return Extras(
        more=parsed.more,
        per_class=parsed.per_class,
        nearest=parsed.nearest,
        reconstructions=parsed.reconstructions,
        lpips=None if parsed.lpips is None else Lpips(trunk=parsed.lpips).build(device),
        others=tuple(load(location, device) for location, load in loaders if location is not None),
    )


def _make_reference(parsed: EvaluateArguments) -> None:
    assert parsed.make_reference is not None
    location, out = parsed.make_reference
    for field in fields(parsed):
        if field.name not in _OF_REFERENCES and getattr(parsed, field.name) != field.default:
            name = "REFERENCE" if field.name == "reference" else f"--{field.name.replace('_', '-')}"
            raise UserError(f"evaluate: --make-reference takes DATA and OUT.npz and compares nothing; leave out {name}")
    if parsed.inception is None:
        raise UserError("evaluate: --make-reference needs the weights of the FID Inception network; give --inception")
    if out.suffix != ".npz":
        raise UserError(f"{out}: a reference batch is an .npz; give such a name")
    size = _REFERENCE_SIZE if parsed.size is None else parsed.size
    if size < 1 or parsed.kept < 1:
        raise UserError(f"evaluate: --size {size} and --kept {parsed.kept} must be at least 1")
    from reals.evaluation.reference import write_reference
    from reals.recipes.pipeline import prepare_process
    from reals.runtime import dist
    from reals.runtime.io import check_writable
    from reals.runtime.progress import say

    check_writable(out, "OUT.npz")
    device = prepare_process()
    if not dist.is_main():
        # The statistics are added up in order, by one process.
        return
    kept = write_reference(location, out, _inception(parsed, device), size=size, kept=parsed.kept, seed=parsed.seed)
    say(f"reference: {kept} images and the statistics of all in {out}")


def verify(arguments: Sequence[str]) -> None:
    """Parse and run ``reals verify``; exits with 1 where no metric of the two results may be compared."""
    parsed = parse(VerifyArguments, arguments, verb="verify")
    from reals.evaluation.protocol import check_result, differences
    from reals.runtime.io import read_json

    results: list[Any] = []
    for path in (parsed.one, parsed.other):
        results.append(read_json(path))
        check_result(results[-1], str(path))
    found = differences(*results)
    if not found:
        raise UserError(f"{parsed.one} and {parsed.other} have no metric in common; evaluate both with one network")
    for name, reasons in found.items():
        verdict = "not comparable" if reasons else "comparable"
        sys.stdout.write(f"{name}: {verdict}{''.join(f'; {reason}' for reason in reasons)}\n")
    if all(found.values()):
        sys.exit(_NOT_COMPARABLE_EXIT_CODE)


def report(arguments: Sequence[str]) -> None:
    """Parse and run ``reals report``."""
    parsed = parse(ReportArguments, arguments, verb="report")
    from reals.apps.report import write_report
    from reals.runtime.progress import say

    say(f"report: {write_report(parsed.directory)}")

"""Finds the verb, imports only its module, and turns users' mistakes into one line and exit code 2."""

import importlib
import sys
from collections.abc import Sequence

from reals import __version__
from reals.runtime import dist
from reals.runtime.errors import Interrupted, UserError, nearest

# One line each; a verb's module is imported when the verb is run, so `reals --help` imports no torch.
VERBS: dict[str, tuple[str, str]] = {
    "run": ("reals.cli.pipeline:run", "photos in; aligned latent space, generator, samples and comparison out"),
    "quickstart": ("reals.cli.pipeline:quickstart", "the same on rendered scenes: no data, no network, minutes"),
    "align": ("reals.cli.stages:align", "stage 1: train or fine-tune the autoencoder with semantic alignment"),
    "encode": ("reals.cli.stages:encode", "cache the posterior of every photo, and the latent statistics"),
    "train": ("reals.cli.stages:train", "stage 2: train a diffusion transformer on cached latents"),
    "sample": ("reals.cli.stages:sample", "generate images into an .npz and a picture"),
    "evaluate": ("reals.cli.measures:evaluate", "distances and scores between two sets of images"),
    "verify": ("reals.cli.measures:verify", "whether the numbers of two evaluations may be compared, and why not"),
    "export": (
        "reals.cli.exchange:export",
        "an autoencoder or a generator for other programs",
    ),
    "import": ("reals.cli.exchange:import_", "an autoencoder or a generator from a checkpoint, a release or the hub"),
    "push": ("reals.cli.exchange:push", "an autoencoder to the Hugging Face Hub, with a model card"),
    "pull": ("reals.cli.exchange:pull", "an autoencoder from the Hugging Face Hub"),
    "analyze": ("reals.cli.analysis:analyze", "what latent spaces are worth, before generators are trained in them"),
    "report": ("reals.cli.measures:report", "one self-contained HTML page for a run"),
}

_MISTAKE_EXIT_CODE = 2
_INTERRUPTED_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit: 0 when done, 2 after a user's mistake, 130 when stopped with everything saved."""
    sys.exit(_dispatch(list(sys.argv[1:] if arguments is None else arguments)))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    verb, *rest = arguments
    try:
        if verb not in VERBS:
            raise UserError(f"unknown command '{verb}'{nearest(verb, VERBS)}")
        module, function = VERBS[verb][0].split(":")
        getattr(importlib.import_module(module), function)(rest)
        dist.leave()
    except UserError as error:
        _tell(str(error))
        return _MISTAKE_EXIT_CODE
    except Interrupted as interruption:
        _tell(f"{interruption}; run the same command again to go on")
        return _INTERRUPTED_EXIT_CODE
    except Exception:
        # What waiting for a process that stopped looks like in the others says nothing to the user.
        if dist.world_size() > 1 and dist.another_stopped():
            return _MISTAKE_EXIT_CODE
        raise
    return 0


def _tell(message: str) -> None:
    """Print why this process stops, unless another process of the launch has said why it does."""
    if dist.world_size() == 1 or dist.first_to_stop():
        print(f"reals: {message}", file=sys.stderr)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, (_, summary) in VERBS.items()]
    return "\n".join(
        [
            f"reals {__version__}: representation-aligned latent spaces for diffusion models",
            "",
            "usage: reals VERB [--flag value …]",
            "",
            *lines,
            "",
            "Every verb explains its flags with --help.  A first look: reals quickstart",
        ]
    )

"""Print how well numbers known before stage 2 order the generators trained after it.

``python tools/rank_correlation.py runs/a runs/b``; each run is finished and analysed (``reals analyze RUN``). Positive
ρ means that spaces which a number calls good had smaller distances; p is that of a permutation test, not corrected for
looking at many numbers. "Pairs" counts the arms of one run that a number orders rightly: the comparison that does not
depend on whether distances of different runs may be compared.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from reals.recipes.analysis_check import TARGET, Prediction, predictions, trained_spaces
from reals.runtime.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Which runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of finished, analysed runs."""
    target: str = TARGET
    """The measured distance that is to be predicted, as metrics.json names it."""


def row(prediction: Prediction) -> str:
    """Return one line of the table."""
    arrow = "↑" if prediction.better == "higher" else "↓"
    found = prediction.correlation
    numbers = "– | – | –" if found is None else f"{found.rho:+.2f} | {found.p_value:.3f} | {found.count}"
    return f"| {prediction.name} {arrow} | {numbers} | {prediction.pairs_right} of {prediction.pairs} |"


def main() -> None:
    """Print the table."""
    arguments = tyro.cli(Arguments, description=__doc__)
    try:
        spaces = trained_spaces(arguments.runs, arguments.target)
    except UserError as error:
        sys.stderr.write(f"rank_correlation: {error}\n")
        sys.exit(2)
    lines = [f"{len(spaces)} latent spaces of {len(arguments.runs)} runs; predicted: {arguments.target}", ""]
    if len({space.judge for space in spaces}) > 1:
        lines += ["The runs' distances come from different networks: read the pairs, not ρ.", ""]
    lines += ["| | ρ | p | n | pairs |", "|---|---|---|---|---|"]
    sys.stdout.write("\n".join([*lines, *(row(prediction) for prediction in predictions(spaces))]) + "\n")


if __name__ == "__main__":
    main()

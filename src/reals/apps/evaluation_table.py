"""An evaluation as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from reals.evaluation.protocol import one_line


def render(result: Mapping[str, Any], width: int = 100) -> str:
    """Return an evaluation as a text table followed by what it was measured on and the protocol in one line."""
    from rich.console import Console
    from rich.table import Table

    columns = ["metric", "value", "95 % interval"]
    compared = result.get("baseline", {}).get("comparison", {})
    table = Table(*columns, *(["baseline", "difference", "95 % interval", ""] if compared else []))
    for name, numbers in result["metrics"].items():
        row = [name, f"{numbers['value']:.4g}", f"{numbers['low']:.4g} – {numbers['high']:.4g}"]
        if name in compared:
            found = compared[name]
            low, high = found["difference_interval"]
            row += [f"{found['baseline']:.4g}", f"{found['difference']:+.4g}", f"{low:+.4g} – {high:+.4g}"]
            row.append(found["verdict"])
        table.add_row(*row)
    console = Console(width=width, color_system=None, force_terminal=False)
    protocol = result["protocol"]
    with console.capture() as capture:
        console.print(table)
        for role in ("reference", "samples", "baseline"):
            if images := protocol.get(role):
                line = f"{role}: {images['images']} images of {images['size']}, {images['location']}"
                console.print(line, soft_wrap=True, markup=False)
        if "not_reported" in protocol:
            console.print(f"not reported: {protocol['not_reported']}", soft_wrap=True, markup=False)
        console.print(one_line(result), soft_wrap=True, markup=False)
    return capture.get().rstrip("\n")

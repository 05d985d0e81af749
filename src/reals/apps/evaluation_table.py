"""An evaluation as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from reals.evaluation.protocol import one_line

_WORST_CLASSES = 5


def render(result: Mapping[str, Any], width: int = 100) -> str:
    """Return an evaluation as a text table followed by what it was measured on and the protocol in one line.

    Lines are as long as the table needs, ``width`` characters at least.
    """
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
    console = Console(width=1000, color_system=None, force_terminal=False)
    console.width = max(width, console.measure(table).maximum)
    with console.capture() as capture:
        console.print(table)
        for line in _lines(result):
            console.print(line, soft_wrap=True, markup=False)
    return capture.get().rstrip("\n")


def _lines(result: Mapping[str, Any]) -> list[str]:
    protocol = result["protocol"]
    lines = []
    for role in ("reference", "samples", "baseline"):
        if images := protocol.get(role):
            generator = images.get("made", {}).get("provenance", {}).get("generator")
            by = f", made by generator {generator[:12]}" if generator else ""
            lines.append(f"{role}: {images['images']} images of {images['size']}, {images['location']}{by}")
    if worst := result.get("per_class"):
        named = [f"{one.get('name', one['label'])} {one['distance']:.4g}" for one in worst[:_WORST_CLASSES]]
        lines.append(f"classes furthest from the reference: {', '.join(named)}")
    if "not_reported" in protocol:
        lines.append(f"not reported: {protocol['not_reported']}")
    return [*lines, one_line(result)]

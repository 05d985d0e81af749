"""The parts of the page on latent spaces: the score, the figures, the numbers; a run's report has them, too."""

from collections.abc import Callable

from reals.apps.report import formatting, latent_charts
from reals.apps.report.latent_catalogue import GROUPS, describe
from reals.apps.report.latent_charts import DotRow, chip, legend
from reals.apps.report.latent_inputs import Analysis, SpaceResult
from reals.apps.report.markup import Html, join, tag
from reals.apps.report.pictures import picture

_VIEWS = (("crop", "Crop"), ("flip", "Flip"), ("blur", "Blur"), ("grayscale", "Grayscale"), ("all", "All"))

PROMISE = (
    "The score is the mean share of the other spaces that a space beats, over the components below: 1 is best in all, "
    "0 worst in all. It orders these spaces and nothing else, and it is a promise: which of them suits a generator is "
    "only known after training one."
)


def figures(analysis: Analysis) -> list[tuple[str, str, Html]]:
    """Return (title, how to read it, figure), in reading order."""
    made: list[tuple[str, str, Callable[[Analysis], Html | None]]] = [
        ("Diffusability score", PROMISE, score),
        ("Map of classes", _ABOUT_MAP, class_maps),
        ("Which places belong together", _ABOUT_ATTENTION, attention),
        ("Semantic Consistency", _ABOUT_CONSISTENCY, consistency),
        ("What can be read from latents", _ABOUT_PROBES, probes),
        ("Spectra", _ABOUT_SPECTRA, spectra),
        ("Information per channel", _ABOUT_CHANNELS, channels),
        ("KL weight", _ABOUT_SWEEP, sweep),
    ]
    drawn = [(title, about, draw(analysis)) for title, about, draw in made]
    return [(title, about, html) for title, about, html in drawn if html is not None]


def score(analysis: Analysis) -> Html | None:
    """Return the score of every space and the points it is made of."""
    found = analysis.diffusability
    if found is None:
        return None
    heads = [tag("th", "Component", scope="col"), *(tag("th", chip(space), scope="col") for space in analysis.spaces)]
    rows = []
    for part in found["components"]:
        arrow = tag("span", "↑" if part["better"] == "higher" else "↓", class_="direction")
        label = describe(part["name"].replace("/*", "/")).label.removesuffix(" · ")
        cells = [tag("th", tag("b", label), " ", arrow, tag("small", part["because"]), scope="row")]
        points = found["points"][part["name"]]
        cells += [
            tag("td", f"{points[space.name]:.2f}", class_="number", data_label=space.name) for space in analysis.spaces
        ]
        rows.append(tag("tr", *cells))
    total = [tag("th", tag("b", "Score"), scope="row")]
    total += [
        tag("td", tag("b", f"{found['score'][space.name]:.2f}"), class_="number", data_label=space.name)
        for space in analysis.spaces
    ]
    body = tag("tbody", *rows, tag("tr", *total, class_="total"))
    missing = found["left_out"]
    note = tag("p", f"Not counted, as some space lacks it: {', '.join(missing)}.", class_="quiet") if missing else None
    return join([tag("table", tag("thead", tag("tr", *heads)), body, class_="metrics spaces"), note])


def class_maps(analysis: Analysis) -> Html | None:
    """Return the t-SNE maps side by side."""
    if not analysis.map_labels:
        return None
    maps = [latent_charts.class_map(space, analysis.map_labels) for space in analysis.spaces]
    columns = f"pictures columns-{min(max(len(maps), 2), 3)}"
    return join([latent_charts.class_legend(analysis.map_labels), tag("div", *maps, class_=columns)])


def attention(analysis: Analysis) -> Html:
    """Return the attention maps of every space beside the photos."""
    root = analysis.directory
    shown = [
        picture(root / analysis.photos, root, tag("span", "photos", class_="chip"), "photos, chosen places ringed")
    ]
    for space in analysis.spaces:
        words = f"similarity of the ringed place with all others in {space.name}"
        shown.append(picture(root / space.picture, root, chip(space), words))
    return tag("div", *shown, class_=f"pictures columns-{min(len(shown), 3)}")


def consistency(analysis: Analysis) -> Html:
    """Return Semantic Consistency under every augmentation, raw and centred."""
    panels = []
    for part, title in (("raw", "As the paper measures it"), ("centred", "Without the position template")):
        names = [(label, f"semantic_consistency/{view}/{part}") for view, label in _VIEWS]
        rows = [DotRow(label, name, f"{name}_between") for label, name in names]
        panels.append(tag("div", tag("h4", title), latent_charts.dots(analysis, rows)))
    return join([legend(analysis, "stroke: between different images"), *panels])


def probes(analysis: Analysis) -> Html | None:
    """Return probes, neighbours and likeness to the encoder."""
    names = (
        "latents/linear_probe_accuracy",
        "latents/linear_probe_accuracy_pooled",
        "latents/knn_accuracy",
        "latents/knn_accuracy_pooled",
    )
    likeness = ("semantic/cka_patch", "semantic/cka_patch_centred", "semantic/cka_pooled")
    parts = [legend(analysis)]
    if any(space.value(names[0]) is not None for space in analysis.spaces):
        rows = [DotRow(describe(name).label, name) for name in names]
        parts += [
            tag("h4", "Share of held-out photos classified correctly"),
            latent_charts.dots(analysis, rows, "share"),
        ]
    parts += [
        tag("h4", "Likeness to the semantic encoder (CKA; 1 is the same up to rotation)"),
        latent_charts.dots(analysis, [DotRow(describe(name).label, name) for name in likeness]),
    ]
    return join(parts)


def spectra(analysis: Analysis) -> Html:
    """Return the radial spectra of samples, with and without the template, and of means."""
    drawn = {
        "samples": "Posterior samples: what is generated",
        "centred": "Samples without the position template",
        "means": "Posterior means: content without noise",
    }
    charts = [latent_charts.spectra(analysis, which, title) for which, title in drawn.items()]
    return join([legend(analysis, "dashed: white noise"), tag("div", *charts, class_="curves")])


def channels(analysis: Analysis) -> Html:
    """Return the KL of every channel of every space."""
    return tag("div", *(latent_charts.channels(space) for space in analysis.spaces), class_="curves")


def sweep(analysis: Analysis) -> Html | None:
    """Return the paper's Figure 5 as far as it needs no generator."""
    measures: tuple[tuple[str, str, formatting.Kind], ...] = (
        ("latents/linear_probe_accuracy_pooled", "Linear probe, pooled", "share"),
        ("semantic_consistency/all/centred", "Semantic Consistency, all, centred", "plain"),
        ("reconstruction/psnr", "PSNR, dB", "decibel"),
        ("latents/std", "Standard deviation", "plain"),
    )
    return latent_charts.sweep(analysis, measures)


def numbers(analysis: Analysis) -> Html:
    """Return everything that was measured, with intervals."""
    names = list(dict.fromkeys(name for space in analysis.spaces for name in space.measured))
    heads = [tag("th", "Number", scope="col"), *(tag("th", chip(space), scope="col") for space in analysis.spaces)]
    bodies = []
    for group, (title, about) in GROUPS.items():
        inside = [name for name in names if describe(name).group == group]
        if not inside:
            continue
        head = tag("th", title, tag("small", about), colspan=len(heads), scope="rowgroup")
        rows = [tag("tr", head, class_="theme"), *(_number_row(analysis, name) for name in inside)]
        bodies.append(tag("tbody", *rows))
    return join(
        [
            tag("table", tag("thead", tag("tr", *heads)), *bodies, class_="metrics spaces"),
            _not_measured(analysis.spaces),
        ]
    )


def _number_row(analysis: Analysis, name: str) -> Html:
    entry = describe(name)
    arrow = {"higher": "↑", "lower": "↓"}.get(entry.better or "")
    direction = None if arrow is None else tag("span", arrow, title=f"{entry.better} is better", class_="direction")
    cells = [tag("th", tag("b", entry.label), " ", direction, tag("small", entry.meaning), scope="row", title=name)]
    for space in analysis.spaces:
        interval = space.interval(name)
        span = None
        if interval is not None:
            low, high = (formatting.quantity(end, entry.kind) for end in interval)
            span = tag("small", f"{low} to {high}")
        value = formatting.quantity(space.value(name), entry.kind)
        cells.append(tag("td", value, span, class_="number", data_label=space.name))
    return tag("tr", *cells)


def _not_measured(spaces: tuple[SpaceResult, ...]) -> Html | None:
    reasons: dict[str, list[str]] = {}
    for space in spaces:
        for name, why in space.not_measured.items():
            reasons.setdefault(f"{describe(name).label}: {why}", []).append(space.name)
    if not reasons:
        return None
    lines = [
        tag("li", reason, "" if len(names) == len(spaces) else f" ({', '.join(names)})")
        for reason, names in reasons.items()
    ]
    return join([tag("h3", "Not measured"), tag("ul", *lines, class_="plain quiet")])


_ABOUT_MAP = (
    "t-SNE of whole latents of held-out photos, one point a photo, one colour a class. Classes that form groups are "
    "close together in the space. Distances between groups and their sizes mean nothing."
)
_ABOUT_ATTENTION = (
    "Each picture shows how much every place of a latent resembles the ringed place (cosine similarity, without what "
    "all images share at a position): orange is alike, blue is opposite, grey is unrelated. In a semantic space the "
    "object lights up as a whole; in others only neighbours or nothing does."
)
_ABOUT_CONSISTENCY = (
    "Cosine similarity of the latents of two augmented views of one photo; further right is more consistent. Raw "
    "values flatter: a template that all latents share raises them for different photos, too (strokes). Read how far a "
    "dot lies from its stroke."
)
_ABOUT_PROBES = (
    "How much of the class can be read from latents, and how like the semantic encoder’s features they are. Bars are "
    "95\u202f% intervals."
)
_ABOUT_SPECTRA = (
    "Mean power by spatial frequency, in cycles per cell, each space divided by its own mean. Diffusion makes low "
    "frequencies first; a line that falls to the right is easier to generate than a flat one. A smooth template that "
    "all latents share makes it fall, too, and says nothing of images: the second chart is without it."
)
_ABOUT_CHANNELS = (
    "KL divergence to the prior of every channel, in nats per image, largest first. Hollow bars are dead: their content"
    " is less than 16\u202f% of their deviation, so they are noise that a generator has to make all the same."
)
_ABOUT_SWEEP = (
    "Against λ_k, the weight of the KL term; a larger dot is a larger standard deviation of latents. λ_k = 0 has no "
    "place on this axis."
)

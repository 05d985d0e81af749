"""Pictures as data URIs, so that the page is one file."""

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from reals.apps.report.markup import Html, tag

_LARGEST_PNG = 1_500_000
"""Bytes; a larger picture would make the page too heavy to send, so it is compressed."""

_LARGEST_SIDE = 2048


def picture(path: Path, root: Path, title: object, words: str) -> Html:
    """Return a figure of the PNG at ``path``, or a figure saying that it is absent or unreadable."""
    shown = path.relative_to(root).as_posix()
    if not path.exists():
        return _missing(title, Html(f"{tag('code', shown)} is not in the run’s directory."))
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            size, note, encoded = _encode(image, data)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return _missing(title, Html(f"{tag('code', shown)} is not a whole PNG."))
    image_tag = tag("img", src=encoded, alt=f"{words} ({shown})", width=size[0], height=size[1], loading="lazy")
    caption = tag("figcaption", title, tag("span", note, class_="note") if note else None)
    return tag("figure", caption, image_tag, class_="picture")


def _missing(title: object, why: Html) -> Html:
    return tag("figure", tag("figcaption", title), tag("p", why, class_="absent"), class_="picture")


def _encode(image: Image.Image, data: bytes) -> tuple[tuple[int, int], str, str]:
    if len(data) <= _LARGEST_PNG:
        return image.size, "", f"data:image/png;base64,{base64.b64encode(data).decode()}"
    smaller = image.convert("RGB")
    smaller.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=92, subsampling=0)
    encoded = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return smaller.size, "compressed for this page; the run’s directory has the original", encoded

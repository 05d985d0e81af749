"""Markup that cannot forget to escape: only :class:`Html` is taken as it is, every other text is escaped."""

import html
from collections.abc import Iterable

_VOID = {"br", "hr", "img", "link", "meta"}
_CHILDLESS = {"circle", "line", "path", "polygon", "polyline", "rect"}


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return ``value`` as markup: escaped, unless it is :class:`Html`."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(children: Iterable[object], separator: str = "") -> Html:
    """Return the children behind one another; None is left out."""
    return Html(text(separator).join(text(child) for child in children if child is not None))


def tag(name: str, /, *children: object, **attributes: str | int | float | bool | None) -> Html:
    """Return an element.

    ``class_`` and ``data_label`` become ``class`` and ``data-label``; an attribute that is None or False is left out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        parts.append(attribute if value is True else f'{attribute}="{html.escape(str(value))}"')
    opening = " ".join(parts)
    if name in _VOID:
        return Html(f"<{opening}>")
    if name in _CHILDLESS and not children:
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{join(children)}</{name}>")

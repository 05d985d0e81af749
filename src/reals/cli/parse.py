"""Flags to frozen dataclasses, by tyro; its boxed complaints become one line."""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import tyro

from reals.runtime.errors import UserError

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], arguments: Sequence[str], *, verb: str, **defaults: Any) -> Arguments:
    """Parse ``arguments`` into the dataclass ``kind``; prints help and exits for ``--help``.

    ``defaults`` are values of its fields that only the call knows, such as the chosen recipe.

    Raises:
        UserError: an unknown flag (the nearest one is named), a missing or unreadable value.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(
                tyro.conf.configure(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)(kind),
                args=list(arguments),
                default=_incomplete(kind, defaults) if defaults else None,
                prog=f"reals {verb}",
            )
            return parsed  # pyright: ignore[reportReturnType]
    except SystemExit as exit_request:
        if not exit_request.code:
            raise
        raise UserError(f"{verb}: {_one_line(complaint.getvalue())}") from None
    except ValueError as error:
        raise UserError(f"{verb}: {error}") from None


def _incomplete(kind: type[Arguments], defaults: Mapping[str, Any]) -> Arguments:
    """Return a ``kind`` with ``defaults``, in which the other required fields are marked as still to be given."""
    # Not by its constructor, to which a mark is a value of the wrong type.
    instance = object.__new__(kind)
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        declared = tyro.MISSING if field.default is MISSING else field.default
        object.__setattr__(instance, field.name, defaults.get(field.name, declared))
    return instance


def _one_line(boxed: str) -> str:
    """Return what tyro complains of, without its frame and its excerpts from the help."""
    sections = _sections(boxed)
    complaint = [line.strip() for line in sections[0]] if sections else []
    if not complaint:
        return "the flags could not be read; see --help"
    if complaint[0].startswith("Missing from"):
        # Below each option, further in, lies its help.
        margin = min(_indent(line) for line in sections[0][1:])
        missing = [line.strip() for line in sections[0][1:] if _indent(line) == margin]
        return f"missing {', '.join(missing)}; see --help"
    # The names of our own wrappers tell the user nothing.
    text = re.sub(r"^Error parsing (\w+Arguments: |recipe\.)?", "", re.sub(r"\s+", " ", " ".join(complaint)))
    if text.startswith("Unrecognized options: "):
        words = text.removeprefix("Unrecognized options: ").split(", ")
        flag = next((word for word in words if word.startswith("--")), None)
        text = f"unexpected '{words[0]}'" if flag is None else f"unknown flag '{flag.partition('=')[0]}'"
        return text + _suggestion(sections[1:])
    return text


def _sections(boxed: str) -> list[list[str]]:
    """Return the lines inside the frame, cut at its horizontal rules; the frame is ASCII where output is."""
    sections: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", boxed).splitlines()[1:]:
        inside = re.sub(r"^[│|] |[│|]\s*$", "", line).rstrip()
        if re.fullmatch(r"[\s─╰╯+-]*", inside):
            sections.append([])
        else:
            sections[-1].append(inside)
    return [section for section in sections if section]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _suggestion(sections: list[list[str]]) -> str:
    for section in sections:
        if section[0].strip().startswith("Perhaps you meant"):
            flag = next((line.split()[0] for line in section[1:] if line.strip().startswith("--")), None)
            return f"; did you mean '{flag}'?" if flag else "; see --help"
    return "; see --help"


def take_option(arguments: Sequence[str], flag: str, default: str) -> tuple[str, list[str]]:
    """Return the value of ``flag`` and the arguments without it; it must be known before the others can be read.

    Raises:
        UserError: the flag has no value.
    """
    rest: list[str] = []
    value = default
    iterator = iter(arguments)
    for argument in iterator:
        if argument == flag:
            following = next(iterator, None)
            if following is None or following.startswith("--"):
                raise UserError(f"{flag}: a value is missing")
            value = following
        elif argument.startswith(f"{flag}="):
            value = argument.removeprefix(f"{flag}=")
        else:
            rest.append(argument)
    return value, rest

"""Flags to frozen dataclasses, by tyro; its boxed complaints become one line."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from reals.runtime.errors import UserError

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], arguments: Sequence[str], *, verb: str, default: Arguments | None = None) -> Arguments:
    """Parse ``arguments`` into ``kind``; prints help and exits for ``--help``.

    Raises:
        UserError: an unknown flag (the nearest one is named), a missing or unreadable value.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(
                tyro.conf.configure(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)(kind),
                args=list(arguments),
                default=default,
                prog=f"reals {verb}",
            )
            return parsed  # pyright: ignore[reportReturnType]
    except SystemExit as exit_request:
        if not exit_request.code:
            raise
        raise UserError(f"reals {verb}: {_one_line(complaint.getvalue())}") from None
    except ValueError as error:
        raise UserError(f"reals {verb}: {error}") from None


def _one_line(boxed: str) -> str:
    """Return the first paragraphs of tyro's message without its frame."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    useful = [line for line in lines[1:] if line and not line.startswith("For full helptext")]
    return re.sub(r"\s+", " ", " ".join(useful[:4])).strip() or "the flags could not be read; see --help"


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

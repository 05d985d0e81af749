"""Errors a user can act on."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: one line saying what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


class Interrupted(Exception):
    """The process was asked to stop (SIGTERM or Ctrl-C) and has saved what it had; running again continues."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest option, else the list of options."""
    names = sorted(options)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; choose one of: {', '.join(names)}"

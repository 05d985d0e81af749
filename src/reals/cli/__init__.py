"""The command line: ``reals VERB [--flag value]``."""

from reals.cli.main import main

__all__ = ["main"]

"""Words in, words out: the command line, one file per command."""

from jaxnet.cli.commands import main

__all__ = ["main"]

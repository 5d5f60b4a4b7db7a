"""`python -m tutti` is the `tutti` command."""

from tutti.cli.main import entry

entry()

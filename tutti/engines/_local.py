"""The process that lends workers of the caller's own host to a run on several hosts."""

from __future__ import annotations

import json
import signal
import sys

from tutti._secure import Token
from tutti.engines._guest import serve
from tutti.errors import RunError


def main() -> None:
    """Join the caller that started this process; end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller hears Ctrl-C and decides
    terms = json.loads(sys.argv[2])
    token = Token.read(terms["token_file"])
    try:
        serve(terms["host"], terms["port"], token, workers=terms["workers"], once=False, wait_seconds=0.0)
    except RunError:
        sys.exit(1)  # the caller is gone, and with it whoever could be told

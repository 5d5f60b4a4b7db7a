"""The command that lends this host's processes to a caller on another one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tutti.cli.record import to_json
from tutti.errors import ParameterError


def join(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Serve the caller until it leaves."""
    from tutti._secure import Token
    from tutti.engines._guest import serve
    from tutti.engines._lobby import split_address

    host, port = split_address(args.join, "--join")
    if args.workers < 1:
        raise ParameterError("--workers", args.workers, "write how many processes this host lends, at least 1")
    if not args.wait >= 0:
        raise ParameterError("--wait", args.wait, "write a number of seconds")

    def say(what: str) -> None:
        if not args.quiet:
            print(f"tutti worker: {what}", file=sys.stderr, flush=True)

    serve(
        host, port, Token.read(args.token_file), workers=args.workers, wait_seconds=args.wait, once=args.once, say=say
    )
    if args.json:
        print(to_json({"caller": args.join, "workers": args.workers}))
    return 0

"""The `tutti` command: parse the arguments, run one command, turn every error into one clear message and exit code."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from tutti.errors import InputError, ModelError, TuttiError

EXIT_CODES = """\
exit codes:
  0    all is well
  1    the run failed
  2    bad input or usage; nothing ran
  3    not converged: the certificate did not reach tol; model and report are written all the same
  130  interrupted by Ctrl-C"""
OK, FAILED, BAD_INPUT, NOT_CONVERGED, INTERRUPTED = 0, 1, 2, 3, 130


class UsageError(InputError):
    """The command line itself is wrong."""


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are exceptions, so that --json and the exit codes hold for them too."""

    def error(self, message: str) -> NoReturn:
        unknown, _, option = message.partition("unrecognized arguments: ")
        if not unknown and option:
            known = [o for action in self._all_actions() for o in action.option_strings]
            near = difflib.get_close_matches(option.split()[0].split("=")[0], known, n=1)
            message = f"unknown argument {option!r}" + (f"; did you mean {near[0]}?" if near else "")
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _all_actions(self) -> Iterator[argparse.Action]:
        for action in self._actions:
            yield action
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser._actions


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; every option of the command line is declared here."""
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else there")
    common.add_argument("--debug", action="store_true", help="show the Python traceback of an error")
    common.add_argument("--quiet", action="store_true", help="no progress and no commentary, results only")

    data = _Parser(add_help=False, allow_abbrev=False)
    data.add_argument("model", metavar="MODEL", help="folder written by train or by est.save()")
    data.add_argument("data", metavar="DATA", help="file, folder, glob or URL of the rows")
    data.add_argument("--format", choices=("libsvm", "csv", "parquet"), help="of DATA; default: by its suffix")
    data.add_argument("--label", metavar="NAME", help="column of csv or parquet data that holds the labels")
    data.add_argument("--weight", metavar="NAME", help="column of csv or parquet data that holds the sample weights")
    data.add_argument("--zero-based", action="store_true", help="indices of libsvm data start at 0 instead of 1")
    data.add_argument("--delimiter", metavar="CHAR", default=",", help="between the values of csv data; default: ,")
    data.add_argument("--no-header", action="store_true", help="the first line of csv data is a row, not names")
    text = "of a net that is more than torch's layers: package.module:name or file.py:name"
    data.add_argument("--module", metavar="CODE", help=text)

    parser = _Parser(
        prog="tutti",
        description="Train machine-learning models on many workers, with the same bits for any number of them.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, text: str, *parents: _Parser) -> _Parser:
        return commands.add_parser(name, help=text, description=text, parents=[*parents, common], allow_abbrev=False)

    for name, text in (
        ("train", "train what a job file describes; write the model and the report"),
        ("explain", "print the plan of a job file: solver, workers, bytes, memory, time; nothing is trained"),
    ):
        command(name, text).add_argument("job", metavar="JOB.toml", help="the job file")
    predict = command("predict", "write the model's predictions for each row, in the order of the data", data)
    predict.add_argument("--out", metavar="FILE", required=True, help="where to: .csv, .parquet or .npy")
    predict.add_argument("--proba", action="store_true", help="write the probability of each class too")
    worker = command("worker", "lend processes of this host to a program that waits for them with tutti.Hosts")
    worker.add_argument("--join", metavar="HOST:PORT", required=True, help="where the caller listens; it says so")
    worker.add_argument("--token-file", metavar="FILE", required=True, help="the caller's token file, copied here")
    worker.add_argument("--workers", metavar="N", type=int, default=1, help="how many processes; default: 1")
    text = "how long to wait for the caller, and for it to come back; default: 60"
    worker.add_argument("--wait", metavar="SECONDS", type=float, default=60.0, help=text)
    worker.add_argument("--once", action="store_true", help="leave after one run; default: when the caller leaves")
    command("evaluate", "score the model on labelled rows: accuracy, log loss, AUC; or R^2, MSE", data)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Example
    -------
    >>> main(["--version"])
    tutti 0.1.0
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = "--json" in arguments, "--debug" in arguments
    try:
        with _plain_warnings():
            return _run(build_parser().parse_args(arguments), arguments)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted", None, as_json, debug)
    except BrokenPipeError:
        # the reader of stdout has left (tutti ... | head); what is still buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (InputError, ModelError) as error:
        return _fail(BAD_INPUT, str(error), error, as_json, debug)
    except (TuttiError, OSError, MemoryError) as error:
        return _fail(FAILED, str(error) or type(error).__name__, error, as_json, debug)
    except Exception as error:
        message = f"{type(error).__name__}: {error} (not an error tutti expected; --debug shows where it happened)"
        return _fail(FAILED, message, error, as_json, debug)


def _run(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    if args.version:
        from tutti import __version__

        print(f'{{"version": "{__version__}"}}' if args.json else f"tutti {__version__}")
        return OK
    if args.command is None:
        raise UsageError("a command is missing: train, explain, predict, evaluate or worker (see tutti --help)")
    from tutti.cli import commands, worker

    run = {
        "train": commands.train,
        "explain": commands.explain,
        "predict": commands.predict,
        "evaluate": commands.evaluate,
        "worker": worker.join,
    }[args.command]
    return run(args, arguments)


def _fail(code: int, message: str, error: BaseException | None, as_json: bool, debug: bool) -> int:
    if debug and error is not None:
        traceback.print_exception(error)
    print(f"tutti: {message}", file=sys.stderr)
    if as_json:
        from tutti.cli.record import to_json

        kind = type(error).__name__ if error is not None else "KeyboardInterrupt"
        print(to_json({"error": {"type": kind, "message": message}, "exit_code": code}))
    return code


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings as one line of text, as errors are shown, without the file and line that raised them."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"tutti: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def entry() -> NoReturn:
    """Run the console script."""
    code = main()
    sys.stdout.flush()
    sys.exit(code)

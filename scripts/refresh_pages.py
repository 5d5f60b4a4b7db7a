"""Run the Python blocks of README and docs and put what they print into the ```text blocks that follow them.

python scripts/refresh_pages.py    (tests/test_house.py checks that the pages still say what the code prints)
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/tutorial.md", "docs/how-to.md")
FENCE = re.compile(r"(?P<skip><!-- not run: [^>]*-->\n)?```(?P<kind>python|text)\n(?P<body>.*?)```", re.S)


def refreshed(text: str, page: str) -> str:
    """Return the page with fresh output; its blocks share their names and run in the current folder."""
    names: dict[str, Any] = {"__name__": "__page__"}
    printed = ""

    def fill(block: re.Match[str]) -> str:
        nonlocal printed
        if block["skip"]:
            return block[0]
        if block["kind"] == "text":
            return f"```text\n{printed.replace(socket.gethostname(), 'my-host').rstrip()}\n```"
        caught = io.StringIO()
        with contextlib.redirect_stdout(caught):
            exec(compile(block["body"], page, "exec"), names)
        printed = caught.getvalue()
        return block[0]

    return FENCE.sub(fill, text)


def main() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            fresh = refreshed(text, page)
            os.chdir(ROOT)
        (ROOT / page).write_text(fresh)
        print(f"{page}: {'changed' if fresh != text else 'as it was'}", file=sys.stderr)


if __name__ == "__main__":
    main()

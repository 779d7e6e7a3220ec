"""The corrections as a Markdown table; `python -m localcloud.table [README.md]` prints or renews the table."""

import sys
from pathlib import Path

from localcloud.corrections import CORRECTIONS

BEGIN, END = "<!-- corrections: begin -->\n", "<!-- corrections: end -->\n"


def table() -> str:
    """Return a row for each correction: service, what AWS documents, what MiniStack does, what this server does."""
    head = "| service | AWS documents | MiniStack | localcloud |\n|---|---|---|---|\n"
    by_service = sorted(CORRECTIONS, key=lambda correction: correction.service)
    return head + "".join(f"| {c.service} | {c.aws} | {c.ministack} | {c.here} |\n" for c in by_service)


def renewed(page: str) -> str:
    """Return a page with the table between its two markers. Raises ValueError if one is missing."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    if sys.argv[1:]:
        file = Path(sys.argv[1])
        file.write_text(renewed(file.read_text()))
    else:
        print(table(), end="")  # noqa: T201

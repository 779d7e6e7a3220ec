"""The sample orders of the demonstration, by name, and the catalogue that they are ordered from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orderctl.exits import Exit, Stop

HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Return the names of the sample orders."""
    return sorted(path.stem for path in (HERE / "samples").glob("*.json"))


def sample(name: str) -> dict[str, Any]:
    """Return the request body of a sample order; KeyError if there is none of that name."""
    path = HERE / "samples" / f"{name}.json"
    if not path.exists():
        raise KeyError(name)
    body: dict[str, Any] = json.loads(path.read_text())
    return body


def read_order(source: str) -> bytes:
    """Return the request body in a file, or that of the named sample order.

    The body is not parsed: the API says what is wrong with it. Raises Stop(USAGE) if there is no such file or sample.
    """
    path = Path(source)
    if path.is_file():
        return path.read_bytes()
    try:
        return json.dumps(sample(source)).encode()
    except KeyError:
        raise Stop(
            Exit.USAGE,
            f"There is neither a file nor a sample order called {source!r}.",
            f"The sample orders are: {', '.join(names())}.",
        ) from None


def catalogue() -> list[dict[str, Any]]:
    """Return the products: sku, name, price (minor units), currency, initial stock."""
    products: list[dict[str, Any]] = json.loads((HERE / "catalogue.json").read_text())
    return products

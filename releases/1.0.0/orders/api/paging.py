"""Pages of a list: how many orders a page has, and the opaque cursor that leads to the next page.

A cursor names a place in a list, never a customer. The customer comes from the verified token, so nobody can read the
orders of others with a cursor.
"""

import base64
from typing import Annotated

import msgspec
from msgspec import Meta

from orders.api.problems import Problem
from orders.domain.clock import TIMESTAMP
from orders.domain.order import ORDER_ID

MAX_PAGE = 100  # orders

# DynamoDB raises an error for an impossible key, such as an empty or a very long one.
_Place = tuple[Annotated[str, Meta(pattern=TIMESTAMP)], Annotated[str, Meta(pattern=ORDER_ID)]]


def page_limit(text: str) -> int:
    """The number of orders on a page that a client asks for. Raises `Problem` (400)."""
    # str.isdigit() also takes digits that int() refuses.
    limit = int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 0
    if not 1 <= limit <= MAX_PAGE:
        raise Problem(400, f"limit must be a whole number from 1 to {MAX_PAGE}")
    return limit


def encode_cursor(place: tuple[str, str]) -> str:
    """The cursor for a place in a list: (placed at, order id) of the last order on the page."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def decode_cursor(cursor: str) -> tuple[str, str]:
    """The place in a list that a cursor names: (placed at, order id). Raises `Problem` (400)."""
    try:
        place: tuple[str, str] = msgspec.json.decode(base64.urlsafe_b64decode(cursor), type=_Place)
    except (ValueError, RecursionError):
        raise Problem(400, "cursor must be one that an earlier page gave as nextCursor") from None
    return place

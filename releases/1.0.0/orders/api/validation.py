"""What the REST API refuses, and with which status: 400, 404, 413, 415 or 422."""

import base64
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec

from orders.api.problems import Problem
from orders.domain.order import ORDER_ID
from orders.domain.request import OrderRequest

MAX_BODY = 64 * 1024  # bytes
MAX_QUOTED = 40  # characters of a name or a value that an answer repeats
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_decoder = msgspec.json.Decoder(OrderRequest)


def check_idempotency_key(key: str | None) -> None:
    """Raise `Problem` (400) for an Idempotency-Key that this API does not take; None means that there is none."""
    if key is not None and not _IDEMPOTENCY_KEY.match(key):
        raise Problem(400, "Idempotency-Key must be 1 to 255 visible ASCII characters")


def check_order_id(order_id: str) -> None:
    """Raise `Problem` (404) for an id that no order can have."""
    if not re.match(ORDER_ID, order_id):
        raise Problem(404, "you have no such order")


def read_order(body: str | None, content_type: str | None, *, base64_encoded: bool = False) -> OrderRequest:
    """The order in a request's body, as API Gateway's proxy event holds the body.

    Raises `Problem`: 415 for another media type than JSON, 413 for a body of more than `MAX_BODY` bytes, 400 for a
    body that isn't JSON, 422 with every bad field for the rest.
    """
    media_type = ("application/json" if content_type is None else content_type).partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "send the order as application/json")
    content = (body or "").encode(errors="surrogatepass")
    if base64_encoded:
        content = base64.b64decode(content)
    if len(content) > MAX_BODY:
        raise Problem(413, f"the body has {len(content)} bytes; at most {MAX_BODY} are taken")
    try:
        try:
            return _decoder.decode(content)
        except msgspec.ValidationError:
            return _read_again(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "the body is not valid JSON") from None


def _read_again(body: bytes) -> OrderRequest:
    """The order in a refused body, if the decoder refused only whole numbers written as 2.0; else raises `Problem`.

    Raises `msgspec.DecodeError` where a later part of the body isn't JSON.
    """
    try:
        value = msgspec.json.decode(body)
    except msgspec.ValidationError:
        errors = [{"pointer": "", "rule": "range", "detail": "a number in the body is too large to be read"}]
    else:
        _make_quantities_whole(value)
        errors = list(find_errors(value, OrderRequest))
        if not errors:
            return msgspec.convert(value, OrderRequest)
    raise Problem(422, "the order has fields that can't be accepted", errors) from None


def _make_quantities_whole(value: Any) -> None:
    """Make integers of quantities such as 2.0, which are integers in JSON Schema but not for msgspec."""
    lines = value.get("lines") if isinstance(value, dict) else None
    for line in lines if isinstance(lines, list) else ():
        quantity = line.get("quantity") if isinstance(line, dict) else None
        if isinstance(quantity, float) and quantity.is_integer():
            line["quantity"] = int(quantity)


def find_errors(value: Any, expected: Any, pointer: str = "") -> Iterator[dict[str, str]]:
    """Every field of a decoded JSON value that doesn't fit `expected`: `{"pointer", "rule", "detail"}` each.

    `pointer` is a JSON Pointer (RFC 6901), `rule` a word for the log, `detail` a sentence for the client.
    msgspec stops at the first error. This function walks the same types again, for a refused request only, so that
    the client learns all errors at once.
    """
    plain = get_args(expected)[0] if get_origin(expected) is Annotated else expected
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct) and isinstance(value, dict):
        yield from _field_errors(value, plain, pointer)
    elif get_origin(plain) is list and isinstance(value, list):
        yield from _own_error([None] * len(value), _with_element(expected, Any), pointer)
        for index, element in enumerate(value):
            yield from find_errors(element, get_args(plain)[0], f"{pointer}/{index}")
    else:
        yield from _own_error(value, expected, pointer)


def _field_errors(value: dict[str, Any], struct: type[msgspec.Struct], pointer: str) -> Iterator[dict[str, str]]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    found = False
    for name in sorted(value.keys() - fields.keys()):
        found = True
        escaped = _quoted(name).replace("~", "~0").replace("/", "~1")
        yield {"pointer": f"{pointer}/{escaped}", "rule": "unknown-field", "detail": "unknown field"}
    for name, field in fields.items():
        place = f"{pointer}/{name}"
        if name in value:
            errors = list(find_errors(value[name], field.type, place))
        else:
            errors = [{"pointer": place, "rule": "required", "detail": "required"}] if field.required else []
        found = found or bool(errors)
        yield from errors
    if not found:  # each field is right by itself, so a rule over several fields is broken
        yield from _own_error(value, struct, pointer)


def _with_element(expected: Any, element: Any) -> Any:
    constraints = get_args(expected)[1:] if get_origin(expected) is Annotated else ()
    return Annotated[list[element], *constraints] if constraints else list[element]


# A rule, and a part of msgspec's message if that rule is broken. The first match counts.
_RULES = (
    ("enum", "Invalid enum value"),  # first, because this message contains the client's value
    ("pattern", "matching regex"),
    ("length", "of length"),
    ("type", "`, got `"),
    ("range", "` >= "),
    ("range", "` <= "),
    ("range", "out of range"),
)


def _own_error(value: Any, expected: Any, pointer: str) -> Iterator[dict[str, str]]:
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        message = str(error)
        rule = next((rule for rule, words in _RULES if words in message), "combination")
        if rule == "enum":
            detail = f"Expected {_description(expected)}, got '{_quoted(value)}'"
        elif rule == "pattern":
            detail = f"Expected {_description(expected)}"
        else:
            detail = message.partition(" - at `$")[0]
        yield {"pointer": pointer, "rule": rule, "detail": detail}


def _description(expected: Any) -> str:
    for part in (expected, *get_args(expected)):
        for meta in getattr(part, "__metadata__", ()):
            if meta.description:
                return str(meta.description)
    return "another value"


def _quoted(text: str) -> str:
    """A client's text in a form that an answer may repeat: short, and without control characters."""
    cut = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
    return "".join(character if character.isprintable() else "\ufffd" for character in cut)

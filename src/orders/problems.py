"""Answers of the REST API, and `application/problem+json` (RFC 9457) for what it refuses."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec

PROBLEM_JSON = "application/problem+json"
TITLES = {
    400: "Bad request",
    401: "Not signed in",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    429: "Too many requests",
    500: "Internal server error",
}


class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """A request that is refused: an HTTP status, a sentence, and the bad fields by JSON Pointer (RFC 6901)."""

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []

    def body(self) -> dict[str, Any]:
        """The problem document."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = self.errors
        return document

    def response(self) -> dict[str, Any]:
        """The answer to API Gateway's proxy integration."""
        return response(self.status, self.body(), {"Content-Type": PROBLEM_JSON})


def response(status: int, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """An answer to API Gateway's proxy integration: `body` becomes JSON."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", **(headers or {})},
        "body": msgspec.json.encode(body).decode(),
    }


def _pointer(parent: str, name: str | int) -> str:
    return f"{parent}/{str(name).replace('~', '~0').replace('/', '~1')}"


def find_errors(value: Any, expected: Any, pointer: str = "") -> Iterator[dict[str, str]]:
    """Every field of a decoded JSON value that doesn't fit `expected`: `{"pointer", "detail"}` each.

    msgspec stops at the first error, which is right for the fast path; this walks the same types again for
    a request that has already been refused, so that the client learns of all its mistakes at once.
    """
    plain = get_args(expected)[0] if get_origin(expected) is Annotated else expected
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct) and isinstance(value, dict):
        yield from _field_errors(value, plain, pointer)
    elif get_origin(plain) is list and isinstance(value, list):
        yield from _own_error([None] * len(value), _with_element(expected, Any), pointer)
        for index, element in enumerate(value):
            yield from find_errors(element, get_args(plain)[0], _pointer(pointer, index))
    else:
        yield from _own_error(value, expected, pointer)


def _field_errors(value: dict[str, Any], struct: type[msgspec.Struct], pointer: str) -> Iterator[dict[str, str]]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    found = False
    for name in sorted(value.keys() - fields.keys()):
        found = True
        yield {"pointer": _pointer(pointer, name), "detail": "unknown field"}
    for name, field in fields.items():
        if name in value:
            errors = list(find_errors(value[name], field.type, _pointer(pointer, name)))
        else:
            errors = [{"pointer": _pointer(pointer, name), "detail": "required"}] if field.required else []
        found = found or bool(errors)
        yield from errors
    if not found:  # the fields are right one by one; what is left is a rule over all of them
        yield from _own_error(value, struct, pointer)


def _with_element(expected: Any, element: Any) -> Any:
    constraints = get_args(expected)[1:] if get_origin(expected) is Annotated else ()
    return Annotated[list[element], *constraints] if constraints else list[element]


def _own_error(value: Any, expected: Any, pointer: str) -> Iterator[dict[str, str]]:
    try:
        msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        detail = str(error).partition(" - at `$")[0].replace("\\\\Z", "$")
        yield {"pointer": pointer, "detail": detail}

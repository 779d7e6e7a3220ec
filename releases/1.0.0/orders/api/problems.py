"""Answers of the REST API, and `application/problem+json` (RFC 9457) for what it refuses."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec

PROBLEM_JSON = "application/problem+json"
TITLES = {
    400: "Bad request",
    404: "Not found",
    409: "Conflict",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
}
MAX_ERRORS = 100  # listed in an answer; a refused body can have tens of thousands
MAX_ERRORS_LOGGED = 20
MAX_QUOTED = 40  # characters of a name or a value that an answer gives back


class Problem(Exception):
    """A request that is refused: an HTTP status, a sentence, and the bad fields as `find_errors` gives them.

    The sentence must not quote the request.
    """

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []

    def body(self) -> dict[str, Any]:
        """The problem document."""
        unlisted = len(self.errors) - MAX_ERRORS
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": TITLES[self.status],
            "status": self.status,
            "detail": f"{self.detail}; {unlisted} more are not listed" if unlisted > 0 else self.detail,
        }
        if self.errors:
            listed = self.errors[:MAX_ERRORS]
            document["errors"] = [{"pointer": error["pointer"], "detail": error["detail"]} for error in listed]
        return document

    def loggable_errors(self) -> list[dict[str, str]]:
        """Where which rule was broken, without anything that the client wrote: an unknown field's name is theirs."""
        broken: dict[tuple[str, str], None] = {}
        for error in self.errors:
            pointer, rule = error["pointer"], error["rule"]
            broken[pointer.rpartition("/")[0] if rule == "unknown-field" else pointer, rule] = None
        return [{"pointer": pointer, "rule": rule} for pointer, rule in list(broken)[:MAX_ERRORS_LOGGED]]

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


def find_errors(value: Any, expected: Any, pointer: str = "") -> Iterator[dict[str, str]]:
    """Every field of a decoded JSON value that doesn't fit `expected`: `{"pointer", "rule", "detail"}` each.

    `pointer` is a JSON Pointer (RFC 6901), `rule` a word for the log, `detail` a sentence for the client.
    msgspec stops at the first error, which is right for the fast path; this walks the same types again for
    a request that has already been refused, so that the client learns of all its mistakes at once.
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
    if not found:  # the fields are right one by one; what is left is a rule over all of them
        yield from _own_error(value, struct, pointer)


def _with_element(expected: Any, element: Any) -> Any:
    constraints = get_args(expected)[1:] if get_origin(expected) is Annotated else ()
    return Annotated[list[element], *constraints] if constraints else list[element]


# A rule and what msgspec's message has in it if that rule is broken, the first that fits.
_RULES = (
    ("enum", "Invalid enum value"),  # has the client's value in it: this must be recognized first
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
    """What a client wrote, as an answer may repeat it: short, and nothing in it that moves a cursor or text."""
    cut = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
    return "".join(character if character.isprintable() else "\ufffd" for character in cut)

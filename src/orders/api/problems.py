"""Answers of the REST API, and `application/problem+json` (RFC 9457) for the requests that it refuses."""

from typing import Any

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
MAX_ERRORS = 100  # in an answer; a refused body can have tens of thousands
MAX_ERRORS_LOGGED = 20


class Problem(Exception):
    """A refused request: an HTTP status, a sentence, and the bad fields in the form of `find_errors`.

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
        """The broken rules and their places, without any text of the client, such as an unknown field's name."""
        broken: dict[tuple[str, str], None] = {}
        for error in self.errors:
            pointer, rule = error["pointer"], error["rule"]
            broken[pointer.rpartition("/")[0] if rule == "unknown-field" else pointer, rule] = None
        return [{"pointer": pointer, "rule": rule} for pointer, rule in list(broken)[:MAX_ERRORS_LOGGED]]

    def response(self) -> dict[str, Any]:
        """The problem document as an answer to API Gateway's proxy integration."""
        return response(self.status, self.body(), {"Content-Type": PROBLEM_JSON})


def response(status: int, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """An answer to API Gateway's proxy integration: `body` becomes JSON."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", **(headers or {})},
        "body": msgspec.json.encode(body).decode(),
    }

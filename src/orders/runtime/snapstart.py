"""Priming for Lambda SnapStart: code that runs before the snapshot need not run after a restore."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders


def before_snapshot(prime: Callable[[], None]) -> Callable[[], None]:
    """Let Lambda run `prime` before the snapshot; without SnapStart, `prime` never runs."""
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        # Only Lambda's runtime has this module.
        importlib.import_module("snapshot_restore_py").register_before_snapshot(prime)
    return prime


@contextmanager
def aws_left_out(client: Any) -> Iterator[None]:
    """Answer this client's calls with an empty document instead of sending them."""

    class Empty:
        def stream(self, **_: Any) -> Iterator[bytes]:
            yield b"{}"

    def answer(request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, 200, HTTPHeaders(), Empty())

    client.meta.events.register("before-send", answer)
    try:
        yield
    finally:
        client.meta.events.unregister("before-send", answer)

"""Priming for Lambda SnapStart: what runs before the snapshot is taken need not run after any restore."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders


def before_snapshot(prime: Callable[[], None]) -> Callable[[], None]:
    """Have `prime` run before the snapshot; where Lambda takes none, it never runs."""
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

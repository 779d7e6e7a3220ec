"""What a local cloud keeps over a stop and a start: everything, as it was at the last clean stop, or nothing.

MiniStack saves each service by itself, goes on without one that fails, and writes objects of buckets through at once:
after a kill its files are of two different times. Here, the server works in the folder `live`. A clean stop completes
`live` by the file SAVED, and then puts it in the place of `saved`. A start makes `live` anew as a copy of `saved`.
"""

import contextlib
import gc
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from localcloud.patching import internal, replace
from localcloud.settings import Settings

SAVED = "saved.json"
"""Written last: a folder with this file is complete. It holds `savedAt` and `port`."""

TRIES = 10


def prepare(data_dir: Path, port: int) -> None:
    """Make the folder in which the server works: what was saved last, with its addresses moved to `port`."""
    keep(data_dir)
    live, saved = data_dir / "live", data_dir / "saved"
    shutil.rmtree(live, ignore_errors=True)
    if not (saved / SAVED).exists():
        live.mkdir(parents=True)
        return
    shutil.copytree(saved, live, ignore=shutil.ignore_patterns(SAVED))
    before = int(json.loads((saved / SAVED).read_text())["port"])
    if before != port:
        for file in [*live.glob("*.json"), *(live / "state").glob("*.json")]:
            file.write_text(file.read_text().replace(f"127.0.0.1:{before}/", f"127.0.0.1:{port}/"))


def keep(data_dir: Path) -> None:
    """Put `live` in the place of `saved` if it is complete."""
    live, saved = data_dir / "live", data_dir / "saved"
    if (live / SAVED).exists():
        shutil.rmtree(saved, ignore_errors=True)
        live.rename(saved)


def install(settings: Settings) -> None:
    """Have MiniStack save all services or none, and load all or none; and give an API the same id each time."""
    from ministack import app  # noqa: PLC0415 - reads the environment when imported
    from ministack.core import persistence  # noqa: PLC0415
    from ministack.services import apigateway_v1, stepfunctions  # noqa: PLC0415

    from localcloud.corrections.lambda_environments import ExecutionEnvironment  # noqa: PLC0415

    as_json, version_of = internal(persistence, "_json_default"), internal(persistence, "_state_format_version")
    states, module_of = internal(app, "_state_map"), internal(app, "_get_module")
    live, read_state = settings.live_dir, internal(persistence, "load_state")

    def save_all(services: dict[str, Callable[[], Any]]) -> None:
        # What functions do while the services are saved one after the other would be in some of them only. To the
        # executions under way that is no failure of theirs: whoever starts the cloud again takes them up.
        replace(stepfunctions, "_emit_execution_status_event", lambda _execution: None)
        ExecutionEnvironment.stop_all()
        (live / "state").mkdir(parents=True, exist_ok=True)
        with _no_garbage_collection():
            for name, get_state in services.items():
                if (state := _settled(get_state)) is not None:
                    # json.dump would write the same piece by piece, at a fifth of the speed.
                    text = json.dumps({"__ministack_format__": version_of(name), "payload": state}, default=as_json)
                    (live / "state" / f"{name}.json").write_text(text)
        marks = {"savedAt": datetime.now(UTC).isoformat(timespec="seconds"), "port": settings.port}
        (live / SAVED).write_text(json.dumps(marks))

    def load_all() -> None:
        with _no_garbage_collection():
            for name, module in states.items():
                if (live / "state" / f"{name}.json").exists():
                    try:
                        if (state := read_state(name)) is None:
                            raise ValueError(f"{name}.json is damaged")
                        module_of(module).load_persisted_state(state)
                    except Exception:
                        logging.getLogger(__name__).exception("What was saved of %s can't be read.", name)
                        os._exit(1)  # an exception would let the server run with what has been loaded so far

    if settings.persist:
        replace(app, "save_all", save_all)
        replace(app, "_load_persisted_state", load_all)

    create, scope_of = internal(apigateway_v1, "_create_rest_api"), internal(apigateway_v1, "find_api_scope")

    def create_rest_api(data: dict[str, Any]) -> Any:
        wanted = sha256(str(data.get("name")).encode()).hexdigest()[:8]
        if scope_of(wanted) is None:
            data = {**data, "tags": {"ms-custom-id": wanted, **data.get("tags", {})}}
        return create(data)

    replace(apigateway_v1, "_create_rest_api", create_rest_api)


def _settled(get_state: Callable[[], Any]) -> Any:
    """Return a service's state; threads that are still at work may change it while it is copied."""
    for _ in range(TRIES):
        try:
            return get_state()
        except RuntimeError:
            continue
    return get_state()


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The collector would look at millions of new objects again and again, none of which is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

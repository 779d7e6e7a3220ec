"""The state of all services, saved and loaded as one."""

import contextlib
import gc
import json
import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from ministack import app
from ministack.core import persistence
from ministack.services import stepfunctions

from localcloud.corrections.lambda_environments import ExecutionEnvironment
from localcloud.patching import Correction, internal, replace
from localcloud.saving import SAVED
from localcloud.settings import Settings

ATTEMPTS = 10

logger = logging.getLogger("localcloud.state")


def install(settings: Settings) -> None:
    """Have MiniStack save all services or none, and load all or none."""
    if not settings.persist:
        return
    as_json, version_of = internal(persistence, "_json_default"), internal(persistence, "_state_format_version")
    states, module_of = internal(app, "_state_map"), internal(app, "_get_module")
    live, read_state = settings.live_dir, internal(persistence, "load_state")

    def save_all(services: dict[str, Callable[[], Any]]) -> None:
        # A function that writes while one service after the other is saved would be in some of the files only. Its
        # end is no failure of the executions in flight, so their status is not published.
        replace(stepfunctions, "_emit_execution_status_event", lambda _execution: None)
        ExecutionEnvironment.stop_all()
        (live / "state").mkdir(parents=True, exist_ok=True)
        with _no_garbage_collection():
            for name, get_state in services.items():
                if (state := _settled(get_state)) is not None:
                    # json.dump writes piece by piece, at a fifth of the speed.
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
                        logger.exception("The saved state of %s can't be read.", name)
                        os._exit(1)  # MiniStack would run on with the services loaded so far

    replace(app, "save_all", save_all)
    replace(app, "_load_persisted_state", load_all)


def _settled(get_state: Callable[[], Any]) -> Any:
    """Return a service's state, read again if a thread has changed the state meanwhile."""
    for _ in range(ATTEMPTS - 1):
        try:
            return get_state()
        except RuntimeError:
            continue
    return get_state()


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turn the collector off for a block that makes millions of objects and no garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


CORRECTIONS = (
    Correction(
        name="state",
        service="All",
        aws="A service keeps everything that it has accepted.",
        ministack=(
            "Each service is saved by itself, without those that fail; objects of buckets are written at once. After "
            "a kill the files are of different times."
        ),
        here="With --persist, a clean stop saves everything or nothing; a start loads everything or nothing.",
        install=install,
    ),
)

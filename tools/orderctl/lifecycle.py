"""Start, complete and stop a local cloud, and report its status."""

from __future__ import annotations

from typing import Any

from orderctl import hints
from orderctl.cloud import deployment, server_process
from orderctl.cloud.state import STACK_NAME, Cloud, CloudState
from orderctl.defaults import DEFAULT_PORT
from orderctl.demo import samples
from orderctl.exits import Exit, Stop
from orderctl.stack import signin
from orderctl.stack.archive import create_archive
from orderctl.stack.target import Target, of_state, stack_outputs
from orderctl.ui import console


def up(
    cloud: Cloud, port: int | None = None, *, persist: bool = False, fresh: bool = False
) -> tuple[CloudState, bool]:
    """Bring the local cloud up: server, stack, archive, catalogue, demo user.

    A running cloud is reused, and only a changed stack is deployed. Returns the cloud's state, and whether this call
    started it; `persist` has an effect only then. With `fresh`, all saved data is removed first. Raises
    Stop(STEP_FAILED); after Stop or Interrupted, a cloud that this call started is stopped.
    """
    with cloud.exclusive():
        runtime = deployment.local_runtime()
        if fresh:
            _empty(cloud)
        running = _running(cloud, port, runtime)
        if running:
            console.say(f"The local cloud {cloud.name!r} is up already, on {running.endpoint}.")
            _complete(cloud, running)
            return running, False
        saved = cloud.saved_at()
        if not saved:
            cloud.erase()
        try:
            started = server_process.start(cloud, port or cloud.last_port or DEFAULT_PORT, runtime, persist=persist)
            with console.step(f"Starting the local cloud on {started.endpoint}") as note:
                server_process.wait_until_healthy(cloud, started, note)
            if persist and saved:
                cloud.restore(started)
                console.say(f"Its orders are restored as of its last stop ({server_process.local_time(saved)}).")
            _complete(cloud, started)
            if persist and saved:
                _restart_orders(started)
        except BaseException:
            # The record is read, because an interruption may come before `start` has returned.
            if unfinished := cloud.load():
                server_process.stop(cloud, unfinished, save=False)
            raise
        return started, True


def _restart_orders(state: CloudState) -> None:
    """Have the sweep restart every open order at once: the last stop has ended all executions."""
    target = of_state(state)
    target.client("lambda").invoke(
        FunctionName=target.output("SweepOrdersFunction"),
        Payload=b'{"promiseSeconds": 0.001, "maxRestarts": 1000000}',
    )


def _empty(cloud: Cloud) -> None:
    if state := cloud.load():
        server_process.stop(cloud, state, save=False)
    cloud.erase()
    console.say(f"The local cloud {cloud.name!r} starts empty: all its earlier orders are removed.")


def _running(cloud: Cloud, port: int | None, runtime: str) -> CloudState | None:
    """Return the state of the cloud if it runs and can be used; stop and forget one that can't be used."""
    state = cloud.load()
    if state is None:
        cloud.forget()
        return None
    if not server_process.alive(state):
        console.say("\n".join(server_process.fate(cloud, state)))
        server_process.stop(cloud, state, save=False)
        return None
    if not server_process.healthy(state.endpoint, timeout_s=10.0):
        console.say(f"The local cloud {cloud.name!r} (process {state.pid}) does not answer: starting a new one.")
        server_process.stop(cloud, state)
        return None
    if port and port != state.port:
        raise Stop(
            Exit.STEP_FAILED,
            f"The local cloud {cloud.name!r} is running already, on port {state.port}.",
            f"Stop it: {hints.command('down', name=cloud.name)}\n"
            f"       Or start another one: {hints.command(f'run --port {port}', name='other')}",
        )
    if state.server != deployment.server_fingerprint(runtime):
        console.say("The local cloud's own code or interpreter has changed: starting a new one.")
        server_process.stop(cloud, state)
        return None
    return state


def _complete(cloud: Cloud, state: CloudState) -> None:
    wanted = deployment.fingerprint(state.runtime)
    if state.deployed != wanted:
        with console.step("Building the functions (sam build)") as note:
            template = deployment.build(cloud, wanted, state.runtime, note)
        # Other processes see the stack as not deployed until the last step has succeeded.
        state.deployed = ""
        cloud.save(state)
        with console.step("Deploying the stack (sam deploy --config-env local)") as note:
            deployment.deploy(cloud, state, template, note)
        with console.step("Creating the event archive, the catalogue and the demo user"):
            state.outputs = stack_outputs(of_state(state).client("cloudformation"), STACK_NAME)
            target = of_state(state)
            create_archive(target)
            seed_catalogue(target)
            signin.ensure_user(target, signin.DEMO_USER, signin.LOCAL_PASSWORD)
        state.deployed = wanted
        cloud.save(state)


def seed_catalogue(target: Target) -> None:
    """Put the sample products into the catalogue; a product that is there keeps its stock."""
    dynamodb = target.client("dynamodb")
    for product in samples.catalogue():
        try:
            dynamodb.put_item(
                TableName=target.output("CatalogueTable"),
                Item={
                    "sku": {"S": product["sku"]},
                    "name": {"S": product["name"]},
                    "price": {"N": str(product["price"])},
                    "currency": {"S": product["currency"]},
                    "available": {"N": str(product["stock"])},
                    "reserved": {"N": "0"},
                    "sold": {"N": "0"},
                },
                ConditionExpression="attribute_not_exists(sku)",
            )
        except dynamodb.exceptions.ConditionalCheckFailedException:
            continue


def down(cloud: Cloud) -> int:
    """Stop the local cloud and its workers; returns how many processes were ended, 0 if the cloud was down."""
    with cloud.exclusive():
        state = cloud.load()
        if state is None:
            cloud.forget()
            return 0
        if not server_process.alive(state):
            console.say("\n".join(server_process.fate(cloud, state)))
        return server_process.stop(cloud, state)


def running_names() -> list[str]:
    """Return the names of this checkout's running local clouds."""
    return [state.name for state in server_process.running()]


def status(cloud: Cloud) -> dict[str, Any]:
    """Return a local cloud's status for a program to read.

    `status` is "down", "dead" (recorded, but the process is gone), "starting" or "up". `savedAt` is the time of the
    last save (ISO 8601), null if there was none.
    """
    state, saved = cloud.load(), cloud.saved_at()
    found: dict[str, Any] = {"name": cloud.name, "savedAt": saved and saved.isoformat()}
    if state is None:
        return {**found, "status": "down", "running": running_names()}
    runs = server_process.alive(state)
    word = "dead" if not runs else "up" if state.ready and server_process.healthy(state.endpoint) else "starting"
    return {
        **found,
        "status": word,
        **({} if runs else {"fate": " ".join(server_process.fate(cloud, state))}),
        "pid": state.pid,
        "endpoint": state.endpoint,
        "apiUrl": state.api_url,
        "startedAt": state.started_at,
        "runtime": state.runtime,
        "upToDate": runs and state.deployed == deployment.fingerprint(state.runtime),
        "log": str(cloud.log("server")),
        "outputs": state.outputs,
    }

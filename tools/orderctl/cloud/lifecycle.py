"""The life of a local cloud: up, down, status."""

from __future__ import annotations

from typing import Any

from orderctl import hints
from orderctl.cloud import deployment, server
from orderctl.cloud.state import DEFAULT_PORT, STACK_NAME, Cloud, CloudState
from orderctl.demo import samples
from orderctl.exits import Exit, Stop
from orderctl.stack import signin, target
from orderctl.ui import console


def up(
    cloud: Cloud, port: int | None = None, *, persist: bool = False, fresh: bool = False
) -> tuple[CloudState, bool]:
    """Bring the local cloud up, complete: server, stack, archive, catalogue, demo user.

    Reuses what runs already and deploys only what has changed. Returns its state, and whether this call
    started it; `persist` counts only then. With `fresh`, it starts with nothing of what was there before.
    When it ends in Stop or Interrupted, it has stopped whatever it started itself.
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
            started = server.start(cloud, port or cloud.last_port or DEFAULT_PORT, runtime, persist=persist)
            with console.step(f"Starting the local cloud on {started.endpoint}") as note:
                server.wait_until_healthy(cloud, started, note)
            if persist and saved:
                cloud.restore(started)
                console.say(f"Its orders are there as they were at its last stop ({server.local_time(saved)}).")
            _complete(cloud, started)
            if persist and saved:
                _take_up_orders(started)
        except BaseException:
            # From the record, because an interruption may come before the start has returned.
            if unfinished := cloud.load():
                server.stop(cloud, unfinished, save=False)
            raise
        return started, True


def _take_up_orders(state: CloudState) -> None:
    """Have the sweep restart the orders whose workflows ended with the last stop; nobody else works on any order."""
    there = target.of_state(state)
    there.client("lambda").invoke(
        FunctionName=there.output("SweepOrdersFunction"), Payload=b'{"promiseSeconds": 0.001}'
    )


def _empty(cloud: Cloud) -> None:
    if state := cloud.load():
        server.stop(cloud, state, save=False)
    cloud.erase()
    console.say(f"The local cloud {cloud.name!r} starts empty: all its earlier orders are removed.")


def _running(cloud: Cloud, port: int | None, runtime: str) -> CloudState | None:
    """Return the state of the cloud if it runs and can be used, after clearing away one that cannot."""
    state = cloud.load()
    if state is None:
        cloud.forget()
        return None
    if not server.alive(state):
        console.say("\n".join(server.fate(cloud, state)))
        server.stop(cloud, state, save=False)
        return None
    if not server.healthy(state.endpoint, timeout_s=10.0):
        console.say(f"The local cloud {cloud.name!r} (process {state.pid}) does not answer: starting a new one.")
        server.stop(cloud, state)
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
        server.stop(cloud, state)
        return None
    return state


def _complete(cloud: Cloud, state: CloudState) -> None:
    wanted = deployment.fingerprint(state.runtime)
    if state.deployed != wanted:
        with console.step("Building the functions (sam build)") as note:
            template = deployment.build(cloud, wanted, state.runtime, note)
        # Not deployed, for whoever looks, until the last step has succeeded.
        state.deployed = ""
        cloud.save(state)
        with console.step("Deploying the stack (sam deploy --config-env local)") as note:
            deployment.deploy(cloud, state, template, note)
        with console.step("Creating the event archive, the catalogue and the demo user"):
            there = target.of_state(state)
            state.outputs = target.stack_outputs(there.client("cloudformation"), STACK_NAME)
            there = target.of_state(state)
            deployment.create_archive(there)
            seed_catalogue(there)
            signin.ensure_local_user(there, signin.DEMO_USER, signin.LOCAL_PASSWORD)
        state.deployed = wanted
        cloud.save(state)


def seed_catalogue(there: target.Target) -> None:
    """Put the products on sale that are not there yet; stock that orders have taken stays taken."""
    dynamodb = there.client("dynamodb")
    for product in samples.catalogue():
        try:
            dynamodb.put_item(
                TableName=there.output("CatalogueTable"),
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
    """Stop the local cloud and its workers; returns how many processes were ended, 0 if none ran."""
    with cloud.exclusive():
        state = cloud.load()
        if state is None:
            cloud.forget()
            return 0
        if not server.alive(state):
            console.say("\n".join(server.fate(cloud, state)))
        return server.stop(cloud, state)


def running_names() -> list[str]:
    """Return the names of the local clouds of this checkout that run."""
    return [state.name for state in server.running()]


def status(cloud: Cloud) -> dict[str, Any]:
    """Return what is known of a local cloud.

    `status` is "down", "dead" (recorded, but the process is gone), "starting" or "up". `savedAt` is when its
    orders were saved last.
    """
    state, saved = cloud.load(), cloud.saved_at()
    found: dict[str, Any] = {"name": cloud.name, "savedAt": saved and saved.isoformat()}
    if state is None:
        return {**found, "status": "down", "running": running_names()}
    runs = server.alive(state)
    word = "dead" if not runs else "up" if state.ready and server.healthy(state.endpoint) else "starting"
    return {
        **found,
        "status": word,
        **({} if runs else {"fate": " ".join(server.fate(cloud, state))}),
        "pid": state.pid,
        "endpoint": state.endpoint,
        "apiUrl": target.local_api_url(state),
        "startedAt": state.started_at,
        "runtime": state.runtime,
        "upToDate": runs and state.deployed == deployment.fingerprint(state.runtime),
        "log": str(cloud.log("server")),
        "outputs": state.outputs,
    }

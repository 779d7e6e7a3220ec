"""The commands on orders: token, submit, cancel, order, orders, open. They work the same here and on AWS."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orderctl.cloud.state import DEFAULT_NAME
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name, OrderId, Password, Profile, Region, Stack, Username, Watch, filled
from orderctl.ui import console, tables

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orderctl.stack.target import Target


def token(
    *,
    username: Username = None,
    password: Password = None,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Print a fresh ID token of a customer, for the Authorization header."""
    from orderctl.stack import signin, target  # noqa: PLC0415

    source = signin.token_source(target.choose(stack, name, profile, region), username, password)
    value = source.current()
    if as_json:
        expires = datetime.fromtimestamp(signin.expires_at(value), UTC)
        console.emit_json({"username": source.username, "idToken": value, "expiresAt": expires.isoformat()})
    else:
        console.out.print(value, markup=False)


def submit(
    order: Annotated[str, typer.Argument(help="A JSON file, or the name of a sample order.")] = "fulfilled",
    *,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Sent as Idempotency-Key (default: a new one).", callback=filled)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the order until it has ended.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="With --wait: give up after so many seconds.")] = 120,
    username: Username = None,
    password: Password = None,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Submit an order over REST; with --wait, exit 0 means that it was fulfilled, 5 that it was not."""
    from orderctl.demo import samples  # noqa: PLC0415
    from orderctl.stack import rest, signin, target  # noqa: PLC0415

    body = samples.read_order(order)
    there = target.choose(stack, name, profile, region)
    api = rest.OrdersApi(there.api_url, signin.token_source(there, username, password))
    answer = api.submit(body, idempotency_key or str(uuid.uuid4()))
    rest.require_success(answer)
    accepted: dict[str, Any] = answer.json()
    replayed = answer.headers.get("Idempotency-Replayed") == "true"
    if not as_json:
        again = ", the answer to an earlier request with this key" if replayed else ""
        console.out.print(f"{answer.status_code} accepted: order {accepted['orderId']}{again}")
    explain = there.command(f"explain {accepted['orderId']}")
    if not wait:
        if as_json:
            console.emit_json({**accepted, "replayed": replayed})
        else:
            console.say(f"Follow it: {explain}")
        return
    latest: dict[str, Any] = {}
    for latest in api.follow(accepted["orderId"], timeout, f"See why with: {explain}"):
        console.say(f"{latest['updatedAt']}  {latest['status']}")
    if as_json:
        console.emit_json({**latest, "replayed": replayed})
    else:
        console.out.print(tables.order(latest))
    if latest["status"] != "FULFILLED":
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))


def cancel(
    order_id: OrderId,
    *,
    username: Username = None,
    password: Password = None,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Cancel an order over REST, as the customer who placed it. Cancelling twice is the same as once.

    Exit 4: the API refused, because the order is paid already, has ended, or is no order of this customer.
    """
    from orderctl.stack import prefixes, rest, signin, target  # noqa: PLC0415

    there = target.choose(stack, name, profile, region)
    whole = prefixes.order_id(there, order_id)
    answer = rest.OrdersApi(there.api_url, signin.token_source(there, username, password)).cancel(whole)
    look = there.command("orders" if answer.status_code == 404 else f"explain {whole}")
    rest.require_success(answer, f"Look with: {look}")
    if as_json:
        console.emit_json(answer.json())
    else:
        console.out.print(f"Order {whole} is {answer.json()['status']}.", markup=False)


def order(
    order_id: OrderId,
    *,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Show an order and its timeline, whoever the customer is."""
    from orderctl.stack import prefixes, records, target  # noqa: PLC0415

    there = target.choose(stack, name, profile, region)
    with records.tables_named(there):
        found = records.require_order(there, prefixes.order_id(there, order_id))
    if as_json:
        console.emit_json(found)
    else:
        console.out.print(tables.order(found))


def orders(
    *,
    customer: Annotated[
        str | None, typer.Option(help="Of this customer, by the id in the token (sub).", callback=filled)
    ] = None,
    still_open: Annotated[
        bool, typer.Option("--open", help="Of all customers, those that have not ended, oldest first.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    watch: Watch = False,
    username: Username = None,
    password: Password = None,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """List orders, newest first: one's own over REST, or as the operator with --customer or --open."""
    from orderctl.stack import records, target  # noqa: PLC0415

    if customer and still_open:
        raise Stop(Exit.USAGE, "--customer and --open exclude each other.", "Choose one.")
    if watch and as_json:
        raise Stop(Exit.USAGE, "--watch and --json exclude each other.", "Choose one.")
    there = target.choose(stack, name, profile, region)
    if customer or still_open:
        look = _operators_view(there, customer, limit)
    else:
        look = _customers_view(there, username, password, limit)

    def page() -> RenderableType:
        found, every = look()
        fitting = found[: max(1, console.out.height - 3)] if watch else found
        if not found:
            return "No orders."
        return tables.orders(fitting, _below(len(fitting), every))

    with records.tables_named(there):
        if watch:
            console.watch(page)
        elif as_json:
            console.emit_json(look()[0])
        else:
            console.out.print(page())


# Returns orders, and how many there are: a number, or in words where only that there are more is known.
Look = Callable[[], tuple[list[dict[str, Any]], str]]


def _operators_view(there: Target, customer: str | None, limit: int) -> Look:
    from orderctl.stack import records  # noqa: PLC0415

    def look() -> tuple[list[dict[str, Any]], str]:
        if customer:
            return records.orders_of(there, customer, limit), f"{records.count_of(there, customer):,}"
        return records.open_orders(there, limit), f"{records.count_open(there):,}"

    return look


def _customers_view(there: Target, username: str | None, password: str | None, limit: int) -> Look:
    from orderctl.stack import rest, signin  # noqa: PLC0415

    api = rest.OrdersApi(there.api_url, signin.token_source(there, username, password))

    def look() -> tuple[list[dict[str, Any]], str]:
        found = api.orders(limit + 1)  # the API doesn't say how many there are
        return found[:limit], f"{len(found)}" if len(found) <= limit else f"more than {limit}"

    return look


def _below(shown: int, every: str) -> str:
    return f"{shown:,} of {every} orders; see more with --limit." if f"{shown:,}" != every else ""


def open_api(
    *,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Print the URL of the API's description (OpenAPI), and open it in the browser if this is a terminal."""
    from orderctl.stack import target  # noqa: PLC0415

    url = f"{target.choose(stack, name, profile, region).api_url}/openapi.json"
    if as_json:
        console.emit_json({"url": url})
        return
    console.out.print(url, markup=False)
    if console.out.is_terminal and typer.launch(url) != 0:
        console.say("No browser could be started: open the URL yourself.")

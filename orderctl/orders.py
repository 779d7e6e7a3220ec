"""The commands on orders: token, submit, order, orders. They work the same here and on AWS."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from orderctl import console, show
from orderctl.cloud import DEFAULT_NAME
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name, Password, Profile, Region, Stack, Username


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
    from orderctl import signin, target  # noqa: PLC0415

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
    idempotency_key: Annotated[str | None, typer.Option(help="Sent as Idempotency-Key (default: a new one).")] = None,
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
    from orderctl import rest, samples, signin, target  # noqa: PLC0415

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
    if not wait:
        if as_json:
            console.emit_json({**accepted, "replayed": replayed})
        return
    latest: dict[str, Any] = {}
    for latest in api.follow(accepted["orderId"], timeout):
        console.say(f"{latest['updatedAt']}  {latest['status']}")
    if as_json:
        console.emit_json({**latest, "replayed": replayed})
    else:
        console.out.print(show.order(latest))
    if latest["status"] != "FULFILLED":
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))


def order(
    order_id: Annotated[str, typer.Argument(help="The order's id.")],
    *,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Show an order and its timeline, whoever the customer is."""
    from orderctl import records, target  # noqa: PLC0415

    found = records.find_order(target.choose(stack, name, profile, region), order_id)
    if found is None:
        raise Stop(Exit.REFUSED, f"There is no order {order_id}.", "List them with: orderctl orders")
    if as_json:
        console.emit_json(found)
    else:
        console.out.print(show.order(found))


def orders(
    *,
    customer: Annotated[str | None, typer.Option(help="Of this customer, by the id in the token (sub).")] = None,
    still_open: Annotated[
        bool, typer.Option("--open", help="Of all customers, those that have not ended, oldest first.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    username: Username = None,
    password: Password = None,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """List orders, newest first: one's own over REST, or as the operator with --customer or --open."""
    from orderctl import records, rest, signin, target  # noqa: PLC0415

    if customer and still_open:
        raise Stop(Exit.USAGE, "--customer and --open exclude each other.", "Choose one.")
    there = target.choose(stack, name, profile, region)
    if still_open:
        found = records.open_orders(there, limit)
    elif customer:
        found = records.orders_of(there, customer, limit)
    else:
        found = rest.OrdersApi(there.api_url, signin.token_source(there, username, password)).orders(limit)
    if as_json:
        console.emit_json(found)
    elif found:
        console.out.print(show.orders(found))
    else:
        console.out.print("No orders.")

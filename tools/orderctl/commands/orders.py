"""The commands on orders: token, submit, cancel, order, orders, open."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name, OrderId, Password, Profile, Region, Stack, Username, Watch, examples, filled
from orderctl.ui import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orderctl.stack.records import StoredOrder
    from orderctl.stack.target import Target
    from orders.domain.customer_view import OrderView

app = typer.Typer()


@app.command(epilog=examples("orderctl token", "orderctl token --stack orders-dev --user ada@example.com"))
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
    """Print a new ID token of a customer, for the Authorization header."""
    from orderctl.stack import signin
    from orderctl.stack.target import choose

    source = signin.token_source(choose(stack, name, profile, region), username, password)
    value = source.current()
    if as_json:
        expires = datetime.fromtimestamp(signin.expires_at(value), UTC)
        console.emit_json({"username": source.username, "idToken": value, "expiresAt": expires.isoformat()})
    else:
        console.out.print(value, markup=False)


@app.command(
    epilog=examples(
        "orderctl submit fulfilled --wait",
        "orderctl submit my-order.json --idempotency-key order-17",
        "orderctl submit declined --stack orders-dev --region eu-west-1 --user ada@example.com",
    )
)
def submit(
    order: Annotated[str, typer.Argument(help="A JSON file, or the name of a sample order.")] = "fulfilled",
    *,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Sent as Idempotency-Key (default: a new one).", callback=filled)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the order until it has ended.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="With --wait: how many seconds at most.")] = 120,
    username: Username = None,
    password: Password = None,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Submit an order over REST; with --wait, exit 0 means that it was fulfilled, 5 that it was not."""
    import msgspec

    from orderctl.demo import samples
    from orderctl.stack import rest, signin
    from orderctl.stack.target import choose
    from orderctl.views import order_tables
    from orders.domain.order import Status

    body = samples.read_order(order)
    target = choose(stack, name, profile, region)
    api = rest.OrdersApi(target.api_url, signin.token_source(target, username, password))
    answer = api.submit(body, idempotency_key or str(uuid.uuid4()))
    accepted = rest.decode(answer, rest.Accepted)
    replayed = answer.headers.get("Idempotency-Replayed") == "true"
    if not as_json:
        again = ", the answer to an earlier request with this key" if replayed else ""
        console.out.print(f"{answer.status_code} accepted: order {accepted.order_id}{again}")
    explain = target.command(f"explain {accepted.order_id}")
    if not wait:
        if as_json:
            console.emit_json({**msgspec.to_builtins(accepted), "replayed": replayed})
        else:
            console.say(f"Follow it: {explain}")
        return
    for latest in api.follow(accepted.order_id, timeout, f"See why with: {explain}"):
        console.say(f"{latest.updated_at}  {latest.status}")
    if as_json:
        console.emit_json({**msgspec.to_builtins(latest), "replayed": replayed})
    else:
        console.out.print(order_tables.order(latest))
    if latest.status is not Status.FULFILLED:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))


@app.command(epilog=examples("orderctl cancel 6f1c2d3e", "orderctl cancel 6f1c2d3e --user ada@example.com --json"))
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
    """Cancel an order over REST, as the customer who placed it. A second cancellation changes nothing.

    Exit 4: the API refused, because the order is paid or has ended, or because this customer has no such order.
    """
    import msgspec

    from orderctl.stack import prefixes, rest, signin
    from orderctl.stack.target import choose

    target = choose(stack, name, profile, region)
    whole = prefixes.order_id(target, order_id)
    answer = rest.OrdersApi(target.api_url, signin.token_source(target, username, password)).cancel(whole)
    look = target.command("orders" if answer.status_code == 404 else f"explain {whole}")
    cancelled = rest.decode(answer, rest.Accepted, f"See why with: {look}")
    if as_json:
        console.emit_json(msgspec.to_builtins(cancelled))
    else:
        console.out.print(f"Order {whole} is {cancelled.status}.", markup=False)


@app.command(epilog=examples("orderctl order 6f1c2d3e", "orderctl order 6f1c2d3e --json --stack orders-dev"))
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
    from orderctl.stack import prefixes, records
    from orderctl.stack.target import choose
    from orderctl.views import order_tables

    target = choose(stack, name, profile, region)
    with records.tables_named(target):
        found = prefixes.order(target, order_id)
    if as_json:
        console.emit_json(records.as_json(found))
    else:
        console.out.print(order_tables.order(found))


@app.command(
    epilog=examples(
        "orderctl orders --limit 5", "orderctl orders --open --watch", "orderctl orders --customer SUB --json"
    )
)
def orders(
    *,
    customer: Annotated[
        str | None, typer.Option(help="Orders of this customer: the claim `sub` of the token.", callback=filled)
    ] = None,
    still_open: Annotated[bool, typer.Option("--open", help="Open orders of all customers, oldest first.")] = False,
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
    """List orders, newest first: the signed-in customer's over REST; with --customer or --open, as an operator."""
    from orderctl.stack import records
    from orderctl.stack.target import choose
    from orderctl.views import order_tables

    if customer and still_open:
        raise Stop(Exit.USAGE, "--customer and --open exclude each other.", "Choose one.")
    if watch and as_json:
        raise Stop(Exit.USAGE, "--watch and --json exclude each other.", "Choose one.")
    target = choose(stack, name, profile, region)
    if customer or still_open:
        look = _operators_view(target, customer, limit)
    else:
        look = _customers_view(target, username, password, limit)

    def page() -> RenderableType:
        found, every = look()
        fitting = found[: max(1, console.out.height - 3)] if watch else found
        if not found:
            return "No orders."
        return order_tables.orders(fitting, _below(len(fitting), every))

    with records.tables_named(target):
        if watch:
            console.watch(page)
        elif as_json:
            console.emit_json([records.as_json(each) for each in look()[0]])
        else:
            console.out.print(page())


# Returns orders, and how many there are: a number, or "more than" a number if the total isn't known.
Look = Callable[[], tuple[Sequence["StoredOrder | OrderView"], str]]


def _operators_view(target: Target, customer: str | None, limit: int) -> Look:
    from orderctl.stack import records

    def look() -> tuple[Sequence[StoredOrder], str]:
        if customer:
            total = records.orders_table(target).count_of(customer)
            return records.orders_of(target, customer, limit), f"{total:,}"
        found, total = records.open_orders(target, limit)
        return found, f"{total:,}"

    return look


def _customers_view(target: Target, username: str | None, password: str | None, limit: int) -> Look:
    from orderctl.stack import rest, signin

    api = rest.OrdersApi(target.api_url, signin.token_source(target, username, password))

    def look() -> tuple[Sequence[OrderView], str]:
        found = api.orders(limit + 1)  # the API does not tell the total
        return found[:limit], f"{len(found)}" if len(found) <= limit else f"more than {limit}"

    return look


def _below(shown: int, every: str) -> str:
    return f"{shown:,} of {every} orders; see more with --limit." if f"{shown:,}" != every else ""


@app.command("open", epilog=examples("orderctl open", "orderctl open --json | jq -r .url"))
def open_api(
    *,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Print the URL of the API's description (OpenAPI); in a terminal, open it in the browser, too."""
    from orderctl.stack.target import choose

    url = f"{choose(stack, name, profile, region).api_url}/openapi.json"
    if as_json:
        console.emit_json({"url": url})
        return
    console.out.print(url, markup=False)
    if console.out.is_terminal and typer.launch(url) != 0:
        console.say("No browser could be started: open the URL yourself.")

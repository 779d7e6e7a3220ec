"""measure: what the order pipeline costs, how fast it is, and whether it loses anything under load."""

from __future__ import annotations

import typer

from measure.benchmarks import (
    coldstart,
    cost_peers,
    goals,
    healing,
    laptop,
    redrive,
    scaling,
    sweep,
    throughput,
    warm,
)
from measure.commands import cost, flash_sale, load
from orderctl.commands.group import Commands
from orderctl.options import examples

app = typer.Typer(
    cls=Commands,
    help=(
        "Measure the order pipeline: cost, load, cold starts, speed, scaling.\n\n"
        "load, flash-sale, throughput, redrive and cost --count use the running local cloud (orderctl up). "
        "Benchmarks keep their figures in .local/bench/.\n\n"
        "Exit codes: 0 done; 1 bug in the program; 2 wrong usage; 3 no local cloud runs; 4 the service refused; "
        "5 an order was lost, something happened twice, or a budget is exceeded; "
        "6 something that a benchmark needs is missing; 130 interrupted."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command(
    "cost",
    epilog=examples(
        "measure cost", "measure cost --orders-per-month 3000000 --profile mixed", "measure cost --count"
    ),
)(cost.command)
app.command(
    "load",
    epilog=examples(
        "measure load --orders 500 --rate 20", "measure load --orders 10000 --rate 25 --faults full --json"
    ),
)(load.command)
app.command("flash-sale", epilog=examples("measure flash-sale", "measure flash-sale --shards 32 --json"))(
    flash_sale.command
)
app.command(
    "coldstart",
    epilog=examples(
        "measure coldstart",
        "measure coldstart --function accept_order --function query_orders --rounds 21",
        "measure coldstart --function accept_order --variants",
    ),
)(coldstart.command)
app.command("warm", epilog=examples("measure warm", "measure warm --profile --stub client"))(warm.command)
app.command("scaling", epilog=examples("measure scaling", "measure scaling --json | jq .quotas"))(scaling.command)
app.command("sweep", epilog=examples("measure sweep", "measure sweep --json | jq .cases"))(sweep.command)
app.command(
    "throughput",
    epilog=examples("measure throughput --orders 300 --clients 8", "measure throughput --rate 15 --name second"),
)(throughput.command)
app.command("redrive", epilog=examples("measure redrive", "measure redrive --failures 200 --rate 50"))(
    redrive.command
)
app.command("healing", epilog=examples("measure healing", "measure healing --failures 5000 --outage 180"))(
    healing.command
)
app.command("laptop", epilog=examples("measure laptop", "measure laptop --tests --cold-cache --json"))(laptop.command)
app.command("cost-peers", epilog=examples("measure cost-peers", "measure cost-peers --json"))(cost_peers.command)
app.command("all", epilog=examples("measure all", "measure all --json > figures.json"))(goals.command)

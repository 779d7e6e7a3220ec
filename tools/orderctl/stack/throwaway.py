"""What a smoke makes, by the name of its run: a customer, and products of its own."""

from __future__ import annotations

from dataclasses import dataclass

from orderctl.stack import logs
from orderctl.stack.target import Target

PREFIX = "smoke-"
DOMAIN = "@example.com"  # reserved by RFC 2606: no mail is ever delivered


@dataclass(frozen=True)
class Left:
    """A smoke whose customer is there: the run's name, and when it began (UTC, ISO 8601)."""

    run: str
    created_at: str


def address(run: str) -> str:
    """Return the e-mail address of a run's customer."""
    return f"{PREFIX}{run}{DOMAIN}"


def product(run: str, sku: str) -> str:
    """Return the code of a run's copy of a sample product."""
    return f"{PREFIX}{run}.{sku}"


def left_behind(target: Target) -> list[Left]:
    """Return the smokes whose customers are in the user pool."""
    pages = (
        target.client("cognito-idp")
        .get_paginator("list_users")
        .paginate(UserPoolId=target.output("UserPoolId"), Filter=f'email ^= "{PREFIX}"')
    )
    found = []
    for page in pages:
        for user in page["Users"]:
            email = next((each["Value"] for each in user["Attributes"] if each["Name"] == "email"), "")
            if email.startswith(PREFIX) and email.endswith(DOMAIN):
                run = email.removeprefix(PREFIX).removesuffix(DOMAIN)
                found.append(Left(run, logs.iso(user["UserCreateDate"])))
    return found

"""ID tokens of customers, from the stack's Cognito user pool."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

from botocore.exceptions import ClientError

from orderctl.exits import Exit, Stop
from orderctl.stack.target import Target

DEMO_USER = "demo@example.com"
# No secret: the local cloud answers on 127.0.0.1 only.
LOCAL_PASSWORD = "Local-demo-1"
RENEW_BEFORE_S = 60.0


def expires_at(token: str) -> float:
    """Return when a JWT expires, in seconds since 1970."""
    return float(claims(token)["exp"])


class TokenSource:
    """Signs one user in, and again shortly before the ID token expires."""

    def __init__(self, target: Target, username: str, password: str) -> None:
        self._target = target
        self.username = username
        self._password = password
        self._token = ""
        self._expires = 0.0

    def current(self) -> str:
        """Return an ID token that is valid for at least RENEW_BEFORE_S; Stop(REFUSED) if Cognito refuses."""
        if time.time() > self._expires - RENEW_BEFORE_S:
            self._token = sign_in(self._target, self.username, self._password)
            self._expires = expires_at(self._token)
        return self._token

    @property
    def customer_id(self) -> str:
        """The customer's id: the claim `sub` of the token."""
        return str(claims(self.current())["sub"])


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT (RFC 7519) without checking its signature."""
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def token_source(target: Target, username: str | None, password: str | None) -> TokenSource:
    """Return the tokens of the user whom the options, or ORDERCTL_USERNAME and ORDERCTL_PASSWORD, name.

    On a local cloud the demo user is the default, and an unknown user is created. On AWS, Stop(USAGE) without both.
    """
    username = username or os.environ.get("ORDERCTL_USERNAME")
    password = password or os.environ.get("ORDERCTL_PASSWORD")
    if target.local:
        username, password = username or DEMO_USER, password or LOCAL_PASSWORD
        ensure_user(target, username, password)
    if not username or not password:
        raise Stop(
            Exit.USAGE,
            "On AWS, a user of the stack's user pool places the orders, and no user was named.",
            "Give --username and --password, or set ORDERCTL_USERNAME and ORDERCTL_PASSWORD.",
        )
    return TokenSource(target, username, password)


def ensure_user(target: Target, username: str, password: str) -> None:
    """Create a user with this e-mail address and password in the stack's user pool, unless the user exists."""
    cognito = target.client("cognito-idp")
    pool = target.output("UserPoolId")
    try:
        cognito.admin_create_user(
            UserPoolId=pool,
            Username=username,
            MessageAction="SUPPRESS",
            UserAttributes=[
                {"Name": "email", "Value": username},
                {"Name": "email_verified", "Value": "true"},
            ],
        )
    except cognito.exceptions.UsernameExistsException:
        return
    cognito.admin_set_user_password(UserPoolId=pool, Username=username, Password=password, Permanent=True)


def sign_in(target: Target, username: str, password: str) -> str:
    """Return a new ID token; Stop(REFUSED) with Cognito's reason if it gives none."""
    try:
        answer = target.client("cognito-idp").initiate_auth(
            ClientId=target.output("UserPoolClientId"),
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": username, "PASSWORD": password},
        )
    except ClientError as error:
        raise Stop(
            Exit.REFUSED,
            f"{username} can't sign in: {error.response['Error']['Message']}",
            "Check the user name and the password.",
        ) from error
    if "AuthenticationResult" not in answer:
        raise Stop(
            Exit.REFUSED,
            f"{username} can't sign in yet: the user pool asks for {answer.get('ChallengeName')}.",
            "Give the user a permanent password first: aws cognito-idp admin-set-user-password --permanent.",
        )
    return str(answer["AuthenticationResult"]["IdToken"])

"""API Gateway REST APIs.

AWS does not document which gateway response answers an expired token. Here it is EXPIRED_TOKEN. An API whose
EXPIRED_TOKEN and UNAUTHORIZED both have the status 401 is right either way.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from ministack.services import apigateway_v1

from localcloud.patching import Correction, internal, replace, resource_handlers
from localcloud.settings import Settings

ANY_METHOD = "x-amazon-apigateway-any-method"
PARAMETER_LOCATIONS = {"query": "querystring", "header": "header", "path": "path"}
INTEGRATION_FIELDS = (
    "requestTemplates",
    "requestParameters",
    "passthroughBehavior",
    "credentials",
    "contentHandling",
    "timeoutInMillis",
)

API_CONTENTS = ("_resources", "_authorizers_v1", "_models", "_request_validators", "_gateway_responses")
DEFAULT_TIMEOUT_MS = 29000

JsonObject = dict[str, Any]

GatewayError: Any = internal(apigateway_v1, "_GatewayError")


@dataclass
class Import:
    """One import of an OpenAPI document into an API, with the validators that its operations name."""

    spec: JsonObject
    validators: dict[str, str] = field(default_factory=dict)  # name -> id

    def declare(self, api_id: str) -> None:
        """Create the document's validators, models and gateway responses."""
        for name, settings in (self.spec.get("x-amazon-apigateway-request-validators") or {}).items():
            _, _, body = internal(apigateway_v1, "_create_request_validator")(api_id, {"name": name, **settings})
            self.validators[name] = json.loads(body)["id"]
        schemas = {
            **(self.spec.get("definitions") or {}),
            **((self.spec.get("components") or {}).get("schemas") or {}),
        }
        for name, schema in schemas.items():
            text = json.dumps(schema).replace("#/definitions/", "#/components/schemas/")
            internal(apigateway_v1, "_create_model")(api_id, {"name": name, "schema": text})
        for kind, response in (self.spec.get("x-amazon-apigateway-gateway-responses") or {}).items():
            data = {name: response[name] for name in ("responseParameters", "responseTemplates") if name in response}
            if "statusCode" in response:
                data["statusCode"] = str(response["statusCode"])
            internal(apigateway_v1, "_put_gateway_response")(api_id, kind, data)

    def complete(self, api_id: str, resource_id: str, http_method: str, operation: JsonObject) -> None:
        """Add the parts of an operation to its imported method that MiniStack does not import."""
        method = internal(apigateway_v1, "_resources")[api_id][resource_id]["resourceMethods"][http_method]
        validator = operation.get("x-amazon-apigateway-request-validator") or self.spec.get(
            "x-amazon-apigateway-request-validator"
        )
        if validator:
            method["requestValidatorId"] = self.validators.get(validator)
        method["requestParameters"] = request_parameters(operation)
        model = request_model(operation)
        if model:
            method["requestModels"] = {"application/json": model}
        for status in operation.get("responses") or {}:
            internal(apigateway_v1, "_put_method_response")(api_id, resource_id, http_method, str(status), {})
        integration = operation.get("x-amazon-apigateway-integration")
        if integration and method.get("methodIntegration"):
            self._complete_integration(api_id, resource_id, http_method, method["methodIntegration"], integration)

    def _complete_integration(
        self, api_id: str, resource_id: str, http_method: str, target: JsonObject, integration: JsonObject
    ) -> None:
        for name in INTEGRATION_FIELDS:
            value = integration.get(name)
            if value:
                target[name] = value.upper() if name == "passthroughBehavior" else value
        for pattern, response in (integration.get("responses") or {}).items():
            data = {
                "selectionPattern": "" if pattern == "default" else pattern,
                "responseParameters": response.get("responseParameters") or {},
                "responseTemplates": response.get("responseTemplates") or {},
            }
            status = str(response.get("statusCode", "200"))
            internal(apigateway_v1, "_put_integration_response")(api_id, resource_id, http_method, status, data)


def request_parameters(operation: JsonObject) -> dict[str, bool]:
    """Return the method's declared parameters, and whether each is required."""
    return {
        f"method.request.{PARAMETER_LOCATIONS[parameter['in']]}.{parameter['name']}": bool(parameter.get("required"))
        for parameter in operation.get("parameters") or []
        if parameter.get("in") in PARAMETER_LOCATIONS
    }


def request_model(operation: JsonObject) -> str | None:
    """Return the name of the model of a JSON body, in OpenAPI 3 or Swagger 2."""
    content = ((operation.get("requestBody") or {}).get("content") or {}).get("application/json") or {}
    schema: JsonObject = content.get("schema") or next(
        (p["schema"] for p in operation.get("parameters") or [] if p.get("in") == "body"), {}
    )
    reference = schema.get("$ref")
    return reference.rsplit("/", 1)[-1] if reference else None


def install_import(_: Settings) -> None:
    """Import the whole OpenAPI body."""
    import_rest_api = internal(apigateway_v1, "_import_rest_api")
    import_operation = internal(apigateway_v1, "_import_operation")
    methods = internal(apigateway_v1, "_OPENAPI_HTTP_METHODS")
    replace(apigateway_v1, "_OPENAPI_HTTP_METHODS", type(methods)([*methods, ANY_METHOD]))

    def import_whole_rest_api(spec: JsonObject, base_data: JsonObject | None = None) -> str:
        api_id: str = import_rest_api(spec, base_data)
        current = Import(spec)
        current.declare(api_id)
        for resource_id, path in resource_paths(api_id).items():
            for name, operation in ((spec.get("paths") or {}).get(path) or {}).items():
                if name in methods or name == ANY_METHOD:
                    method = "ANY" if name == ANY_METHOD else name.upper()
                    current.complete(api_id, resource_id, method, operation or {})
        return api_id

    def import_any_operation(api_id: str, resource_id: str, http_method: str, *arguments: Any) -> None:
        method = "ANY" if http_method == ANY_METHOD.upper() else http_method
        import_operation(api_id, resource_id, method, *arguments)

    replace(apigateway_v1, "_import_rest_api", import_whole_rest_api)
    replace(apigateway_v1, "_import_operation", import_any_operation)


def resource_paths(api_id: str) -> dict[str, str]:
    """Return the path of each resource of an API, by resource id."""
    resources: dict[str, JsonObject] = internal(apigateway_v1, "_resources").get(api_id, {})
    return {resource_id: resource["path"] for resource_id, resource in resources.items()}


def install_update(_: Settings) -> None:
    """Update an API whose document has changed in place, so that its id and URL stay."""
    handlers = resource_handlers("AWS::ApiGateway::RestApi")
    create, update = handlers["create"], handlers["update"]
    contents = [internal(apigateway_v1, name) for name in API_CONTENTS]
    delete = internal(apigateway_v1, "_delete_rest_api")

    def update_api(
        physical_id: str, old: JsonObject, new: JsonObject, stack_name: str, logical_id: str | None = None
    ) -> Any:
        body = new.get("Body")
        if isinstance(body, dict) and body != old.get("Body"):
            imported, _ = create(logical_id or physical_id, new, stack_name)
            for store in contents:
                store.pop(physical_id, None)
                if imported in store:
                    store[physical_id] = store.pop(imported)
            delete(imported)
            old = {**old, "Body": body}
        return update(physical_id, old, new, stack_name, logical_id)

    handlers["update"] = update_api


def install_address(_: Settings) -> None:
    """Derive the id of a new API from its name; a second API of the same name gets a random one."""
    create, scope_of = internal(apigateway_v1, "_create_rest_api"), internal(apigateway_v1, "find_api_scope")

    def create_rest_api(data: JsonObject) -> Any:
        wanted = sha256(str(data.get("name")).encode()).hexdigest()[:8]
        if scope_of(wanted) is None:
            data = {**data, "tags": {"ms-custom-id": wanted, **data.get("tags", {})}}
        return create(data)

    replace(apigateway_v1, "_create_rest_api", create_rest_api)


class IntegrationError(GatewayError):  # type: ignore[misc]
    """A gateway response whose default status depends on the kind of failure."""

    status: int = 502


class ThrottledError(IntegrationError):
    """Lambda refused the invocation."""

    status = 500


class InvocationFailedError(Exception):
    """Carries the answer of a failed invocation through MiniStack's own error handling."""

    def __init__(self, error: Any) -> None:
        super().__init__(error)
        self.error = error


def install_integration_errors(_: Settings) -> None:
    """Answer a failed function, a malformed answer and a time-out through the gateway responses."""
    invoke_proxy: Callable[..., Coroutine[Any, Any, Any]] = internal(apigateway_v1, "_invoke_lambda_proxy_v1")
    render: Callable[..., tuple[int, JsonObject, bytes]] = internal(apigateway_v1, "_gateway_error_response")

    def proxy_response(result: JsonObject) -> tuple[JsonObject, None]:
        if result.get("throttle"):
            raise InvocationFailedError(ThrottledError("DEFAULT_5XX", "Internal server error"))
        body = result.get("body")
        if result.get("error") or not isinstance(body, dict) or "statusCode" not in body:
            raise InvocationFailedError(IntegrationError("DEFAULT_5XX", "Internal server error"))
        return body, None

    async def invoke_lambda_proxy(integration: JsonObject, *arguments: Any, **keywords: Any) -> Any:
        timeout_s = int(integration.get("timeoutInMillis") or DEFAULT_TIMEOUT_MS) / 1000
        call = asyncio.ensure_future(invoke_proxy(integration, *arguments, **keywords))
        done, _ = await asyncio.wait({call}, timeout=timeout_s)
        if not done:
            # As on AWS, the function runs on; its answer is dropped.
            call.add_done_callback(lambda finished: finished.exception())
            return GatewayError("INTEGRATION_TIMEOUT", "Endpoint request timed out")
        try:
            return call.result()
        except InvocationFailedError as failure:
            return failure.error

    def gateway_error_response(error: Any, request: JsonObject) -> tuple[int, JsonObject, bytes]:
        status, headers, body = render(error, request)
        if isinstance(error, IntegrationError):
            customized = internal(apigateway_v1, "_gateway_responses").get(request["api_id"], {})
            status = int(customized.get("DEFAULT_5XX", {}).get("statusCode") or error.status)
        return status, headers, body

    replace(apigateway_v1, "_lambda_proxy_response", proxy_response)
    replace(apigateway_v1, "_invoke_lambda_proxy_v1", invoke_lambda_proxy)
    replace(apigateway_v1, "_gateway_error_response", gateway_error_response)


signature_holds: ContextVar[bool] = ContextVar("signature_holds", default=False)


def install_token_checks(_: Settings) -> None:
    """Have the Cognito authorizer check the kind of a token, and answer an expired token by EXPIRED_TOKEN."""
    validate: Callable[..., Coroutine[Any, Any, Any]] = internal(apigateway_v1, "_validate_cognito_authorizer")
    verify = internal(apigateway_v1, "_verify_rs256_signature")
    token_of = internal(apigateway_v1, "_cognito_token_from_request")
    decode = internal(apigateway_v1, "_b64url_decode")

    def verify_signature(token: str, key: JsonObject) -> bool:
        signature_holds.set(verify(token, key))
        return signature_holds.get()

    async def validate_token(authorizer: JsonObject, method: JsonObject, *request: Any) -> tuple[Any, Any]:
        signature_holds.set(False)
        claims, error = await validate(authorizer, method, *request)
        if not signature_holds.get():
            return claims, error
        # The signature holds: the claims can be trusted.
        said: JsonObject = json.loads(decode(token_of(authorizer, *request).split(".")[1]))
        if said.get("token_use") != ("access" if method.get("authorizationScopes") else "id"):
            return None, GatewayError("UNAUTHORIZED", "Unauthorized")
        if said["exp"] <= time.time():
            return None, GatewayError("EXPIRED_TOKEN", "The incoming token has expired")
        return claims, error

    replace(apigateway_v1, "_verify_rs256_signature", verify_signature)
    replace(apigateway_v1, "_validate_cognito_authorizer", validate_token)


CORRECTIONS = (
    Correction(
        name="apigateway-update",
        service="API Gateway",
        aws="A REST API keeps its id when its OpenAPI body changes.",
        ministack="A changed body gives the API another id, and so another URL.",
        here="The id stays.",
        install=install_update,
    ),
    Correction(
        name="apigateway-address",
        service="API Gateway",
        aws="The id of a new REST API is random.",
        ministack="The id of a new REST API is random.",
        here="The id follows from the API's name, so that its URL is the same after a fresh start.",
        install=install_address,
    ),
    Correction(
        name="apigateway-openapi",
        service="API Gateway",
        aws=(
            "The OpenAPI body describes the whole API: x-amazon-apigateway-any-method, request validators, models, "
            "gateway responses, request and response mappings."
        ),
        ministack="Only path, method, security and the integration's type and address are imported.",
        here="The whole body is imported.",
        install=install_import,
    ),
    Correction(
        name="apigateway-integration-errors",
        service="API Gateway",
        aws=(
            "A proxy integration answers 502 if its function fails, 500 if Lambda refuses the invocation, 504 "
            "after 29 s. Gateway responses shape the bodies."
        ),
        ministack="The caller is told the function's own error, as a string.",
        here="502, 500 and 504 as documented, through the gateway responses.",
        install=install_integration_errors,
    ),
    Correction(
        name="apigateway-cognito-tokens",
        service="API Gateway",
        aws=(
            "A COGNITO_USER_POOLS authorizer takes an ID token if the method names no OAuth scopes, else an access "
            "token. An expired token is answered: The incoming token has expired."
        ),
        ministack=(
            "Every token that the pool has signed is accepted, refresh tokens too. An expired token is answered by "
            "UNAUTHORIZED."
        ),
        here="The kind of token is checked; EXPIRED_TOKEN answers an expired one.",
        install=install_token_checks,
    ),
)

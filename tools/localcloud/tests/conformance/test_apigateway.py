"""API Gateway developer guide: OpenAPI extensions, Lambda proxy errors, gateway responses, Cognito authorizers."""

import base64
import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from conformance.support import ACCOUNT, REGION, LocalCloud, unique

FUNCTION = """
    import time

    def handler(event, context):
        action = (event.get("queryStringParameters") or {}).get("do")
        if action == "raise":
            raise ValueError("secret")
        if action == "malformed":
            return "text"
        if action == "sleep":
            time.sleep(2)
        return {"statusCode": 200, "headers": {"x-method": event["httpMethod"]}, "body": "{}"}
"""


def proxy(function: str, **fields: Any) -> dict[str, Any]:
    """Return an operation that is integrated with a function."""
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}"
    uri = f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{arn}/invocations"
    return {
        "x-amazon-apigateway-integration": {"type": "aws_proxy", "httpMethod": "POST", "uri": uri, **fields},
        "responses": {},
    }


def deploy(cloud: LocalCloud, paths: dict[str, Any], stage: dict[str, Any] | None = None, **spec: Any) -> str:
    """Deploy an API from an OpenAPI document and return its URL."""
    body = {"openapi": "3.0.1", "info": {"title": unique("api"), "version": "1"}, "paths": paths, **spec}
    stack = cloud.stack(
        {
            "Api": {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Body": body}},
            "Deployment": {"Type": "AWS::ApiGateway::Deployment", "Properties": {"RestApiId": {"Ref": "Api"}}},
            "Stage": {
                "Type": "AWS::ApiGateway::Stage",
                "Properties": {
                    "RestApiId": {"Ref": "Api"},
                    "DeploymentId": {"Ref": "Deployment"},
                    "StageName": "v1",
                    **(stage or {}),
                },
            },
        }
    )
    return f"{cloud.endpoint}/_aws/execute-api/{stack['Api']}/v1"


def request(
    url: str, method: str = "GET", body: str | None = None, token: str | None = None
) -> tuple[int, dict[str, str], str]:
    """Send a request and return status, headers with lower-case names, and body."""
    outgoing = urllib.request.Request(url, method=method, data=body.encode() if body is not None else None)
    outgoing.add_header("Content-Type", "application/json")
    if token is not None:
        outgoing.add_header("Authorization", token)
    try:
        with urllib.request.urlopen(outgoing, timeout=10) as answer:
            status, headers, text = answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        status, headers, text = refusal.code, refusal.headers, refusal.read().decode()
    return status, {name.lower(): value for name, value in headers.items()}, text


def test_any_method_of_a_document_serves_each_method(cloud: LocalCloud) -> None:
    # GIVEN a path with any-method
    function = cloud.function(FUNCTION)
    url = deploy(cloud, {"/thing": {"x-amazon-apigateway-any-method": proxy(function)}})
    # WHEN it is called with two methods
    answers = [request(f"{url}/thing", method) for method in ("GET", "DELETE")]
    # THEN the function serves both
    assert [(status, headers["x-method"]) for status, headers, _ in answers] == [(200, "GET"), (200, "DELETE")]


def test_a_failing_function_answers_502_and_tells_nothing(cloud: LocalCloud) -> None:
    # GIVEN a function that raises, or returns something else than a response
    function = cloud.function(FUNCTION)
    url = deploy(cloud, {"/thing": {"get": proxy(function)}})
    # WHEN it is called
    for action in ("raise", "malformed"):
        status, _, body = request(f"{url}/thing?do={action}")
        # THEN the answer is the documented one
        assert status == 502
        assert json.loads(body) == {"message": "Internal server error"}


def test_a_throttled_function_answers_500(cloud: LocalCloud) -> None:
    # GIVEN a function that may not run
    function = cloud.function(FUNCTION)
    cloud.client("lambda").put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    url = deploy(cloud, {"/thing": {"get": proxy(function)}})
    # WHEN it is called
    status, _, body = request(f"{url}/thing")
    # THEN API Gateway could not invoke it
    assert status == 500
    assert json.loads(body) == {"message": "Internal server error"}


def test_a_slow_function_answers_504(cloud: LocalCloud) -> None:
    # GIVEN an integration with a short time-out
    function = cloud.function(FUNCTION)
    url = deploy(cloud, {"/thing": {"get": proxy(function, timeoutInMillis=200)}})
    # WHEN the function takes longer
    status, _, body = request(f"{url}/thing?do=sleep")
    # THEN the gateway gives up
    assert status == 504
    assert json.loads(body) == {"message": "Endpoint request timed out"}


def test_gateway_responses_of_a_document_shape_the_errors(cloud: LocalCloud) -> None:
    # GIVEN a document with gateway responses for server errors and unknown paths
    function = cloud.function(FUNCTION)
    template = '{"title":"Internal server error","status":500}'
    responses = {
        "DEFAULT_5XX": {
            "responseParameters": {"gatewayresponse.header.x-problem": "'yes'"},
            "responseTemplates": {"application/json": template},
        },
        "MISSING_AUTHENTICATION_TOKEN": {
            "statusCode": 404,
            "responseTemplates": {"application/json": '{"title":"Not found"}'},
        },
    }
    paths = {"/thing": {"get": proxy(function)}}
    url = deploy(cloud, paths, **{"x-amazon-apigateway-gateway-responses": responses})
    # WHEN the function fails, and when a path does not exist
    status, headers, body = request(f"{url}/thing?do=raise")
    unknown_status, _, unknown_body = request(f"{url}/nowhere")
    # THEN each answer has the shape that the document gives it
    assert (status, headers["x-problem"], json.loads(body)["status"]) == (502, "yes", 500)
    assert (unknown_status, json.loads(unknown_body)) == (404, {"title": "Not found"})


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "HEAD"])
def test_a_method_that_a_path_does_not_have_is_answered_like_an_unknown_path(cloud: LocalCloud, method: str) -> None:
    # GIVEN a path with one method, and a gateway response for what isn't there
    function = cloud.function(FUNCTION)
    responses = {"MISSING_AUTHENTICATION_TOKEN": {"statusCode": 404}}
    paths = {"/thing": {"get": proxy(function)}}
    url = deploy(cloud, paths, **{"x-amazon-apigateway-gateway-responses": responses})
    # WHEN it is called with another one
    status, _, _ = request(f"{url}/thing", method)
    # THEN API Gateway doesn't tell a method that is missing from a path that is missing: there is no 405
    assert status == 404


def test_a_gateway_response_has_the_media_type_of_its_template(cloud: LocalCloud) -> None:
    # GIVEN a gateway response with a content type of its own
    function = cloud.function(FUNCTION)
    responses = {
        "DEFAULT_5XX": {
            "responseParameters": {"gatewayresponse.header.Content-Type": "'application/problem+json'"},
            "responseTemplates": {"application/json": "{}"},
        }
    }
    paths = {"/thing": {"get": proxy(function)}}
    url = deploy(cloud, paths, **{"x-amazon-apigateway-gateway-responses": responses})
    # WHEN the function fails
    _, headers, _ = request(f"{url}/thing?do=raise")
    # THEN the answer has it
    assert headers["content-type"] == "application/problem+json"


def test_a_validator_of_a_document_refuses_a_bad_body(cloud: LocalCloud) -> None:
    # GIVEN an operation with a validator and a model
    function = cloud.function(FUNCTION)
    schema = {"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string"}}}
    operation = {
        **proxy(function),
        "x-amazon-apigateway-request-validator": "body",
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Line"}}}},
    }
    validators = {"body": {"validateRequestBody": True, "validateRequestParameters": False}}
    url = deploy(
        cloud,
        {"/lines": {"post": operation}},
        components={"schemas": {"Line": schema}},
        **{"x-amazon-apigateway-request-validators": validators},
    )
    # WHEN a good and a bad body are sent
    good, bad = (request(f"{url}/lines", "POST", body)[0] for body in ('{"sku": "a"}', '{"sku": 1}'))
    # THEN the bad one does not reach the function
    assert (good, bad) == (200, 400)


def test_a_mock_integration_answers_the_preflight(cloud: LocalCloud) -> None:
    # GIVEN an operation as SAM writes it for CORS
    headers = {"Access-Control-Allow-Origin": {"schema": {"type": "string"}}}
    operation = {
        "responses": {"200": {"headers": headers}},
        "x-amazon-apigateway-integration": {
            "type": "mock",
            "requestTemplates": {"application/json": '{"statusCode": 200}'},
            "responses": {
                "default": {
                    "statusCode": "200",
                    "responseParameters": {"method.response.header.Access-Control-Allow-Origin": "'*'"},
                    "responseTemplates": {"application/json": "{}"},
                }
            },
        },
    }
    url = deploy(cloud, {"/thing": {"options": operation}})
    # WHEN a browser asks
    status, answered, _ = request(f"{url}/thing", "OPTIONS")
    # THEN the header is there
    assert (status, answered["access-control-allow-origin"]) == (200, "*")


def test_stage_throttling_answers_429(cloud: LocalCloud) -> None:
    # GIVEN a stage that lets nothing through
    function = cloud.function(FUNCTION)
    settings = {"HttpMethod": "*", "ResourcePath": "/*", "ThrottlingRateLimit": 0, "ThrottlingBurstLimit": 0}
    url = deploy(cloud, {"/thing": {"get": proxy(function)}}, {"MethodSettings": [settings]})
    # WHEN it is called
    status, _, body = request(f"{url}/thing")
    # THEN the request is throttled
    assert (status, json.loads(body)) == (429, {"message": "Too Many Requests"})


def test_a_changed_document_keeps_the_url_of_its_api(cloud: LocalCloud) -> None:
    # GIVEN an API of a stack
    function = cloud.function(FUNCTION)
    cloudformation, name = cloud.client("cloudformation"), unique("stack")

    def template(path: str) -> str:
        spec = {
            "openapi": "3.0.1",
            "info": {"title": name, "version": "1"},
            "paths": {path: {"get": proxy(function)}},
        }
        return json.dumps({"Resources": {"Api": {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Body": spec}}}})

    def api_id() -> str:
        resources = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        return str(resources[0]["PhysicalResourceId"])

    cloudformation.create_stack(StackName=name, TemplateBody=template("/before"))
    cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 0})
    before = api_id()
    # WHEN its document changes
    cloudformation.update_stack(StackName=name, TemplateBody=template("/after"))
    cloudformation.get_waiter("stack_update_complete").wait(StackName=name, WaiterConfig={"Delay": 0})
    # THEN the API is the same one with the new paths
    paths = {item["path"] for item in cloud.client("apigateway").get_resources(restApiId=before)["items"]}
    assert (api_id(), paths) == (before, {"/", "/after"})


# ---- Cognito authorizers


Tokens = dict[str, str]


def sign_in(cloud: LocalCloud, **client: Any) -> tuple[str, Tokens]:
    """Make a user pool with one user and return its ARN and the tokens that the user gets."""
    cognito = cloud.client("cognito-idp")
    pool = cognito.create_user_pool(PoolName=unique("pool"))["UserPool"]
    flows = ["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
    made = cognito.create_user_pool_client(UserPoolId=pool["Id"], ClientName="c", ExplicitAuthFlows=flows, **client)
    cognito.admin_create_user(UserPoolId=pool["Id"], Username="ada", MessageAction="SUPPRESS")
    cognito.admin_set_user_password(UserPoolId=pool["Id"], Username="ada", Password="Secret-phrase-1", Permanent=True)
    result = cognito.initiate_auth(
        ClientId=made["UserPoolClient"]["ClientId"],
        AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "ada", "PASSWORD": "Secret-phrase-1"},
    )["AuthenticationResult"]
    tokens = {"id": result["IdToken"], "access": result["AccessToken"], "refresh": result["RefreshToken"]}
    return pool["Arn"], tokens


def deploy_for(cloud: LocalCloud, pool: str, scopes: list[str]) -> str:
    """Deploy an API that lets in who the pool knows and return the URL of its only path."""
    operation = {**proxy(cloud.function(FUNCTION)), "security": [{"Users": scopes}]}
    authorizer = {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "x-amazon-apigateway-authtype": "cognito_user_pools",
        "x-amazon-apigateway-authorizer": {"type": "cognito_user_pools", "providerARNs": [pool]},
    }
    responses = {
        kind: {"statusCode": 401, "responseTemplates": {"application/json": f'{{"kind":"{kind}"}}'}}
        for kind in ("UNAUTHORIZED", "EXPIRED_TOKEN")
    }
    url = deploy(
        cloud,
        {"/thing": {"get": operation}},
        components={"securitySchemes": {"Users": authorizer}},
        **{"x-amazon-apigateway-gateway-responses": responses},
    )
    return f"{url}/thing"


def encoded(value: Any) -> str:
    """Return a part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def claims(token: str) -> dict[str, Any]:
    """Return what a JWT says."""
    payload = token.split(".")[1]
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return said


def test_without_scopes_a_cognito_authorizer_takes_id_tokens_only(cloud: LocalCloud) -> None:
    # GIVEN a method without OAuth scopes
    pool, tokens = sign_in(cloud)
    url = deploy_for(cloud, pool, [])
    # WHEN each kind of token is sent
    statuses = {kind: request(url, token=token)[0] for kind, token in tokens.items()}
    # THEN the ID token lets its bearer in, and no other does
    assert statuses == {"id": 200, "access": 401, "refresh": 401}


def test_with_scopes_a_cognito_authorizer_takes_access_tokens_only(cloud: LocalCloud) -> None:
    # GIVEN a method with a scope that the access token has
    pool, tokens = sign_in(cloud)
    url = deploy_for(cloud, pool, ["aws.cognito.signin.user.admin"])
    # WHEN each kind of token is sent
    statuses = {kind: request(url, token=token)[0] for kind, token in tokens.items()}
    # THEN the access token lets its bearer in, and no other does
    assert statuses == {"id": 401, "access": 200, "refresh": 401}


def test_a_token_that_nobody_signed_is_unauthorized(cloud: LocalCloud) -> None:
    # GIVEN tokens that the pool didn't sign, some with what a token of the pool says
    pool, tokens = sign_in(cloud)
    url = deploy_for(cloud, pool, [])
    header, payload, signature = tokens["id"].split(".")
    _, others = sign_in(cloud)
    said = claims(tokens["id"])
    bad = {
        "none": None,
        "empty": "",
        "garbage": "garbage",
        "three parts": "a.b.c",
        "algorithm none": f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{payload}.",
        "algorithm none, known key": f"{encoded({**_header(header), 'alg': 'none'})}.{payload}.",
        "forged": f"{header}.{encoded({**said, 'sub': 'somebody'})}.{signature}",
        "forged to have expired": f"{header}.{encoded({**said, 'exp': 1})}.{signature}",
        "of another pool": others["id"],
    }
    # WHEN each is sent
    answers = {name: request(url, token=token) for name, token in bad.items()}
    # THEN none lets anybody in, and none counts as one that was good once
    for name, (status, _, body) in answers.items():
        assert (status, json.loads(body)) == (401, {"kind": "UNAUTHORIZED"}), name


def _header(part: str) -> dict[str, Any]:
    return claims(f".{part}")


def test_a_token_that_was_good_once_is_an_expired_token(cloud: LocalCloud) -> None:
    # GIVEN tokens that are good for a second; AWS lets nobody set less than five minutes
    units = {"IdToken": "seconds", "AccessToken": "seconds"}
    pool, tokens = sign_in(cloud, IdTokenValidity=1, AccessTokenValidity=1, TokenValidityUnits=units)
    url = deploy_for(cloud, pool, [])
    # WHEN they are sent when they have expired
    time.sleep(max(0.0, claims(tokens["id"])["exp"] - time.time() + 0.1))
    answers = {kind: request(url, token=tokens[kind]) for kind in ("id", "access")}
    # THEN the ID token is answered as expired; the access token never was a good one
    kinds = {kind: (status, json.loads(body)["kind"]) for kind, (status, _, body) in answers.items()}
    assert kinds == {"id": (401, "EXPIRED_TOKEN"), "access": (401, "UNAUTHORIZED")}

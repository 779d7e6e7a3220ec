"""Lambda developer guide: runtime errors, execution environment variables, concurrency."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from conformance.support import LocalCloud

FUNCTION = """
    import os
    import sys
    import time
    import uuid

    ENVIRONMENT = str(uuid.uuid4())

    class LimitReached(Exception):
        pass

    def handler(event, context):
        action = (event or {}).get("do")
        if action == "raise":
            raise LimitReached("too many")
        if action == "exit":
            os._exit(3)
        if action == "sleep":
            time.sleep(event["seconds"])
        if action == "write":
            os.write(1, b'{"status": "ok", "result": "forged"}\\n')
            print("x" * 200_000)
        return {"environment": ENVIRONMENT, "variables": dict(os.environ), "path": sys.path}
"""


def test_an_exception_keeps_its_type_message_and_stack_trace(cloud: LocalCloud) -> None:
    # GIVEN a function that raises an error of its own
    function = cloud.function(FUNCTION)
    # WHEN it is invoked
    error, payload = cloud.invoke(function, {"do": "raise"})
    # THEN the caller is told which, and where
    assert error == "Unhandled"
    assert (payload["errorType"], payload["errorMessage"]) == ("LimitReached", "too many")
    assert payload["requestId"]
    assert "index.py" in payload["stackTrace"][0]


def test_an_exception_does_not_end_the_execution_environment(cloud: LocalCloud) -> None:
    # GIVEN a warm environment
    function = cloud.function(FUNCTION)
    _, before = cloud.invoke(function)
    # WHEN an invocation raises
    cloud.invoke(function, {"do": "raise"})
    # THEN the next one is served by the same environment
    _, after = cloud.invoke(function)
    assert after["environment"] == before["environment"]


def test_a_module_that_cannot_be_imported_is_an_import_module_error(cloud: LocalCloud) -> None:
    # GIVEN a function whose module needs something that is not in its package
    function = cloud.function("import not_there")
    # WHEN it is invoked
    error, payload = cloud.invoke(function)
    # THEN the error names it
    assert error == "Unhandled"
    assert payload["errorType"] == "Runtime.ImportModuleError"
    assert "not_there" in payload["errorMessage"]


def test_a_time_out_is_reported_and_the_next_invocation_gets_a_new_environment(cloud: LocalCloud) -> None:
    # GIVEN a function with a time-out of one second
    function = cloud.function(FUNCTION, Timeout=1)
    _, before = cloud.invoke(function)
    # WHEN it takes longer
    error, payload = cloud.invoke(function, {"do": "sleep", "seconds": 30})
    # THEN it is stopped, and its environment with it
    assert error == "Unhandled"
    assert payload["errorType"] == "Sandbox.Timedout"
    assert "Task timed out after 1.00 seconds" in payload["errorMessage"]
    _, after = cloud.invoke(function)
    assert after["environment"] != before["environment"]


def test_a_runtime_that_exits_is_reported(cloud: LocalCloud) -> None:
    # GIVEN a function that ends its own process
    function = cloud.function(FUNCTION)
    # WHEN it is invoked
    _, payload = cloud.invoke(function, {"do": "exit"})
    # THEN the caller learns the exit status
    assert payload["errorType"] == "Runtime.ExitError"
    assert "exit status 3" in payload["errorMessage"]


def test_the_environment_holds_lambdas_variables_and_the_functions_own_only(cloud: LocalCloud) -> None:
    # GIVEN a function with a variable
    function = cloud.function(FUNCTION, Environment={"Variables": {"COLOUR": "blue"}}, MemorySize=256)
    # WHEN it looks at its environment
    _, payload = cloud.invoke(function)
    variables = payload["variables"]
    # THEN Lambda's defined variables are there and nothing of the server's process is
    assert variables["COLOUR"] == "blue"
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == function
    assert variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert variables["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert variables["AWS_LAMBDA_LOG_GROUP_NAME"] == f"/aws/lambda/{function}"
    assert variables["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.13"
    assert variables["TZ"] == ":UTC"
    assert not {"GATEWAY_PORT", "PERSIST_STATE", "VIRTUAL_ENV"} & set(variables)


def test_only_the_package_and_the_runtime_can_be_imported(cloud: LocalCloud) -> None:
    # GIVEN a function that imports what only the server's own installation has
    function = cloud.function("import ministack")
    # WHEN it is invoked
    _, payload = cloud.invoke(function)
    # THEN it fails as it would on AWS
    assert payload["errorType"] == "Runtime.ImportModuleError"


def test_what_a_function_writes_can_not_be_taken_for_its_answer(cloud: LocalCloud) -> None:
    # GIVEN a function that writes a lot, and something that looks like an answer
    function = cloud.function(FUNCTION)
    # WHEN it is invoked
    _, payload = cloud.invoke(function, {"do": "write"})
    # THEN its return value is the answer
    assert payload["environment"]


def test_output_is_in_the_log_between_start_and_report(cloud: LocalCloud) -> None:
    # GIVEN a function that prints
    function = cloud.function("def handler(event, context):\n    print('printed')\n")
    # WHEN it is invoked
    cloud.invoke(function)
    # THEN its log group has the line, in order
    events = cloud.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{function}")["events"]
    words = [event["message"].split()[0] for event in events]
    assert words == ["START", "printed", "END", "REPORT"]


def test_concurrent_invocations_beyond_the_limit_wait_for_an_environment(cloud: LocalCloud) -> None:
    # GIVEN more concurrent invocations than the local cloud starts environments
    function = cloud.function(FUNCTION)
    # WHEN they run at once
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: cloud.invoke(function, {"do": "sleep", "seconds": 0.05}), range(12)))
    # THEN all are answered, by at most four environments
    assert [error for error, _ in answers] == [None] * 12
    assert len({payload["environment"] for _, payload in answers}) <= 4


def test_a_busy_environment_does_not_hold_up_the_next_invocation(cloud: LocalCloud) -> None:
    # GIVEN a function whose environment is busy for long
    function = cloud.function(FUNCTION)
    cloud.invoke(function)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cloud.invoke, function, {"do": "sleep", "seconds": 4})
        # WHEN it is invoked again meanwhile
        cloud.invoke(function)
        # THEN another environment has served that
        assert not slow.done()


def test_reserved_concurrency_of_a_template_throttles(cloud: LocalCloud) -> None:
    # GIVEN a function of a stack with no concurrency at all
    stack = cloud.stack(
        {
            "Function": {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "Runtime": "python3.13",
                    "Handler": "index.handler",
                    "Role": cloud.role(),
                    "Code": {"ZipFile": "def handler(event, context): return 1"},
                    "ReservedConcurrentExecutions": 0,
                },
            }
        }
    )
    client = cloud.client("lambda")
    # WHEN it is invoked
    with pytest.raises(client.exceptions.TooManyRequestsException) as refusal:
        client.invoke(FunctionName=stack["Function"])
    # THEN the invocation is refused with the documented reason
    assert refusal.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"

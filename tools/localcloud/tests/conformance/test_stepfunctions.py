"""Amazon States Language and the Step Functions developer guide."""

import json
from typing import Any

import pytest

from conformance.support import ACCOUNT, REGION, LocalCloud, Queue, eventually, unique

LAMBDA = "arn:aws:states:::lambda:invoke"
QUEUE = "arn:aws:states:::sqs:sendMessage"
FAILING = """
    class Declined(Exception):
        pass

    def handler(event, context):
        raise Declined("too many")
"""
GATED = """
    import boto3
    import os

    def handler(event, context):
        while not boto3.client("sqs").receive_message(QueueUrl=os.environ["GATE"], WaitTimeSeconds=1).get("Messages"):
            pass
        print("too late")
        raise ValueError
"""


LONG = {"Type": "Wait", "Seconds": 3600, "End": True}


def definition(states: dict[str, Any], **top: Any) -> str:
    """Return a definition with JSONata states."""
    return json.dumps({"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states, **top})


def machine(cloud: LocalCloud, states: dict[str, Any], **top: Any) -> str:
    """Create a state machine with JSONata states and return its ARN."""
    answer = cloud.client("stepfunctions").create_state_machine(
        name=unique("machine"), definition=definition(states, **top), roleArn=cloud.role("states.amazonaws.com")
    )
    return str(answer["stateMachineArn"])


def start(cloud: LocalCloud, arn: str, data: Any = None, **options: str) -> str:
    """Start an execution and return its ARN."""
    answer = cloud.client("stepfunctions").start_execution(
        stateMachineArn=arn, input=json.dumps(data or {}), **options
    )
    return str(answer["executionArn"])


def run(cloud: LocalCloud, states: dict[str, Any], data: Any = None, **top: Any) -> dict[str, Any]:
    """Run a definition to its end and return the execution's description."""
    return cloud.outcome(start(cloud, machine(cloud, states, **top), data))


def history(cloud: LocalCloud, execution: str) -> list[dict[str, Any]]:
    """Return an execution's events."""
    answer = cloud.client("stepfunctions").get_execution_history(executionArn=execution, maxResults=1000)
    return list(answer["events"])


def status_events(cloud: LocalCloud) -> Queue:
    """Return a queue that gets the status changes of all executions."""
    queue = cloud.queue_for_events()
    cloud.rule("default", {"Arn": queue.arn}, {"source": ["aws.states"]})
    return queue


def status_event(queue: Queue, execution: str, status: str) -> dict[str, Any]:
    """Wait for the event that tells of a status of an execution, and return its detail."""

    def found() -> dict[str, Any] | None:
        message = queue.take()
        detail = json.loads(message["Body"])["detail"] if message else {}
        return detail if (detail.get("executionArn"), detail.get("status")) == (execution, status) else None

    detail = eventually(found)
    assert detail is not None
    return detail


def test_a_definition_in_yaml_is_deployed_from_a_bucket(cloud: LocalCloud) -> None:
    # GIVEN a definition in YAML, with comments and a substitution
    bucket = unique("bucket")
    cloud.client("s3").create_bucket(Bucket=bucket)
    text = "# comment\nStartAt: Only\nStates:\n  Only:\n    Type: Pass\n    Result: ${Word}\n    End: true\n"
    cloud.client("s3").put_object(Bucket=bucket, Key="definition.yaml", Body=text.encode())
    properties = {
        "RoleArn": cloud.role("states.amazonaws.com"),
        "DefinitionS3Location": {"Bucket": bucket, "Key": "definition.yaml"},
        "DefinitionSubstitutions": {"Word": "hello"},
    }
    # WHEN a stack deploys it
    stack = cloud.stack({"Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}})
    # THEN it runs
    assert json.loads(cloud.outcome(start(cloud, stack["Machine"]))["output"]) == "hello"


def test_succeed_has_an_output(cloud: LocalCloud) -> None:
    # GIVEN a Succeed state with an expression
    states = {"Done": {"Type": "Succeed", "Output": {"doubled": "{% $states.input.number * 2 %}"}}}
    # WHEN it runs
    description = run(cloud, states, {"number": 21})
    # THEN its output is evaluated
    assert json.loads(description["output"]) == {"doubled": 42}


def test_an_error_is_retried_by_its_name_and_then_caught(cloud: LocalCloud) -> None:
    # GIVEN a task that fails with an error of its own
    function = cloud.function(FAILING)
    task = {
        "Type": "Task",
        "Resource": LAMBDA,
        "Arguments": {"FunctionName": function, "Payload": {"item": 1}},
        "Retry": [{"ErrorEquals": ["Declined"], "MaxAttempts": 2, "MaxDelaySeconds": 1, "JitterStrategy": "FULL"}],
        "Catch": [{"ErrorEquals": ["Declined"], "Next": "Caught", "Output": "{% $states.errorOutput %}"}],
        "End": True,
    }
    # WHEN it runs
    execution = start(cloud, machine(cloud, {"Pay": task, "Caught": {"Type": "Pass", "End": True}}))
    description = cloud.outcome(execution)
    # THEN it is caught after two retries, and the history shows each attempt
    output = json.loads(description["output"])
    assert output["Error"] == "Declined"
    assert json.loads(output["Cause"])["errorMessage"] == "too many"
    events = history(cloud, execution)
    assert [event["type"] for event in events] == [
        "ExecutionStarted",
        "TaskStateEntered",
        *["TaskScheduled", "TaskStarted", "TaskFailed"] * 3,
        "TaskStateExited",
        "PassStateEntered",
        "PassStateExited",
        "ExecutionSucceeded",
    ]
    assert [event["previousEventId"] for event in events[1:]] == [event["id"] for event in events[:-1]]
    scheduled = events[2]["taskScheduledEventDetails"]
    assert (scheduled["resourceType"], scheduled["resource"]) == ("lambda", "invoke")
    assert json.loads(scheduled["parameters"])["Payload"] == {"item": 1}
    assert events[4]["taskFailedEventDetails"]["error"] == "Declined"


def test_a_throttled_function_has_an_error_name_of_its_own(cloud: LocalCloud) -> None:
    # GIVEN a function that may not run
    function = cloud.function(FAILING)
    cloud.client("lambda").put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    task = {"Type": "Task", "Resource": LAMBDA, "Arguments": {"FunctionName": function}, "End": True}
    # WHEN a task calls it
    description = run(cloud, {"Call": task})
    # THEN the task fails with Lambda's exception
    assert description["error"] == "Lambda.TooManyRequestsException"


def test_a_function_that_times_out_has_an_error_name_of_its_own(cloud: LocalCloud) -> None:
    # GIVEN a function that takes longer than its time-out
    function = cloud.function("import time\ndef handler(event, context): time.sleep(30)\n", Timeout=1)
    task = {"Type": "Task", "Resource": LAMBDA, "Arguments": {"FunctionName": function}, "End": True}
    # WHEN a task calls it
    description = run(cloud, {"Call": task})
    # THEN the error says so
    assert description["error"] == "Sandbox.Timedout"


def test_a_task_that_takes_too_long_times_out(cloud: LocalCloud) -> None:
    # GIVEN a task with a time-out shorter than its function's run
    function = cloud.function("import time\ndef handler(event, context): time.sleep(3)\n")
    task = {
        "Type": "Task",
        "Resource": LAMBDA,
        "Arguments": {"FunctionName": function},
        "TimeoutSeconds": 1,
        "End": True,
    }
    execution = start(cloud, machine(cloud, {"Call": task}))
    # WHEN it runs
    description = cloud.outcome(execution)
    # THEN it fails with States.Timeout, which the history shows as a time-out
    assert description["error"] == "States.Timeout"
    assert "TaskTimedOut" in [event["type"] for event in history(cloud, execution)]


def test_an_execution_that_takes_too_long_times_out(cloud: LocalCloud) -> None:
    # GIVEN a machine with a time-out, at wait
    events = status_events(cloud)
    # WHEN its time is over
    execution = start(cloud, machine(cloud, {"Wait": LONG}, TimeoutSeconds=1), {"item": 1})
    # THEN it has timed out, and an event says so
    assert cloud.outcome(execution)["status"] == "TIMED_OUT"
    assert history(cloud, execution)[-1]["type"] == "ExecutionTimedOut"
    assert json.loads(status_event(events, execution, "TIMED_OUT")["input"]) == {"item": 1}


def test_a_stopped_execution_stays_aborted(cloud: LocalCloud) -> None:
    # GIVEN an execution that waits for a function that fails once it may
    gate, events = cloud.queue(), status_events(cloud)
    function = cloud.function(GATED, Environment={"Variables": {"GATE": gate.url}})
    task = {"Type": "Task", "Resource": LAMBDA, "Arguments": {"FunctionName": function}, "End": True}
    execution = start(cloud, machine(cloud, {"Call": task}))
    eventually(lambda: "TaskStarted" in [event["type"] for event in history(cloud, execution)])
    # WHEN it is stopped, and the function fails afterwards
    stepfunctions = cloud.client("stepfunctions")
    stepfunctions.stop_execution(executionArn=execution, error="Enough", cause="of this")
    detail = status_event(events, execution, "ABORTED")
    gate.send("now")
    eventually(lambda: any("too late" in line for line in cloud.log(function)))
    # THEN it is aborted once and for all
    description = cloud.outcome(execution)
    assert (description["status"], description["error"]) == ("ABORTED", "Enough")
    assert (detail["error"], detail["cause"]) == ("Enough", "of this")
    assert history(cloud, execution)[-1]["type"] == "ExecutionAborted"


def test_a_task_waits_for_the_answer_to_its_token(cloud: LocalCloud) -> None:
    # GIVEN a task that sends its token to a queue
    queue = cloud.queue()
    arguments = {"QueueUrl": queue.url, "MessageBody": {"token": "{% $states.context.Task.Token %}"}}
    task = {"Type": "Task", "Resource": f"{QUEUE}.waitForTaskToken", "Arguments": arguments, "End": True}
    execution = start(cloud, machine(cloud, {"Ask": task}))
    # WHEN the token is answered
    token = json.loads(queue.next()["Body"])["token"]
    cloud.client("stepfunctions").send_task_success(taskToken=token, output='{"answered": true}')
    # THEN the answer is the task's result
    assert json.loads(cloud.outcome(execution)["output"]) == {"answered": True}


def test_an_expression_is_evaluated_for_each_execution(cloud: LocalCloud) -> None:
    # GIVEN a state with an expression that has a function and a variable of its own
    expression = "{% ($twice := function($n) { $n * 2 }; $map($states.input.numbers, $twice)) %}"
    arn = machine(cloud, {"Double": {"Type": "Pass", "Output": {"doubled": expression}, "End": True}})
    # WHEN it is entered with one input and another
    executions = [start(cloud, arn, {"numbers": numbers}) for numbers in ([1, 2], [3, 4], [5, 6])]
    # THEN each has its own result
    outputs = [json.loads(cloud.outcome(execution)["output"]) for execution in executions]
    assert outputs == [{"doubled": [2, 4]}, {"doubled": [6, 8]}, {"doubled": [10, 12]}]


def test_the_same_start_twice_is_one_execution_while_it_runs(cloud: LocalCloud) -> None:
    # GIVEN a running execution
    arn = machine(cloud, {"Wait": LONG})
    first = start(cloud, arn, {"item": 1}, name="job-1")
    # WHEN it is started again with the same input
    again = start(cloud, arn, {"item": 1}, name="job-1")
    # THEN it is the same one; with another input, or once it has ended, it is refused
    assert first == again
    already = cloud.client("stepfunctions").exceptions.ExecutionAlreadyExists
    with pytest.raises(already):
        start(cloud, arn, {"item": 2}, name="job-1")
    cloud.client("stepfunctions").stop_execution(executionArn=first)
    with pytest.raises(already):
        start(cloud, arn, {"item": 1}, name="job-1")


def test_input_that_is_no_json_is_refused(cloud: LocalCloud) -> None:
    # GIVEN a machine
    arn = machine(cloud, {"Done": {"Type": "Succeed"}})
    stepfunctions = cloud.client("stepfunctions")
    # WHEN it is started with broken input
    # THEN the request is refused
    with pytest.raises(stepfunctions.exceptions.InvalidExecutionInput):
        stepfunctions.start_execution(stateMachineArn=arn, input="{")


def test_a_failed_execution_reaches_a_rule_on_the_default_bus(cloud: LocalCloud) -> None:
    # GIVEN a rule on failed executions
    events = status_events(cloud)
    # WHEN one fails
    states = {"Stuck": {"Type": "Fail", "Error": "OrderStuck", "Cause": "provider down"}}
    execution = start(cloud, machine(cloud, states), {"item": 1})
    # THEN the event carries its input, error and cause
    detail = status_event(events, execution, "FAILED")
    assert (detail["error"], detail["cause"]) == ("OrderStuck", "provider down")
    assert json.loads(detail["input"]) == {"item": 1}
    assert detail["stateMachineArn"].startswith(f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:")

"""Express state machines, and the logs and metrics of executions: the Step Functions developer guide."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.support import ACCOUNT, REGION, LocalCloud, eventually, free_port, unique
from conformance.support import start as start_server
from conformance.test_cloudwatch import total
from conformance.test_stepfunctions import FAILING, LAMBDA, LONG, QUEUE, definition, history, start, status_events
from conformance.test_stepfunctions import machine as standard_machine

DONE = {"Done": {"Type": "Succeed"}}
ENDS = ("ExecutionSucceeded", "ExecutionFailed", "ExecutionTimedOut")


def log_group(cloud: LocalCloud) -> str:
    """Create a log group and return its name."""
    name = unique("/aws/vendedlogs/states/test")
    cloud.client("logs").create_log_group(logGroupName=name)
    return name


def group_arn(group: str) -> str:
    """Return the ARN of a log group, as a logging configuration takes it."""
    return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}:*"


def machine(
    cloud: LocalCloud, states: dict[str, Any], group: str = "", *, level: str = "ALL", data: bool = True, **top: Any
) -> str:
    """Create an Express state machine, which logs to a group if one is given, and return its ARN."""
    logging = {
        "level": level if group else "OFF",
        "includeExecutionData": data,
        "destinations": [{"cloudWatchLogsLogGroup": {"logGroupArn": group_arn(group)}}] if group else [],
    }
    answer = cloud.client("stepfunctions").create_state_machine(
        name=unique("machine"),
        type="EXPRESS",
        definition=definition(states, **top),
        roleArn=cloud.role("states.amazonaws.com"),
        loggingConfiguration=logging,
    )
    return str(answer["stateMachineArn"])


def lines(cloud: LocalCloud, group: str, execution: str = "") -> list[dict[str, Any]]:
    """Return what a log group has, of one execution if one is given."""
    pages = cloud.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    found = [json.loads(event["message"]) for page in pages for event in page["events"]]
    return [line for line in found if execution in ("", line["execution_arn"])]


def story(cloud: LocalCloud, group: str, execution: str) -> list[dict[str, Any]]:
    """Wait for the end of an execution, and return its lines in a log group of level ALL."""

    def ended() -> list[dict[str, Any]]:
        found = lines(cloud, group, execution)
        return found if found and found[-1]["type"] in ENDS else []

    return eventually(ended)


def refusal(cloud: LocalCloud, operation: str, **request: Any) -> str:
    """Make a call and return the code of its error, or an empty string."""
    client = cloud.client("stepfunctions")
    try:
        getattr(client, operation)(**request)
    except client.exceptions.ClientError as refused:
        return str(refused.response["Error"]["Code"])
    return ""


def test_an_execution_tells_its_story_in_the_log(cloud: LocalCloud) -> None:
    # GIVEN an Express state machine that logs everything
    group = log_group(cloud)
    arn = machine(cloud, {"Double": {"Type": "Pass", "Output": "{% $states.input.number * 2 %}", "End": True}}, group)
    # WHEN it is started
    execution = start(cloud, arn, {"number": 21}, name="job")
    # THEN the execution's ARN has the machine's name, the execution's and an id
    assert re.fullmatch(f"{arn.replace(':stateMachine:', ':express:')}:job:[0-9a-f-]{{36}}", execution)
    # THEN the log has an object an event, with input and output
    found = story(cloud, group, execution)
    assert [(line["id"], line["type"], line["previous_event_id"]) for line in found] == [
        ("1", "ExecutionStarted", "0"),
        ("2", "PassStateEntered", "1"),
        ("3", "PassStateExited", "2"),
        ("4", "ExecutionSucceeded", "3"),
    ]
    assert found[0]["details"]["input"] == '{"number": 21}'
    assert found[0]["details"]["inputDetails"] == {"truncated": False}
    assert found[1]["details"]["name"] == "Double"
    assert found[3]["details"] == {"output": "42", "outputDetails": {"truncated": False}}
    assert all(line["redrive_count"] == "0" and line["event_timestamp"].isdigit() for line in found)
    # THEN the log stream is named by the machine and the minute
    (stream,) = cloud.client("logs").describe_log_streams(logGroupName=group)["logStreams"]
    name = arn.rsplit(":", 1)[1]
    assert re.fullmatch(rf"states/{name}/\d{{4}}(-\d\d){{4}}/[0-9a-f]{{8}}", stream["logStreamName"])


@pytest.mark.parametrize(
    ("level", "types"),
    [
        ("ERROR", ["TaskFailed", "FailStateEntered", "ExecutionFailed"]),
        ("FATAL", ["ExecutionFailed"]),
    ],
)
def test_a_level_keeps_its_events_and_no_data(cloud: LocalCloud, level: str, types: list[str]) -> None:
    # GIVEN a machine that logs errors without data, and one that logs nothing
    group, silent = log_group(cloud), log_group(cloud)
    task = {
        "Type": "Task",
        "Resource": LAMBDA,
        "Arguments": {"FunctionName": cloud.function(FAILING)},
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Give up"}],
        "End": True,
    }
    states = {"Call": task, "Give up": {"Type": "Fail", "Error": "Stuck", "Cause": "provider down"}}
    arn = machine(cloud, states, group, level=level, data=False)
    start(cloud, machine(cloud, states, silent, level="OFF"))
    # WHEN an execution fails
    execution = start(cloud, arn, {"secret": 1})
    # THEN the log has the events of the level, with error and cause but neither input nor output
    found = story(cloud, group, execution)
    assert [line["type"] for line in found] == types
    assert found[-1]["details"] == {"error": "Stuck", "cause": "provider down"}
    assert "secret" not in json.dumps(found)
    assert lines(cloud, silent) == []


def test_a_standard_execution_is_logged_too(cloud: LocalCloud) -> None:
    # GIVEN a Standard state machine of a template, with a log group
    group = log_group(cloud)
    properties = {
        "RoleArn": cloud.role("states.amazonaws.com"),
        "DefinitionString": definition(DONE),
        "LoggingConfiguration": {
            "Level": "ALL",
            "IncludeExecutionData": True,
            "Destinations": [{"CloudWatchLogsLogGroup": {"LogGroupArn": group_arn(group)}}],
        },
    }
    arn = cloud.stack({"Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}})["Machine"]
    # WHEN it runs
    execution = start(cloud, arn)
    # THEN its log is its history
    assert [line["type"] for line in story(cloud, group, execution)] == [
        event["type"] for event in history(cloud, execution)
    ]
    # THEN the configuration is described as the API has it
    described = cloud.client("stepfunctions").describe_state_machine(stateMachineArn=arn)["loggingConfiguration"]
    assert (described["level"], described["includeExecutionData"]) == ("ALL", True)
    assert described["destinations"] == [{"cloudWatchLogsLogGroup": {"logGroupArn": group_arn(group)}}]


def test_the_type_is_told(cloud: LocalCloud) -> None:
    # GIVEN an Express state machine
    arn = machine(cloud, DONE)
    # THEN it is described and listed as one
    stepfunctions = cloud.client("stepfunctions")
    pages = stepfunctions.get_paginator("list_state_machines").paginate()
    listed = {each["stateMachineArn"]: each["type"] for page in pages for each in page["stateMachines"]}
    assert stepfunctions.describe_state_machine(stateMachineArn=arn)["type"] == listed[arn] == "EXPRESS"


def test_no_call_finds_an_execution(cloud: LocalCloud) -> None:
    # GIVEN a running execution, and one that has ended
    group = log_group(cloud)
    running = start(cloud, machine(cloud, {"Wait": LONG}, group))
    arn = machine(cloud, DONE, group)
    ended = start(cloud, arn)
    assert story(cloud, group, ended)
    # THEN no call answers for them
    for execution in (running, ended):
        for operation in (
            "describe_execution",
            "describe_state_machine_for_execution",
            "get_execution_history",
            "stop_execution",
        ):
            assert refusal(cloud, operation, executionArn=execution) == "InvalidArn"
    assert refusal(cloud, "list_executions", stateMachineArn=arn) == "StateMachineTypeNotSupported"


def test_the_same_name_twice_is_two_executions(cloud: LocalCloud) -> None:
    # GIVEN a running execution
    group = log_group(cloud)
    arn = machine(cloud, {"Wait": LONG}, group)
    first = start(cloud, arn, {"item": 1}, name="job")
    # WHEN it is started again under its name
    again = start(cloud, arn, {"item": 1}, name="job")
    # THEN there are two
    assert first != again
    eventually(lambda: {line["execution_arn"] for line in lines(cloud, group)} == {first, again})


def test_input_that_is_no_json_is_refused(cloud: LocalCloud) -> None:
    # WHEN an Express state machine is started with broken input
    arn = machine(cloud, DONE)
    codes = [refusal(cloud, f"start_{kind}execution", stateMachineArn=arn, input="{") for kind in ("", "sync_")]
    # THEN the request is refused
    assert codes == ["InvalidExecutionInput", "InvalidExecutionInput"]


def test_no_event_tells_of_a_status(cloud: LocalCloud) -> None:
    # GIVEN a rule on the status of all executions
    events, group = status_events(cloud), log_group(cloud)
    # WHEN an Express execution ends, and then a Standard one
    express = start(cloud, machine(cloud, {"Stuck": {"Type": "Fail"}}, group))
    assert story(cloud, group, express)
    execution = start(cloud, standard_machine(cloud, DONE))
    # THEN the events are the Standard one's
    told = {json.loads(events.next()["Body"])["detail"]["executionArn"] for _ in ("RUNNING", "SUCCEEDED")}
    assert told == {execution}


def test_an_execution_times_out_by_its_definition(cloud: LocalCloud) -> None:
    # GIVEN a machine with a time-out of its own
    group = log_group(cloud)
    arn = machine(cloud, {"Wait": LONG}, group, TimeoutSeconds=1)
    # WHEN its time is over
    found = story(cloud, group, start(cloud, arn))
    # THEN the log says so
    assert found[-1]["type"] == "ExecutionTimedOut"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """Start a server whose Express executions may run for a second."""
    directory: Path = tmp_path_factory.mktemp("hasty")
    server, running = start_server(free_port(), directory, "--express-timeout", "1")
    try:
        yield running
    finally:
        server.terminate()
        server.wait(timeout=15)


def test_an_execution_ends_after_the_longest_time(hasty: LocalCloud) -> None:
    # GIVEN a machine whose definition allows more time than Express does, in a task
    group = log_group(hasty)
    function = hasty.function("import time\ndef handler(event, context): time.sleep(5)\n")
    task = {"Type": "Task", "Resource": LAMBDA, "Arguments": {"FunctionName": function}, "End": True}
    arn = machine(hasty, {"Call": task}, group, TimeoutSeconds=3600)
    # WHEN it runs
    found = story(hasty, group, start(hasty, arn))
    # THEN it times out, in the log and in its metrics
    assert found[-1]["type"] == "ExecutionTimedOut"
    assert total(hasty, "AWS/States", "ExecutionsTimedOut", StateMachineArn=arn) == 1
    # THEN a synchronous one does too
    answer = hasty.client("stepfunctions").start_sync_execution(stateMachineArn=arn)
    assert answer["status"] == "TIMED_OUT"


@pytest.mark.parametrize(
    "state",
    [
        {"Type": "Task", "Resource": f"{QUEUE}.waitForTaskToken", "End": True},
        {"Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2", "End": True},
        {"Type": "Task", "Resource": f"arn:aws:states:{REGION}:{ACCOUNT}:activity:work", "End": True},
        {
            "Type": "Map",
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"},
                "StartAt": "Done",
                "States": DONE,
            },
            "End": True,
        },
    ],
    ids=["callback", "job", "activity", "distributed map"],
)
def test_a_definition_that_express_does_not_support_is_refused(cloud: LocalCloud, state: dict[str, Any]) -> None:
    # GIVEN a state that needs a Standard state machine, within a branch
    branch = {"StartAt": "Ask", "States": {"Ask": state}}
    unsupported = definition({"Both": {"Type": "Parallel", "Branches": [branch], "End": True}})
    role = cloud.role("states.amazonaws.com")
    request = {"name": unique("machine"), "definition": unsupported, "roleArn": role}
    # THEN an Express state machine with it is neither created, nor updated, nor deployed
    assert refusal(cloud, "create_state_machine", type="EXPRESS", **request) == "InvalidDefinition"
    arn = machine(cloud, DONE)
    assert refusal(cloud, "update_state_machine", stateMachineArn=arn, definition=unsupported) == "InvalidDefinition"
    properties = {"StateMachineType": "EXPRESS", "DefinitionString": unsupported, "RoleArn": role}
    with pytest.raises(AssertionError):
        cloud.stack({"Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}})
    # THEN a Standard one is created
    assert refusal(cloud, "create_state_machine", **request) == ""


def test_a_synchronous_start_answers_with_the_outcome(cloud: LocalCloud) -> None:
    # GIVEN an Express state machine, one that fails, and a Standard one
    stepfunctions = cloud.client("stepfunctions")
    good = machine(cloud, DONE)
    bad = machine(cloud, {"Stuck": {"Type": "Fail", "Error": "Stuck", "Cause": "provider down"}})
    standard = standard_machine(cloud, DONE)
    # WHEN they are started synchronously
    succeeded = stepfunctions.start_sync_execution(stateMachineArn=good, input='{"item": 1}', name="job")
    failed = stepfunctions.start_sync_execution(stateMachineArn=bad)
    # THEN each Express one answers with its outcome and what is billed
    assert (succeeded["status"], json.loads(succeeded["output"])) == ("SUCCEEDED", {"item": 1})
    assert succeeded["executionArn"].startswith(f"{good.replace(':stateMachine:', ':express:')}:job:")
    assert succeeded["billingDetails"]["billedDurationInMilliseconds"] % 100 == 0
    assert (failed["status"], failed["error"], failed["cause"]) == ("FAILED", "Stuck", "provider down")
    assert refusal(cloud, "start_sync_execution", stateMachineArn=standard) == "StateMachineTypeNotSupported"


def test_executions_are_counted(cloud: LocalCloud) -> None:
    # GIVEN an Express state machine that fails for some input
    states = {
        "Which": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $states.input.bad %}", "Next": "Bad"}],
            "Default": "Good",
        },
        "Bad": {"Type": "Fail"},
        "Good": {"Type": "Succeed"},
    }
    arn = machine(cloud, states)
    # WHEN it fails once and succeeds twice
    stepfunctions = cloud.client("stepfunctions")
    for bad in (True, False, False):
        stepfunctions.start_sync_execution(stateMachineArn=arn, input=json.dumps({"bad": bad}))
    # THEN its metrics say so
    names = ("ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed")
    assert [total(cloud, "AWS/States", name, StateMachineArn=arn) for name in names] == [3, 2, 1]
    billed = total(cloud, "AWS/States", "ExpressExecutionBilledDuration", StateMachineArn=arn)
    assert billed >= 300
    assert billed % 100 == 0


def test_nothing_is_kept_of_an_execution_that_has_ended(tmp_path: Path) -> None:
    # GIVEN a server that saves everything, with an Express execution, a synchronous one and a Standard one
    server, cloud = start_server(free_port(), tmp_path, "--persist")
    try:
        group = log_group(cloud)
        arn = machine(cloud, DONE, group)
        ended = start(cloud, arn)
        assert story(cloud, group, ended)
        sync = cloud.client("stepfunctions").start_sync_execution(stateMachineArn=arn)["executionArn"]
        kept = start(cloud, standard_machine(cloud, DONE))
        assert cloud.outcome(kept)
        # WHEN it is stopped
        server.terminate()
        assert server.wait(timeout=20) == 0
    finally:
        server.kill()
        server.wait()
    # THEN it has saved the Standard one and, of the Express ones, their log
    (states,) = (tmp_path / "data").rglob("stepfunctions.json")
    (logs,) = (tmp_path / "data").rglob("cloudwatch_logs.json")
    assert [execution in states.read_text() for execution in (kept, ended, sync)] == [True, False, False]
    assert [execution in logs.read_text() for execution in (ended, sync)] == [True, True]


def test_an_event_starts_an_express_execution(cloud: LocalCloud) -> None:
    # GIVEN a rule whose target is an Express state machine
    group, bus = log_group(cloud), cloud.bus()
    arn = machine(cloud, DONE, group)
    cloud.rule(bus, {"Arn": arn, "RoleArn": cloud.role("events.amazonaws.com")})
    # WHEN an event comes
    cloud.put_event(bus, {"item": 1})
    # THEN an execution has it as its input
    first = eventually(lambda: lines(cloud, group))[0]
    assert json.loads(first["details"]["input"])["detail"] == {"item": 1}

"""Messages on the failures queue that lack something, have too much, or only look like another kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orders.inbox.parse import component_of, identify, read_message
from orders.inbox.record import Action, Kind
from tests.unit.test_inbox_parse import (
    BUS_EVENT,
    DEAD_LETTER,
    FAILURES_QUEUE,
    FUNCTION,
    INVOCATION,
    NOTIFICATIONS_QUEUE,
    STREAM,
    execution_event,
    message,
    read,
)

NO_KIND = "no kind of failure message looks like this"


# ---- What kind it is


def test_a_message_that_went_through_the_failures_queue_itself_is_what_it_was() -> None:
    # GIVEN an operator who moved the messages of the failures queue away and back
    assert read(INVOCATION, came_from=FAILURES_QUEUE).kind is Kind.FUNCTION


def test_the_dead_letter_of_an_executions_event_is_still_the_execution() -> None:
    # GIVEN the event of a failed execution that EventBridge could not put on the failures queue at first
    failure = read(execution_event(), attributes={"TARGET_ARN": FAILURES_QUEUE, "RULE_ARN": "rule"})

    assert (failure.kind, failure.redrive.action) == (Kind.EXECUTION, Action.RESUME)


@pytest.mark.parametrize(
    "body",
    [
        {**execution_event(), "source": "somebody.else"},
        {**execution_event(), "detail-type": "Something Else"},
        {"requestContext": INVOCATION["requestContext"]},
        {"requestPayload": BUS_EVENT},
        {"kind": "Something"},
        '{"source": ' + "[" * 5_000 + "]" * 5_000 + "}",
    ],
)
def test_what_looks_like_a_kind_only_in_part_is_unknown(body: Any) -> None:
    failure = read(body)

    assert (failure.kind, failure.error_message) == (Kind.UNKNOWN, NO_KIND)


def test_a_message_that_breaks_its_kinds_form_says_what_is_wrong() -> None:
    failure = read('{"kind": "PoisonMessage", "error": "e"}')

    assert failure.error_message == "ValidationError: Object missing required field `queueArn`"
    assert failure.source == {"messageId": "message-1"}


# ---- What a message leaves out


def test_a_pointer_that_does_not_say_how_many_is_of_one_record() -> None:
    failure = read(
        {
            "requestContext": {"functionArn": FUNCTION},
            "DDBStreamBatchInfo": {
                "shardId": "shard-1",
                "startSequenceNumber": "1",
                "endSequenceNumber": "1",
                "streamArn": STREAM,
            },
        }
    )

    assert failure.error_message == "IssueReceiptFunction failed on 1 records; see its log"
    assert (failure.error_name, failure.attempts, failure.source["batchSize"]) == ("Unknown", 1, "1")
    assert "requestId" not in failure.source


def test_a_cause_without_words_is_empty() -> None:
    assert read(execution_event(cause='{"state": "FulfillOrder"}')).error_message == ""


def test_an_answer_that_is_missing_is_no_error_of_its_own() -> None:
    failure = read({"requestContext": {"functionArn": FUNCTION}, "requestPayload": BUS_EVENT})

    assert failure.error_message in {"", "null"}


def test_an_attribute_that_is_no_text_is_left_out() -> None:
    binary = message("?")
    binary["messageAttributes"] = {"SOME": {"dataType": "Binary", "binaryValue": "AAAA"}}

    assert read_message(binary).source == {"messageId": "message-1"}


def test_a_message_whose_attributes_are_null_is_read_all_the_same() -> None:
    bare = {**message(INVOCATION), "attributes": None, "messageAttributes": None}

    assert read_message(bare).kind is Kind.FUNCTION


def test_a_dead_letter_that_names_neither_rule_nor_schedule_has_neither() -> None:
    failure = read("{}", attributes={"TARGET_ARN": FUNCTION})

    assert failure.source == {}
    assert (failure.error_name, failure.error_message, failure.attempts) == ("Unknown", "", 1)


def test_an_error_without_a_message_has_a_name() -> None:
    record = {"kind": "UnreadableStreamRecord", "error": "LookupError", "record": {}}
    failure = read(record)

    assert (failure.error_name, failure.error_message) == ("LookupError", "")
    assert (failure.component, failure.resource_arn, failure.source) == ("unknown", "", {})


def test_a_record_that_is_no_object_is_kept_and_has_a_name() -> None:
    failure = read({"kind": "UnreadableStreamRecord", "error": ": ", "record": [1]})

    assert (failure.error_name, failure.payload, failure.occurrence) == ("Unknown", "[1]", "message-1")
    assert (failure.component, failure.resource_arn, failure.source) == ("unknown", "", {})
    assert (failure.redrive.action, failure.attempts) == (Action.PUBLISH, 1)


@pytest.mark.parametrize(("number", "source"), [({"SequenceNumber": 7}, {"sequenceNumber": "7"}), ({}, {})])
def test_a_record_whose_texts_are_none_is_kept(number: dict[str, int], source: dict[str, str]) -> None:
    record = {"eventSourceARN": 8, "dynamodb": number}
    failure = read({"kind": "UnreadableStreamRecord", "error": "E: e", "record": record})

    assert (failure.resource_arn, failure.source) == ("8", source)


def test_an_event_whose_id_is_a_number_is_kept() -> None:
    assert read({**BUS_EVENT, "id": 7}, attributes=DEAD_LETTER).occurrence == "7"


@pytest.mark.parametrize(("cause", "text"), [("7", "7"), ('{"a": 1}', "{'a': 1}"), ("null", "None")])
def test_a_cause_that_is_no_text_is_told_as_one(cause: str, text: str) -> None:
    assert read(execution_event(cause=f'{{"state": "X", "cause": {cause}}}')).error_message == text


# ---- Which one it is


@pytest.mark.parametrize("given", [{"attributes": DEAD_LETTER}, {"came_from": NOTIFICATIONS_QUEUE}])
def test_a_replayed_event_that_fails_again_is_the_same_failure(given: dict[str, Any]) -> None:
    first = read({**BUS_EVENT, "id": "event-1"}, **given)
    second = read({**BUS_EVENT, "id": "event-2"}, **given)

    assert first.failure_id == second.failure_id


def test_dead_letters_without_an_id_are_told_apart_by_their_text_to_the_end() -> None:
    texts = ["[]", "{}", json.dumps({"x": "x" * 300, "y": 1}), json.dumps({"x": "x" * 300, "y": 2})]

    assert len({read(text, attributes=DEAD_LETTER).occurrence for text in texts}) == 4
    assert {len(read(text, attributes=DEAD_LETTER).occurrence) for text in texts} == {64}


def test_an_invocation_without_a_request_id_is_told_apart_by_its_payload() -> None:
    bare = {"requestContext": {"functionArn": FUNCTION}}
    first = read({**bare, "requestPayload": {"x": "x" * 300, "y": 1}})
    second = read({**bare, "requestPayload": {"x": "x" * 300, "y": 2}})

    assert first.occurrence != second.occurrence
    assert len(first.occurrence) == 64


def test_an_id_of_a_failure_is_short_and_the_same_today_and_tomorrow() -> None:
    # A changed id would make a second record of what is in the table already.
    assert read(INVOCATION).failure_id == "895f986c529665c895ba"
    assert read(BUS_EVENT, attributes=DEAD_LETTER).failure_id == "1b10ab14df060c10ab9f"
    assert read(BUS_EVENT, came_from=NOTIFICATIONS_QUEUE).failure_id == "f0ff00b594a0bdb65d44"
    assert read(execution_event()).failure_id == "9e2313b89e9be6ab3834"
    assert read("?").failure_id == "4dbebcdb0212af796ae2"


# ---- Whose it is


@pytest.mark.parametrize("name", ["customerId", "correlationId"])
@pytest.mark.parametrize(
    "payload",
    [
        {"detail": {"{}": "x"}},
        {"detail": {"data": {"{}": "x"}}},
        {"detail": {"metadata": {"{}": "x"}}},
        {"data": {"{}": "x"}},
        {"metadata": {"{}": "x"}},
        {"dynamodb": {"NewImage": {"{}": {"S": "x"}}}},
        {"dynamodb": {"Keys": {"{}": {"S": "x"}}}},
    ],
)
def test_ids_are_found_wherever_our_messages_have_them(payload: dict[str, Any], name: str) -> None:
    found = identify(json.dumps(payload).replace("{}", name))

    assert list(found.values()) == ["x"]


@pytest.mark.parametrize(
    ("arn", "name"),
    [
        ("arn:aws:lambda:eu-west-1:123456789012:function:orders-dev-Some-AbCdEfGhIjK", "orders-dev-Some-AbCdEfGhIjK"),
        ("arn:aws:lambda:eu-west-1:123456789012:function:orders-dev-Some-AbCdEfGhIjKl", "Some"),
        ("arn:aws:lambda:eu-west-1:123456789012:function:orders-dev-Some-AbCdEfGhIjKlM", "Some"),
        ("orders-dev-Some-AbCdEfGhIjKl", "Some"),
    ],
)
def test_a_made_up_name_is_told_by_its_ending(arn: str, name: str) -> None:
    assert component_of(arn) == name

"""The driver's errors as ours, and statements as they are sent."""

from __future__ import annotations

import cassandra
import pytest
from cassandra import ConsistencyLevel, OperationTimedOut, ReadTimeout, WriteTimeout, WriteType
from cassandra import Unavailable as NotEnoughReplicas
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionShutdown
from cassandra.protocol import ErrorMessage, OverloadedErrorMessage, SyntaxException

from timeline.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from timeline.store.errors import describe, outcome_of, translate
from timeline.store.session import Kind, _maybe_done, _qualified

QUORUM = ConsistencyLevel.LOCAL_QUORUM
TOO_FEW = NotEnoughReplicas("few", consistency=QUORUM, required_replicas=2, alive_replicas=1)
TIMED_OUT = OperationTimedOut({}, None)
WRITE_TIMED_OUT = WriteTimeout(
    "slow", write_type=WriteType.SIMPLE, consistency=QUORUM, required_responses=2, received_responses=1
)
ENGINE_ERRORS = [
    TOO_FEW,
    TIMED_OUT,
    WRITE_TIMED_OUT,
    ReadTimeout("slow", data_retrieved=False, consistency=QUORUM, required_responses=2, received_responses=1),
    NoHostAvailable("none", {"a:1": ConnectionRefusedError("no")}),
    ConnectionShutdown("gone"),
    OverloadedErrorMessage(0x1001, "busy", None),
    ErrorMessage(0x1700, "compare-and-set of unknown outcome", None),
]


@pytest.mark.parametrize("error", ENGINE_ERRORS)
def test_an_engine_that_cannot_answer_is_unavailable_with_its_cause(error: Exception) -> None:
    ours = translate(error, maybe_done=False)
    assert isinstance(ours, Unavailable)
    assert not isinstance(ours, OutcomeUnknown)
    assert ours.__cause__ is error
    assert isinstance(translate(error, maybe_done=True), OutcomeUnknown)


@pytest.mark.parametrize("error", [cassandra.InvalidRequest("x"), SyntaxException(0x2000, "x", None), ValueError("x")])
def test_a_bug_comes_through_untouched(error: Exception) -> None:
    assert translate(error, maybe_done=True) is error


@pytest.mark.parametrize(
    ("kind", "error", "tries", "maybe"),
    [
        (Kind.read, TIMED_OUT, 1, False),
        (Kind.serial, TIMED_OUT, 1, False),
        (Kind.write, TIMED_OUT, 1, True),
        (Kind.write, WRITE_TIMED_OUT, 1, True),
        (Kind.write, TOO_FEW, 1, False),
        (Kind.write, TOO_FEW, 2, True),
        (Kind.write, TIMED_OUT, 0, False),
        (Kind.cas, TOO_FEW, 1, True),
        (Kind.cas, TIMED_OUT, 0, False),
    ],
)
def test_only_what_was_sent_and_not_refused_may_be_done(kind: Kind, error: Exception, tries: int, maybe: bool) -> None:
    assert _maybe_done(kind, error, tries) is maybe


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (translate(TIMED_OUT, maybe_done=False), "timeout"),
        (translate(WRITE_TIMED_OUT, maybe_done=True), "timeout"),
        (translate(TOO_FEW, maybe_done=False), "refused"),
        (translate(ConnectionShutdown("gone"), maybe_done=True), "unavailable"),
        (Overloaded("full"), "refused"),
        (ValueError(), "error"),
    ],
)
def test_outcomes_have_few_names(error: BaseException, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_a_description_names_every_host_that_failed() -> None:
    assert describe(ENGINE_ERRORS[4]) == "a:1: ConnectionRefusedError no"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("SELECT a FROM tweets WHERE b = ?", "SELECT a FROM ks.tweets WHERE b = ?"),
        ("INSERT INTO tweets (a) VALUES (?)", "INSERT INTO ks.tweets (a) VALUES (?)"),
        ("UPDATE tweets USING TIMESTAMP ? SET a = ?", "UPDATE ks.tweets USING TIMESTAMP ? SET a = ?"),
        ("DELETE FROM outbox USING TIMESTAMP ?", "DELETE FROM ks.outbox USING TIMESTAMP ?"),
        ("SELECT a FROM system.local", "SELECT a FROM system.local"),
    ],
)
def test_tables_are_named_with_their_keyspace(text: str, sent: str) -> None:
    assert _qualified(text, "ks") == sent

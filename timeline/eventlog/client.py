"""What producer, consumer and admin client share: how to reach Kafka, and what its errors mean to us."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from timeline.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from timeline.settings import Settings

# A write that may have reached the broker, or may still.
_UNKNOWN = {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError._PURGE_INFLIGHT}
# Ours: no waiting makes these right.
_BUGS = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_RECORD,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError._INVALID_ARG,
    KafkaError._BAD_MSG,
}
OUTCOMES: dict[type[BaseException], str] = {
    OutcomeUnknown: "timeout",
    Overloaded: "refused",
    Unavailable: "unavailable",
}


def translate(error: KafkaError) -> Exception:
    """The error as our callers act on it: OutcomeUnknown, Overloaded, Unavailable; a mistake of ours stays what it is."""
    if error.code() in _BUGS:
        return KafkaException(error)
    said = f"kafka: {error.str()}"
    if error.code() == KafkaError._QUEUE_FULL:
        return Overloaded(said)
    return OutcomeUnknown(said) if error.code() in _UNKNOWN else Unavailable(said)


def of(raised: KafkaException) -> KafkaError:
    """The KafkaError inside what was raised."""
    error = raised.args[0]
    assert isinstance(error, KafkaError)
    return error


def connection(settings: Settings, name: str) -> dict[str, Any]:
    """The part of a client's configuration that says where Kafka is and who we are."""
    config: dict[str, Any] = {
        "bootstrap.servers": ",".join(settings.kafka_bootstrap),
        "client.id": f"timeline-{name}",
        "logger": logging.getLogger(f"timeline.eventlog.{name}"),
        # critical: it complains several times a second of a broker that is away, which our own words say once
        "log_level": 2,
        # an engine that comes back must be found within seconds: the default ceiling is 10 s
        "reconnect.backoff.max.ms": 2_000,
        "socket.timeout.ms": 10_000,
    }
    if settings.kafka_tls:
        files = {
            "ssl.ca.location": settings.kafka_tls_ca,
            "ssl.certificate.location": settings.kafka_tls_cert,
            "ssl.key.location": settings.kafka_tls_key,
        }
        config |= {option: str(path) for option, path in files.items() if path is not None}
        # librdkafka's own default since 2.0: without a CA of ours, the name is all that tells our broker from others
        config["ssl.endpoint.identification.algorithm"] = "https"
    if settings.kafka_username is not None and settings.kafka_password is not None:
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password.get_secret_value(),
        }
    config["security.protocol"] = ("SASL_" if "sasl.mechanism" in config else "") + (
        "SSL" if settings.kafka_tls else "PLAINTEXT"
    )
    return config

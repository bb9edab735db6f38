"""What a process says of itself: JSON log lines that carry the request id, and the checks behind /readyz.

Belongs to no room: any of them may read the request id, and wiring sets everything up.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from timeline.domain.errors import Unavailable

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
_SECRET_FIELDS = ("authorization", "cookie", "password", "secret", "token")
_QUIET_LOGGERS = {
    "asyncio": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "cassandra": logging.WARNING,
    # they warn of every try to reach a node that is away, with a traceback; our own words say it once
    "cassandra.cluster": logging.ERROR,
    "cassandra.protocol": logging.ERROR,
}


class _Formatter(JsonFormatter):
    """One line a record, pure ASCII: whatever somebody sent can neither break a line nor reach a terminal."""

    def __init__(self, process: str) -> None:
        super().__init__(json_ensure_ascii=True)
        self._process = process

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        seconds, milliseconds = divmod(int(record.created * 1000), 1000)
        log_data["time"] = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data["message"] = record.message
        log_data["process"] = self._process
        request_id = getattr(record, "request_id", None) or REQUEST_ID.get()
        if request_id:
            log_data["request_id"] = request_id
        super().add_fields(log_data, record, message_dict)
        if "exc_info" in log_data:
            log_data["exception"] = log_data.pop("exc_info")
        for name in log_data:
            if any(secret in name.lower() for secret in _SECRET_FIELDS):
                log_data[name] = "***"


def set_up_logging(process: str, level: str, stream: TextIO | None = None) -> None:
    """All logging of this process, as JSON lines to `stream` (stderr by default). Raises ValueError on an unknown level."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter(process))
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [handler]
    for name, least in _QUIET_LOGGERS.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)


Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Report:
    """The state of one engine: None is well."""

    error: str | None


class Health:
    """Whether this process should be sent work: started, not draining, and with the engines that it needs.

    Of `needs` it needs every one: fan-out and relay can do nothing without. Of `reads_from` (the API's) any one is enough: it
    answers, degraded. If it called itself unready whenever one is away, one engine's outage would take the whole service. Of `also` it
    only tells.
    """

    def __init__(
        self,
        *,
        timeout_ms: int,
        needs: Collection[str] = (),
        reads_from: Collection[str] = (),
        also: Collection[str] = (),
    ) -> None:
        self._checks: dict[str, Check] = dict.fromkeys((*needs, *reads_from, *also), _not_yet)
        self._needs, self._reads_from, self._timeout_ms = needs, reads_from, timeout_ms
        self.is_started = False
        self.draining = False

    def watch(self, engine: str, check: Check) -> None:
        """`check` asks one engine, and raises when it does not answer."""
        self._checks[engine] = check

    async def reports(self) -> dict[str, Report]:
        """Every engine asked now, at the same time, each within the time-out."""
        reports = await asyncio.gather(*map(self._ask, self._checks.values()))
        return dict(zip(self._checks, reports, strict=True))

    def is_ready(self, reports: Mapping[str, Report]) -> bool:
        well = {engine for engine, report in reports.items() if report.error is None}
        can_read = not self._reads_from or not well.isdisjoint(self._reads_from)
        return self.is_started and not self.draining and can_read and well.issuperset(self._needs)

    async def _ask(self, check: Check) -> Report:
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await check()
        except TimeoutError:
            return Report(f"no answer within {self._timeout_ms} ms")
        except Exception as error:  # noqa: BLE001 - it is reported, which is what a check is for
            return Report(f"{type(error).__name__}: {error}")
        return Report(None)


async def _not_yet() -> None:
    raise Unavailable("not connected yet")

"""The life of a process: logs, signals, the admin port, engines waited for, endless work, an orderly end.

Start: the admin port first, so that one can see what is waited for; then the engines, each until a deadline; then the work; then
ready. End (SIGTERM, SIGINT): not ready, no more intake, drain within a bound, close in the reverse order. An endless task that ends
by itself ends the process, with the reason in the log and an exit code that is not 0.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

import uvloop

from timeline.api.admin import make_admin_app
from timeline.api.serving import serving
from timeline.domain.errors import Unavailable
from timeline.observe import Check, Health, set_up_logging
from timeline.settings import SettingError, Settings

log = logging.getLogger(__name__)
Engine = TypeVar("Engine")
GC_YOUNG_OBJECTS = (
    5_000  # made and not yet gone, between two looks at the youngest; Python's own 700 suits small programs
)
_RETRY_SECONDS = 0.5  # between tries to reach an engine at the start; each try has a time-out of its own


class EngineAway(Exception):
    """An engine did not come up in time."""


class EndedUnasked(Exception):
    """An endless task returned."""


class Process:
    """One process from its start to its end. Made by `running`."""

    def __init__(self, name: str, settings: Settings, health: Health, stack: AsyncExitStack) -> None:
        self.name, self.settings, self.health, self.stack = name, settings, health, stack
        self.stopping = asyncio.Event()
        self._starting = asyncio.current_task()

    def stop(self) -> None:
        """What a signal does: end in order; before the start is complete, give it up."""
        if self.stopping.is_set():
            return
        log.info("stopping")
        self.health.draining = True
        self.stopping.set()
        if self._starting is not None:
            self._starting.cancel()

    async def open(
        self, name: str, opened: Callable[[], AbstractAsyncContextManager[Engine]], check: Callable[[Engine], Check]
    ) -> Engine:
        """Enter an engine's adapter as soon as the engine is up, and have /readyz ask it. Raises EngineAway at the deadline."""
        seconds = self.settings.limits.startup_wait_seconds
        deadline = monotonic() + seconds
        while True:
            try:
                engine = await self.stack.enter_async_context(opened())
            except Unavailable as error:
                if monotonic() > deadline:
                    raise EngineAway(f"{name} did not come up within {seconds} s: {error}") from error
                log.warning("waiting_for_engine", extra={"engine": name, "reason": str(error)})
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self.health.watch(name, check(engine))
                return engine

    async def work(
        self,
        tasks: Mapping[str, Coroutine[Any, Any, object]],
        beside: Mapping[str, Coroutine[Any, Any, object]] | None = None,
    ) -> None:
        """Ready now. Returns when the process was told to stop and the tasks have ended, which see `stopping` themselves; those that
        outlast the drain are cancelled, and so are those `beside`, which the others need to their end. Raises an ExceptionGroup when
        one fails, or ends unasked."""
        self._starting = None
        self.health.is_started = True
        _keep_for_good()
        log.info("ready")
        async with asyncio.TaskGroup() as group:
            working = [group.create_task(self._endless(name, task), name=name) for name, task in tasks.items()]
            kept = [group.create_task(self._endless(name, task), name=name) for name, task in (beside or {}).items()]
            await self.stopping.wait()
            if working:
                # a task has its own bound, a little shorter: this one is for those that do not keep it
                _, late = await asyncio.wait(working, timeout=self.settings.limits.drain_seconds + 1)
                for task in late:
                    log.error("not_drained", extra={"task": task.get_name()})
                    task.cancel()
            for task in kept:
                task.cancel()

    async def _endless(self, name: str, task: Coroutine[Any, Any, object]) -> None:
        await task
        if not self.stopping.is_set():
            raise EndedUnasked(f"the task {name} returned")


@asynccontextmanager
async def running(
    name: str,
    settings: Settings,
    *,
    needs: Collection[str] = (),
    reads_from: Collection[str] = (),
    also: Collection[str] = (),
) -> AsyncIterator[Process]:
    """A process with its admin port open and its signals caught. What is entered on its stack is left in the reverse order; the
    admin port last. Which engines it needs how: see Health."""
    timeout_ms = settings.limits.readiness_check_ms
    health = Health(timeout_ms=timeout_ms, needs=needs, reads_from=reads_from, also=also)
    admin = serving(
        make_admin_app(health),
        name="ADMIN_PORT",
        host=settings.admin_host,
        port=settings.admin_port,
        limits=settings.limits,
    )
    loop = asyncio.get_running_loop()
    async with admin, AsyncExitStack() as stack:
        process = Process(name, settings, health, stack)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, process.stop)
        try:
            yield process
        except asyncio.CancelledError:
            if not process.stopping.is_set():
                raise
            _uncancel()
        finally:
            health.draining = True
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def _keep_for_good() -> None:
    """What stands when the work begins stays to the end: the collector need not look at it again. A full collection of an api took
    60 ms, in which nobody was answered; now it looks at what requests have made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def _uncancel() -> None:
    """The start was cancelled by our own signal handler: that is dealt with, and closing must not be cancelled by it."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def run(name: str, settings: Settings, main: Callable[[Settings], Coroutine[Any, Any, None]]) -> int:
    """Run a process to its end: its exit code. Raises SettingError (a port that is taken, a secret that is missing)."""
    try:
        set_up_logging(name, settings.log_level)
    except ValueError as error:
        raise SettingError("TIMELINE_LOG_LEVEL", str(error), "Set DEBUG, INFO, WARNING or ERROR.") from error
    try:
        uvloop.run(main(settings))
    except SettingError:
        raise
    except (EngineAway, Unavailable) as error:
        log.error("not_started", extra={"reason": str(error)})
        return 1
    except Exception:
        log.exception("died")
        return 1
    log.info("stopped")
    return 0

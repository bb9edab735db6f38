"""The connection to Cassandra or ScyllaDB, and the bridge from its driver to our event loop.

The driver's sockets are on our loop (reactor.py), so most answers arrive on it. Those that come from one of the driver's threads
(after a node failed) are laid into a deque, and the loop is woken once for all that have come until it looks. No call here blocks
the loop: connecting and preparing run in a thread, and further pages are asked for one by one.

Consistency: LOCAL_QUORUM to read and write, LOCAL_SERIAL for compare-and-set. Every other write carries its own timestamp, so that
all of them may be repeated. The driver retries once at most, on another node, and never a compare-and-set.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from types import ModuleType
from typing import Any

from cassandra import ConsistencyLevel, UnresolvableContactPoints
from cassandra import Unavailable as NotEnoughReplicas
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, ExecutionProfile, NoHostAvailable, ResultSet
from cassandra.cluster import Session as DriverSession
from cassandra.connection import Connection
from cassandra.io.libevreactor import LibevConnection
from cassandra.policies import (
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    FallthroughRetryPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import ProtocolHandler
from cassandra.query import UNSET_VALUE, BatchStatement, BatchType, tuple_factory

from timeline import metrics
from timeline.domain.errors import Overloaded, Unavailable
from timeline.domain.limits import Limits
from timeline.settings import Settings, address
from timeline.store.columns import Columns, NumpyProtocolHandler
from timeline.store.errors import describe, outcome_of, translate
from timeline.store.reactor import connection_on

log = logging.getLogger(__name__)

Row = tuple[Any, ...]
Params = Sequence[Any]
UNSET = UNSET_VALUE  # leaves a column alone, where None would write a tombstone
PAGE_ROWS = 5_000  # the driver's own default: 10,000 followers in two pages take 11 ms


class Kind(StrEnum):
    """How a statement is sent: with which consistency, and what may be repeated."""

    read = "read"
    write = "write"
    cas = "cas"
    serial = "serial"  # a read that sees every compare-and-set decided before it


@dataclass(frozen=True, slots=True, eq=False)
class Cql:
    """A statement, prepared once a process, with tables named without their keyspace. `name` is its operation in the metrics.
    Not `paged`: it answers everything at once, so its own limits must bound that."""

    name: str
    text: str
    kind: Kind = Kind.read
    paged: bool = True


def statements_of(*modules: ModuleType) -> list[Cql]:
    """Every statement that these modules have as a global."""
    return [value for module in modules for value in vars(module).values() if isinstance(value, Cql)]


class _Once(RetryPolicy):  # type: ignore[misc]
    """One more try at most, on another node where this one failed. A lack of replicas is no better known elsewhere."""

    def on_unavailable(self, *args: Any, **kwargs: Any) -> tuple[int, Any]:
        return self.RETHROW, None

    def on_request_error(self, query: Any, consistency: Any, error: Any, retry_num: int) -> tuple[int, Any]:
        return (self.RETRY_NEXT_HOST, None) if retry_num == 0 else (self.RETHROW, None)


def new_cluster(settings: Settings, limits: Limits, connections: type[Connection] = LibevConnection) -> Cluster:
    """A driver's cluster by the settings, not yet connected; close it with `shutdown`. Its sockets are watched by a thread of the
    driver's, unless `connections` says otherwise."""
    local = ConsistencyLevel.LOCAL_QUORUM
    balancing = TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.cassandra_datacenter), shuffle_replicas=True)

    def profile(**other: Any) -> ExecutionProfile:
        common = {
            "load_balancing_policy": balancing,
            "retry_policy": _Once(),
            "consistency_level": local,
            "serial_consistency_level": ConsistencyLevel.LOCAL_SERIAL,
            "request_timeout": limits.cassandra_timeout_ms / 1000,
            "row_factory": tuple_factory,
        }
        return ExecutionProfile(**(common | other))

    speculative = ConstantSpeculativeExecutionPolicy(limits.cassandra_speculative_ms / 1000, 1)
    # a write takes longer on a sound node too, and a second one costs more
    patient = ConstantSpeculativeExecutionPolicy(4 * limits.cassandra_speculative_ms / 1000, 1)
    return Cluster(
        contact_points=[address(server) for server in settings.cassandra_hosts],
        connection_class=connections,
        protocol_version=settings.cassandra_protocol,
        auth_provider=_login(settings),
        ssl_context=_tls(settings) if settings.cassandra_tls else None,
        execution_profiles={
            "default": profile(),
            Kind.read: profile(speculative_execution_policy=speculative),
            Kind.write: profile(speculative_execution_policy=patient),
            Kind.cas: profile(retry_policy=FallthroughRetryPolicy()),
            Kind.serial: profile(consistency_level=ConsistencyLevel.LOCAL_SERIAL),
        },
        # a node that was away is tried again within seconds: the driver's own default waits up to ten minutes
        reconnection_policy=ExponentialReconnectionPolicy(0.5, 5.0),
        connect_timeout=3,
        control_connection_timeout=3,
        idle_heartbeat_interval=5,
        idle_heartbeat_timeout=5,
        schema_event_refresh_window=1,
    )


def _login(settings: Settings) -> PlainTextAuthProvider | None:
    if settings.cassandra_username is None or settings.cassandra_password is None:
        return None
    return PlainTextAuthProvider(settings.cassandra_username, settings.cassandra_password.get_secret_value())


def _tls(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.cassandra_tls_ca)
    # nodes are known by address, and a cluster's certificates rarely name those; the CA is the trust, and settings demand one
    context.check_hostname = False
    if settings.cassandra_tls_cert:
        context.load_cert_chain(settings.cassandra_tls_cert, settings.cassandra_tls_key)
    return context


def connect(
    settings: Settings,
    limits: Limits,
    *,
    connections: type[Connection] = LibevConnection,
    keyspace_needed: bool = True,
    stop: threading.Event | None = None,
) -> tuple[Cluster, DriverSession]:
    """Connect, trying again until cassandra_connect_ms, or until `stop` is set. Blocks: for a thread. Raises Unavailable, which
    says what to do."""
    deadline = time.monotonic() + limits.cassandra_connect_ms / 1000
    stop = stop or threading.Event()
    pause = 0.2
    while True:
        cluster: Cluster | None = None
        try:
            cluster = new_cluster(settings, limits, connections)
            session = cluster.connect()
            _check_datacenter(cluster, settings)
            if keyspace_needed and settings.cassandra_keyspace not in cluster.metadata.keyspaces:
                raise Unavailable(
                    f"Cassandra has no keyspace {settings.cassandra_keyspace!r}: run `timeline schema apply` first"
                )
            return cluster, session
        except (NoHostAvailable, UnresolvableContactPoints) as error:
            # a name that does not resolve is a host that is down: a pod has none before it is ready
            if cluster is not None:
                cluster.shutdown()
            if time.monotonic() + pause > deadline:
                raise Unavailable(
                    f"no Cassandra answers at {', '.join(settings.cassandra_hosts)} as datacenter "
                    f"{settings.cassandra_datacenter!r}: {describe(error)}. Is it running, and are TIMELINE_CASSANDRA_HOSTS, "
                    "_DATACENTER, _USERNAME, _PASSWORD and _TLS right?"
                ) from error
        except BaseException:
            if cluster is not None:
                cluster.shutdown()
            raise
        if stop.wait(pause):
            raise Unavailable("told to stop while Cassandra was waited for")
        pause = min(pause * 2, 2.0)


def _check_datacenter(cluster: Cluster, settings: Settings) -> None:
    known = {host.datacenter for host in cluster.metadata.all_hosts()}
    if settings.cassandra_datacenter not in known:
        raise Unavailable(
            f"Cassandra has no datacenter {settings.cassandra_datacenter!r}, but {', '.join(sorted(map(str, known)))}: "
            "set TIMELINE_CASSANDRA_DATACENTER"
        )


class Session:
    """Runs prepared statements. Every method may raise Unavailable, and a write OutcomeUnknown; a driver's complaint about the
    statement itself is a bug and comes through untouched."""

    def __init__(self, cluster: Cluster, session: DriverSession, keyspace: str, limits: Limits) -> None:
        self.cluster = cluster
        self._keyspace = keyspace
        self._session = session
        self._timeout_s = limits.cassandra_timeout_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._prepared: dict[Cql, Any] = {}
        self._slots = asyncio.Semaphore(limits.cassandra_requests_in_flight)
        self._waiting = 0
        self._waiting_max = limits.cassandra_requests_waiting_max
        self._answers: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False
        self._observers: dict[tuple[str, str], Any] = {}

    async def prepare(self, statements: Iterable[Cql]) -> None:
        """Prepare these, in a thread; those that are prepared already cost nothing."""
        wanted = [cql for cql in statements if cql not in self._prepared]
        try:
            self._prepared.update(await asyncio.to_thread(self._prepare, wanted))
        except BaseException as error:
            raise translate(error, maybe_done=False) from error

    def _prepare(self, statements: Sequence[Cql]) -> dict[Cql, Any]:
        prepared = {}
        for cql in statements:
            statement = self._session.prepare(_qualified(cql.text, self._keyspace))
            statement.is_idempotent = cql.kind is not Kind.cas
            statement.fetch_size = PAGE_ROWS if cql.paged else None
            prepared[cql] = statement
        return prepared

    async def rows(self, cql: Cql, params: Params = (), *, serial: bool = False) -> list[Row]:
        """Every row of a result known to be of one page: a longer one is a bug, and a RuntimeError."""
        rows, more = await self._page(cql, params, None, Kind.serial if serial else cql.kind)
        if more is not None:
            raise RuntimeError(f"{cql.name} answered more than a page")
        return rows or []

    async def one(self, cql: Cql, params: Params = (), *, serial: bool = False) -> Row | None:
        rows = await self.rows(cql, params, serial=serial)
        return rows[0] if rows else None

    async def run(self, cql: Cql, params: Params) -> None:
        """A write that repeating does not change."""
        await self._page(cql, params, None, cql.kind)

    async def compare_and_set(self, cql: Cql, params: Params) -> bool:
        """Whether it was applied. Raises OutcomeUnknown when that is not known: then read `serial` and decide."""
        rows, _ = await self._page(cql, params, None, Kind.cas)
        return bool(rows[0][0])  # the first column is [applied], with Cassandra as with Scylla

    async def page(self, cql: Cql, params: Params, state: Any = None) -> tuple[list[Row], Any]:
        """One page, and where the next begins (None: nowhere)."""
        rows, state = await self._page(cql, params, state, cql.kind)
        return rows or [], state

    async def columns(self, cql: Cql, params: Params, state: Any = None) -> tuple[Columns, Any]:
        """One page as numpy arrays by column name (NULL is masked), and where the next begins (None: nowhere).

        Half the time of tuples: 5,000 rows become an array without a Python object each.
        """
        return await self._page(cql, params, state, cql.kind, NumpyProtocolHandler)

    async def all_columns(self, cql: Cql, params: Params = ()) -> AsyncIterator[Columns]:
        """`columns` page by page."""
        state = None
        while True:
            columns, state = await self.columns(cql, params, state)
            yield columns
            if state is None:
                return

    async def batch(self, name: str, parts: Iterable[tuple[Cql, Params]], *, logged: bool = True) -> None:
        """Writes together. Logged: all or nothing, though not at one moment. Unlogged: for rows of one partition,
        or for a few of several that a repetition completes."""
        batch = BatchStatement(BatchType.LOGGED if logged else BatchType.UNLOGGED)
        batch.is_idempotent = True
        for cql, params in parts:
            batch.add(self._prepared[cql], params)
        await self._send(name, Kind.write, batch, None, None, ProtocolHandler)

    @property
    def nodes(self) -> int:
        """How many nodes the cluster has, those that are down included."""
        return len(self.cluster.metadata.all_hosts())

    async def ping(self) -> None:
        """Raises Unavailable unless some node answers."""
        await self.rows(PING)

    def close(self) -> None:
        """Blocks: for a thread."""
        self.cluster.shutdown()

    # --- from here on: how a request travels

    async def _page(
        self, cql: Cql, params: Params, state: Any, kind: Kind, handler: Any = ProtocolHandler
    ) -> tuple[Any, Any]:
        statement = self._prepared[cql]
        return await self._send(cql.name, kind, statement, params, state, handler)

    async def _send(
        self, name: str, kind: Kind, statement: Any, params: Params | None, state: Any, handler: Any
    ) -> tuple[Any, Any]:
        await self._take_slot()
        started = perf_counter()
        outcome = "ok"
        try:
            rows, following = await self._submit(kind, statement, params, state, handler)
            return rows, following
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._observe(name, outcome, perf_counter() - started)

    def _submit(
        self, kind: Kind, statement: Any, params: Params | None, state: Any, handler: Any
    ) -> asyncio.Future[Any]:
        """Hand a request to the driver. Its slot is given back when the driver answers, not when the caller goes away:
        a cancelled request is still in flight."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        try:
            # the handler belongs to the driver's session, and is read while this very call runs
            self._session.client_protocol_handler = handler
            request = self._session.execute_async(statement, params, execution_profile=kind, paging_state=state)
        except BaseException:
            self._slots.release()
            raise

        def done(rows: Any) -> None:
            self._lay((answer, (rows, ResultSet(request, rows if type(rows) is list else []).paging_state), None))

        def failed(error: BaseException) -> None:
            self._lay(
                (answer, None, translate(error, maybe_done=_maybe_done(kind, error, len(request.attempted_hosts))))
            )

        request.add_callbacks(done, failed)
        return answer

    def _lay(self, item: tuple[asyncio.Future[Any], Any, BaseException | None]) -> None:
        """Give an answer to whoever waits. From another thread: one wake-up for all that come until the loop looks."""
        if threading.get_ident() == self._thread:
            self._settle(*item)
            return
        self._answers.append(item)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.debug("an answer came after the event loop was closed")

    def _drain(self) -> None:
        self._woken = False  # before the deque is emptied: what comes from now on wakes the loop again
        while self._answers:
            self._settle(*self._answers.popleft())

    def _settle(self, answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._slots.release()
        if answer.done():  # the caller was cancelled
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if self._waiting >= self._waiting_max:
            raise Overloaded(f"{self._waiting} requests wait for Cassandra already")
        self._waiting += 1
        began = perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Overloaded("waited too long for a request to Cassandra to end") from error
        finally:
            self._waiting -= 1
            metrics.STORE_WAIT_SECONDS.observe(perf_counter() - began)

    def _observe(self, name: str, outcome: str, seconds: float) -> None:
        observer = self._observers.get((name, outcome))
        if observer is None:
            observer = metrics.ENGINE_CALL_SECONDS.labels("cassandra", name, outcome)
            self._observers[name, outcome] = observer
        observer.observe(seconds)


def _qualified(text: str, keyspace: str) -> str:
    """With the keyspace before each table: the server warns of prepared statements that lean on USE."""
    return re.sub(r"\b(FROM|INTO|UPDATE|TRUNCATE) ([a-z_]+)(?![.\w])", rf"\1 {keyspace}.\2", text)


def _maybe_done(kind: Kind, error: BaseException, tries: int) -> bool:
    """Whether a request that failed may have changed something all the same."""
    if kind is Kind.write:
        # refused for lack of replicas: not begun, unless an earlier try was
        return tries > 1 or (tries == 1 and not isinstance(error, NotEnoughReplicas))
    return kind is Kind.cas and tries > 0


PING = Cql("ping", "SELECT release_version FROM system.local")


async def _connected(settings: Settings, limits: Limits) -> tuple[Cluster, DriverSession]:
    stop = threading.Event()
    ours = connection_on(asyncio.get_running_loop())
    connecting = asyncio.ensure_future(asyncio.to_thread(connect, settings, limits, connections=ours, stop=stop))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        stop.set()
        with suppress(Unavailable):
            late, _ = await connecting
            await asyncio.to_thread(late.shutdown)
        raise


@asynccontextmanager
async def open_session(settings: Settings, limits: Limits, statements: Iterable[Cql] = ()) -> AsyncIterator[Session]:
    """Connect to the keyspace of the settings and prepare `statements`. Raises Unavailable, which says what to do. Cancelled, it ends
    after the try under way."""
    cluster, driver = await _connected(settings, limits)
    session = Session(cluster, driver, settings.cassandra_keyspace, limits)
    try:
        await session.prepare([PING, *statements])
        yield session
    finally:
        await asyncio.to_thread(session.close)

"""Redis in pairs: a primary with one replica each, and how to make one take over from the other while it lacks what was written
last."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as NotReached
from redis.exceptions import RedisError

from tests.stack import until
from timeline.cache.keys import SLOTS, slot_of
from timeline.local import Control

NODE_TIMEOUT_MS = 3_000  # above a check and two timeouts of the data plane's
SECONDS = 60
FIRST_PAIR = range(SLOTS // 3)  # the slots of nodes 1 and 4

Keys = dict[bytes, Any]  # by key, its whole value: bytes, or a list's elements


def on_first_pair(user: int) -> bool:
    return slot_of(b"{%d}" % user) in FIRST_PAIR


@dataclass(frozen=True)
class Lost:
    """What a primary had acknowledged, and the one that took over from it does not have; at least, since writes were in flight."""

    pushes: int  # entries of lists
    lists: int
    deletions: int  # a state that says deleted, and there says otherwise
    contexts: int  # a reader's record that was removed or replaced, and there stands as it was


class Pairs:
    """Six nodes. Nobody takes over unless told to: on a busy machine, a primary that nobody harmed looks dead now and then."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.addresses = control.env["TIMELINE_REDIS_NODES"].split(",")
        self._clients: dict[str, Redis] = {}
        for address in self.addresses:
            self._settle(address)

    def client(self, address: str) -> Redis:
        if address not in self._clients:
            host, port = address.rsplit(":", 1)
            self._clients[address] = Redis(host=host, port=int(port), socket_timeout=10)
        return self._clients[address]

    def name(self, address: str) -> str:
        return f"redis-{self.addresses.index(address) + 1}"

    def partner(self, address: str) -> str:
        return self.addresses[(self.addresses.index(address) + 3) % 6]

    def facts(self, address: str) -> dict[str, Any]:
        found = self.client(address).info("replication")
        assert isinstance(found, dict)
        return found

    def signal(self, address: str, number: signal.Signals) -> None:
        os.kill(self.control.pid(self.name(address)), number)

    def until_copied(self, address: str) -> None:
        """The node is a replica, and has what its primary had when this was called."""
        until(lambda: self._follows(address), SECONDS, f"{self.name(address)} follows its primary")
        wanted = int(self.facts(self.partner(address))["master_repl_offset"])
        until(
            lambda: int(self.facts(address).get("slave_repl_offset", 0)) >= wanted, SECONDS, f"{address} has caught up"
        )

    def _follows(self, address: str) -> bool:
        try:
            facts = self.facts(address)
        except RedisError:
            return False
        return bool(facts["role"] == "slave" and facts["master_link_status"] == "up")

    def until_primary(self, address: str) -> None:
        until(lambda: self.facts(address)["role"] == "master", SECONDS, f"{self.name(address)} took over")

    @contextmanager
    def lagging(self, replica: str) -> Iterator[None]:
        """Nothing that its primary acknowledges inside reaches this replica; it may take over. It stands still until the end."""
        self._let_take_over(replica, True)
        self.signal(replica, signal.SIGSTOP)
        try:
            # or what is written now would wait for it in its socket
            self.client(self.partner(replica)).execute_command("CLIENT", "KILL", "TYPE", "replica")
            yield
        finally:
            self.signal(replica, signal.SIGCONT)

    def end(self, address: str, how: str) -> None:
        if how == "killed":
            self.control.kill(self.name(address))
        else:
            self.signal(address, signal.SIGSTOP)

    def bring_back(self, address: str, how: str) -> None:
        """As the replica of whoever took over."""
        if how == "killed":
            self.control.start(self.name(address))
        else:
            self.signal(address, signal.SIGCONT)
        for each in (address, self.partner(address)):
            self._settle(each)
        self.until_copied(address)

    def keys(self, address: str, prefix: str) -> Keys:
        """All that a primary holds of one deployment."""
        client = self.client(address)
        found: Keys = {}
        for key in client.scan_iter(match=f"{prefix}*", count=1_000):
            kind = client.type(key)
            value = client.lrange(key, 0, -1) if kind == b"list" else client.get(key) if kind == b"string" else None
            if value:
                found[key] = value
        return found

    def _settle(self, address: str) -> None:
        def settled() -> bool:
            try:
                self.client(address).config_set("cluster-node-timeout", NODE_TIMEOUT_MS)
                self._let_take_over(address, False)
            except NotReached:
                return False
            return True

        until(settled, SECONDS, f"{address} answers")

    def _let_take_over(self, address: str, allowed: bool) -> None:
        self.client(address).config_set("cluster-replica-no-failover", "no" if allowed else "yes")

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


def lost(before: Keys, after: Keys) -> Lost:
    """`before`: of the primary, in its last moment; `after`: of the other, in its first one as primary."""
    gone = {key: missing_of(value, after.get(key)) for key, value in before.items() if isinstance(value, list)}
    states = {key for key, value in before.items() if b":state:" in key and value != after.get(key)}
    contexts = {key for key in after if b":reader:" in key and before.get(key) != after[key]}
    return Lost(
        sum(gone.values()),
        sum(count > 0 for count in gone.values()),
        sum(key in after for key in states),
        len(contexts),
    )


def missing_of(value: list[bytes], copy: list[bytes] | None) -> int:
    """Entries; a list that the other does not have at all is none that could be taken for whole."""
    return 0 if copy is None else len(set(value[1:]) - set(copy[1:]))

"""What stands in Kafka and in Redis, read there and not through the service: each event, how far it is committed, and who has it.

What must hold at every moment: whatever lies below a committed offset is in the list of everybody who should have it; of a tweet that
was cut into slices, each follower who lacks it belongs to a slice that was put into Kafka.
"""

from __future__ import annotations

import json
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from redis import Redis

from tests.faults.world import World
from tests.stack import Stack, until
from timeline.cache.keys import SLOTS, slot_of
from timeline.domain.records import Header

Place = tuple[str, int]
CALL_SECONDS = 30
NODES = 3
HELD_MS_MAX = 5_000
ENTRY = struct.Struct(">QQQ")
LOOK_AGAIN_SECONDS = 0.3
TOLD_MAX = 20


@dataclass(frozen=True, slots=True)
class Event:
    """`shard` is None of a tweet."""

    tweet: int
    author: int
    shard: int | None


class Log:
    """Both topics of fan-out, from their beginning on, and what a group has committed of them. No member of any group."""

    def __init__(self, stack: Stack, group: str) -> None:
        self._config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": stack.settings["TIMELINE_KAFKA_BOOTSTRAP"],
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
        prefix = stack.settings["TIMELINE_KAFKA_TOPIC_PREFIX"]
        self.groups = {f"{prefix}tweet.created": group, f"{prefix}fanout.slice": f"{group}.slices"}
        self._of_group = {topic: Consumer(self._config | {"group.id": of}) for topic, of in self.groups.items()}
        self._reader = Consumer(self._config | {"group.id": f"{group}.nobody", "fetch.wait.max.ms": 50})
        self.places: list[Place] = []
        for topic in self.groups:
            known = self._reader.list_topics(topic, timeout=CALL_SECONDS).topics[topic].partitions
            self.places += [(topic, number) for number in known]
        self._reader.assign([TopicPartition(*place, 0) for place in self.places])
        self.events: dict[Place, list[Event]] = {place: [] for place in self.places}
        self.slices: defaultdict[int, set[int]] = defaultdict(set)  # shards, by tweet

    def read(self) -> None:
        """All there is by now."""
        ends = {place: self._end(place) for place in self.places}
        while any(len(self.events[place]) < end for place, end in ends.items()):
            for message in self._reader.consume(1_000, 0.1):
                assert message.error() is None, message.error()
                self._take((str(message.topic()), int(message.partition() or 0)), message.offset(), message.value())

    def _take(self, place: Place, offset: int | None, value: bytes | None) -> None:
        assert offset == len(self.events[place]), "an offset is the number of the event"
        members = json.loads(value or b"")
        event = Event(int(members["tweet_id"]), int(members["author_id"]), members.get("shard"))
        self.events[place].append(event)
        if event.shard is not None:
            self.slices[event.tweet].add(event.shard)

    def committed(self) -> dict[Place, int]:
        """0 of what was never committed."""
        found = {}
        for topic, client in self._of_group.items():
            asked = [TopicPartition(*place) for place in self.places if place[0] == topic]
            for each in client.committed(asked, timeout=CALL_SECONDS):
                found[each.topic, each.partition] = max(0, each.offset)
        return found

    def behind(self) -> int:
        """Events that are not committed. Of tweets first: whoever commits one has put its slices into Kafka."""
        total = 0
        for topic, client in self._of_group.items():
            asked = [TopicPartition(*place) for place in self.places if place[0] == topic]
            for each in client.committed(asked, timeout=CALL_SECONDS):
                total += self._end((each.topic, each.partition)) - max(0, each.offset)
        return total

    def _end(self, place: Place) -> int:
        # by a client that fetches nothing: on the connection of one that does, this waits behind its long polls
        client = self._of_group[place[0]]
        return int(client.get_watermark_offsets(TopicPartition(*place), timeout=CALL_SECONDS)[1])

    def set_back(self) -> None:
        """To the beginning of everything. The groups must be empty, which the broker may learn a moment after their members left."""
        self._set(dict.fromkeys(self.places, 0))

    def begin_at_end(self) -> None:
        """A new group takes what comes from now on."""
        self._set({place: self._end(place) for place in self.places})

    def _set(self, offsets: dict[Place, int]) -> None:
        admin = AdminClient({"bootstrap.servers": self._config["bootstrap.servers"]})
        for topic, group in self.groups.items():
            wanted = [TopicPartition(*place, offset) for place, offset in offsets.items() if place[0] == topic]

            def is_set(group: str = group, wanted: list[TopicPartition] = wanted) -> bool:
                asked = [ConsumerGroupTopicPartitions(group, wanted)]
                (future,) = admin.alter_consumer_group_offsets(asked, request_timeout=CALL_SECONDS).values()
                error = future.exception()
                return error is None and not any(each.error for each in future.result().topic_partitions)

            until(is_set, 90, f"offsets of {group} are set")

    def close(self) -> None:
        for client in (self._reader, *self._of_group.values()):
            client.close()


class Lists:
    """Home lists, of which each reading takes what has come since: they only grow while nobody trims or rebuilds them."""

    def __init__(self, stack: Stack, users: Iterable[int]) -> None:
        self._nodes = []
        for address in stack.settings["TIMELINE_REDIS_NODES"].split(","):
            host, port = address.rsplit(":", 1)
            self._nodes.append(Redis(host=host, port=int(port), socket_timeout=60))
        self._prefix = stack.settings["TIMELINE_REDIS_KEY_PREFIX"]
        self._users = {node: [user for user in users if node_of(user) == node] for node in range(NODES)}
        self.of: dict[int, set[int]] = {user: set() for user in users}
        self.again = 0  # deliveries of what was there; one's own come twice, from the api and from fan-out
        self._read = dict.fromkeys(self.of, 0)
        self._epochs: dict[int, int] = {}
        self.changed: set[int] = set()  # whose list is not the one that it was

    def read(self, nodes: Collection[int] = range(NODES)) -> None:
        for node in nodes:
            pipe = self._nodes[node].pipeline(transaction=False)
            for user in self._users[node]:
                pipe.lindex(self._key(user), 0)
                pipe.lrange(self._key(user), self._read[user] + 1, -1)
            told = pipe.execute()
            for user, first, entries in zip(self._users[node], told[::2], told[1::2], strict=True):
                self._note(user, first, entries)

    @contextmanager
    def writes_held(self) -> Iterator[None]:
        """Inside, Redis answers no write; what was sent is done afterwards, unless whoever sent it is gone."""
        self.hold_writes(HELD_MS_MAX)
        try:
            yield
        finally:
            for node in self._nodes:
                node.client_unpause()

    def hold_writes(self, milliseconds: int) -> None:
        """The same, for so long."""
        for node in self._nodes:
            node.client_pause(milliseconds, all=False)

    def _note(self, user: int, first: bytes | None, entries: list[bytes]) -> None:
        header = None if first is None else Header.unpack(first)
        if header is None or self._epochs.setdefault(user, header.epoch) != header.epoch or header.base:
            self.changed.add(user)
        self._read[user] += len(entries)
        for entry in entries:
            tweet, author, _ = ENTRY.unpack(entry)
            self.again += tweet in self.of[user] and author != user
            self.of[user].add(tweet)

    def lack(self, tweet: int, users: Iterable[int]) -> list[int]:
        return [user for user in users if tweet not in self.of[user]]

    @property
    def entries(self) -> int:
        return sum(self._read.values())

    def _key(self, user: int) -> str:
        return f"{self._prefix}timeline:{{{user}}}"

    def close(self) -> None:
        for node in self._nodes:
            node.close()


def node_of(user: int) -> int:
    """0 to 2, as `timeline local` deals slots to primaries."""
    slot = slot_of(b"{%d}" % user)
    return next(node for node in range(NODES) if slot < (node + 1) * SLOTS // NODES)


class Watch:
    """Looks again and again, and at any moment when it is asked to, whether what must hold does."""

    def __init__(self, world: World, group: str) -> None:
        self.world, self.log, self.lists = world, Log(world.stack, group), Lists(world.stack, world.users)
        self._checked: dict[Place, int] = dict.fromkeys(self.log.places, 0)
        self._lock, self._stopping = threading.RLock(), threading.Event()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self.wrong: list[str] = []
        self.looks = 0

    def __enter__(self) -> Watch:
        """The group is new, and takes what comes from now on."""
        self.log.begin_at_end()
        self.look()
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()
        self.log.close()
        self.lists.close()
        if self._failures and error is None:
            raise self._failures[0]

    def _run(self) -> None:
        try:
            while not self._stopping.wait(LOOK_AGAIN_SECONDS):
                self.look()
        except BaseException as error:  # noqa: BLE001 - it is raised where the thread is joined
            self._failures.append(error)

    def look(self) -> None:
        """Commits first: what was committed before a list was read must be in it."""
        with self._lock:
            committed = self.log.committed()
            self.log.read()
            self.lists.read()
            self.looks += 1
            for place, offset in committed.items():
                for event in self.log.events[place][self._checked[place] : offset]:
                    self._judge(place, event)
                self._checked[place] = max(self._checked[place], offset)

    def _judge(self, place: Place, event: Event) -> None:
        lacking = self.lists.lack(event.tweet, self._wanted(event))
        if event.shard is None:
            sliced = {user for shard in self.log.slices[event.tweet] for user in self.world.shard(event.author, shard)}
            lacking = [user for user in lacking if user not in sliced]
        if lacking and len(self.wrong) < TOLD_MAX:
            self.wrong.append(f"{event} of {place} is committed, and {len(lacking)} lack it: {lacking[:5]}")

    def _wanted(self, event: Event) -> list[int]:
        if event.shard is not None:
            return self.world.shard(event.author, event.shard)
        return [event.author, *self.world.followers[event.author]]

    def under_way(self) -> tuple[int, int]:
        """Of the events that are not committed: how many have reached some of those whom they are for, and how many all."""
        with self._lock:
            self.look()
            committed = self.log.committed()
            some = whole = 0
            for place, offset in committed.items():
                for event in self.log.events[place][offset:]:
                    wanted = self._wanted(event)[event.shard is None :]  # one's own list is written by the api as well
                    lacking = len(self.lists.lack(event.tweet, wanted))
                    some += 0 < lacking < len(wanted)
                    whole += bool(wanted) and not lacking
            return some, whole

    def lost(self) -> list[str]:
        """What was acknowledged to somebody and is not in everybody's list. To be asked when nothing is behind."""
        with self._lock:
            self.look()
            said = []
            for row in self.world.known.oracle.rows.values():
                lacking = self.lists.lack(row.id, [row.author, *self.world.followers[row.author]])
                if lacking:
                    said.append(f"{row.id} of {row.author}: {len(lacking)} lack it: {lacking[:5]}")
            return [*said[:TOLD_MAX], f"{len(said)} in all"] if said else []

    def told(self) -> str:
        events = Counter(
            "slices" if event.shard is not None else "tweets" for each in self.log.events.values() for event in each
        )
        return (
            f"{events['tweets']:,} events and {events['slices']:,} slices, {self.lists.entries:,} deliveries, "
            f"{self.lists.again:,} of them again; {self.looks:,} looks at commits and lists"
        )

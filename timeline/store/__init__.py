"""Cassandra or ScyllaDB: the truth about tweets, users and the graph. `open_store` opens all of it; `migrations` makes the tables."""

from timeline.store.store import Store, open_store

__all__ = ["Store", "open_store"]

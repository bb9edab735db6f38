"""Redis Cluster: the data plane, and what the caches hold. `open_cache` is the only door."""

from timeline.cache.opening import Cache, open_cache

__all__ = ["Cache", "open_cache"]

"""What the three engines have in common."""

from __future__ import annotations

from typing import Protocol

from timeline.local.fleet import Fleet, Node


class Engine(Protocol):
    """One engine of one or several nodes, configured in the fleet's folder."""

    @property
    def kind(self) -> str: ...

    @property
    def nodes(self) -> tuple[Node, ...]: ...

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Every address that it will listen on."""

    @property
    def env(self) -> dict[str, str]:
        """The settings that name it."""

    def prepare(self) -> None:
        """Folders and configuration, again at every start of the whole; data that is there is kept."""

    def form(self, fleet: Fleet) -> None:
        """What is to be done once all nodes have been started."""

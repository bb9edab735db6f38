"""`timeline local`: the command line of this room."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from timeline.local.control import Attached
from timeline.local.engines import Topology
from timeline.local.everything import run_engines, run_everything
from timeline.local.failure import LocalFailure, Stopping
from timeline.local.places import PORTS_PER_INSTANCE
from timeline.local.state import State, read_state

F = TypeVar("F", bound=Callable[..., Any])

_FOLDER = click.option(
    "--dir", "folder", default=".timeline", show_default=True, type=click.Path(file_okay=False, path_type=Path),
    help="Where data, logs and state.json are kept between runs.",
)  # fmt: skip

_TOPOLOGY = (
    _FOLDER,
    click.option("--fresh", is_flag=True, help="Throw the folder's data away first."),
    click.option(
        "--port", default=8080, show_default=True, envvar="TIMELINE_PORT",
        help=f"The API's port; everything else listens on the {PORTS_PER_INSTANCE - 1} ports after it.",
    ),
    click.option("--cassandra", default="1", show_default=True, type=click.Choice(["1", "3"]), help="Nodes."),
    click.option("--kafka", default="1", show_default=True, type=click.Choice(["1", "3"]), help="Nodes."),
    click.option(
        "--redis-replicas", default="0", show_default=True, type=click.Choice(["0", "1"]),
        help="Replicas of each of the three primaries.",
    ),
)  # fmt: skip


def _topology_options(command: F) -> F:
    for option in reversed(_TOPOLOGY):
        command = option(command)
    return command


@click.group("local", invoke_without_command=True)
@_topology_options
@click.option(
    "--world",
    default="none",
    show_default=True,
    type=click.Choice(["demo", "none"]),
    help="What to load: demo is a small network with people, follows and posts.",
)
@click.option(
    "--threshold",
    type=click.IntRange(min=1),
    help="Accounts with more followers than this are pulled when homes are read, not pushed. Without it: TIMELINE_PUSH_FOLLOWERS_MAX.",
)
@click.pass_context
def local(
    context: click.Context, folder: Path, fresh: bool, port: int, cassandra: str, kafka: str, redis_replicas: str,
    world: str, threshold: int | None,
) -> None:  # fmt: skip
    """Run everything on this machine: Cassandra, Kafka, a Redis Cluster, then api, fanout and relay.

    What is missing (Java 17, the engines) is found or fetched into a cache folder, without Docker and without root. Everything
    listens on loopback addresses only, and stops on Ctrl-C. An engine that settings name (TIMELINE_CASSANDRA_HOSTS,
    TIMELINE_KAFKA_BOOTSTRAP, TIMELINE_REDIS_NODES) is used as it is, and none is started.

    A process that dies unasked ends everything, with code 1 and the end of its log; `stop`, `kill` and `start` are for doing it
    on purpose.
    """
    if context.invoked_subcommand is not None:
        # `timeline local --dir X status` and `timeline local status --dir X` mean the same.
        given = {name: value for name, value in context.params.items() if _is_given(context, name)}
        context.default_map = {context.invoked_subcommand: given}
    else:
        topology = Topology(port, int(cassandra), int(kafka), redis_replicas=int(redis_replicas))
        with _told():
            run_everything(folder, topology, fresh=fresh, world=world, threshold=threshold, say=_say)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


@local.command()
@_topology_options
@click.option("--cassandra-heap-mb", type=click.IntRange(min=256), help="Of each node; 1024 for one, 512 for three.")
def engines(
    folder: Path, fresh: bool, port: int, cassandra: str, kafka: str, redis_replicas: str, cassandra_heap_mb: int | None
) -> None:
    """Run the engines alone, until Ctrl-C, and print the settings that name them (also written to DIR/engines.env).

    An engine that dies is reported and left dead, and the others go on: `timeline local start NAME` brings it back.
    """
    topology = Topology(
        port, int(cassandra), int(kafka), redis_replicas=int(redis_replicas), cassandra_heap_mb=cassandra_heap_mb
    )
    with _told():
        run_engines(folder, topology, fresh=fresh, say=_say)


@local.command()
@_FOLDER
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(folder: Path, as_json: bool) -> None:
    """What runs in a folder: name, pid, condition, addresses, log. Exit code 1 when nothing does, or something died."""
    state = read_state(folder)
    found = _as_dict(folder, state)
    click.echo(json.dumps(found, indent=1) if as_json else _as_text(found))
    sys.exit(0 if found["running"] and all(process["alive"] for process in found["processes"]) else 1)


@local.command()
@click.argument("name")
@_FOLDER
def start(name: str, folder: Path) -> None:
    """Start a process (redis-1) or all of a kind (redis) again; returns when it serves."""
    _steer(folder, "start", name)


@local.command()
@click.argument("name")
@_FOLDER
def stop(name: str, folder: Path) -> None:
    """Stop a process, or all of a kind, in order (SIGTERM), and leave the rest running."""
    _steer(folder, "stop", name)


@local.command()
@click.argument("name")
@_FOLDER
def kill(name: str, folder: Path) -> None:
    """Kill a process, or all of a kind, at once (SIGKILL), and leave the rest running."""
    _steer(folder, "kill", name)


def _steer(folder: Path, action: str, name: str) -> None:
    with _told():
        try:
            getattr(Attached(folder), action)(name)
        except KeyError as error:
            raise LocalFailure(str(error.args[0]), "see `timeline local status`") from error


def _as_dict(folder: Path, state: State | None) -> dict[str, Any]:
    if state is None:
        return {"dir": str(folder.absolute()), "running": False, "supervisor": None, "env": {}, "processes": []}
    supervised = state.supervisor.condition() != "dead"
    processes = [
        {
            "name": entry.name, "pid": entry.pid, "alive": entry.condition() != "dead", "condition": entry.condition(),
            "addresses": list(entry.addresses), "log": entry.log, "env": entry.env,
        }
        for entry in state.processes
    ]  # fmt: skip
    return {
        "dir": str(folder.absolute()), "running": supervised, "supervisor": state.supervisor.pid, "env": state.env,
        "processes": processes,
    }  # fmt: skip


def _as_text(found: dict[str, Any]) -> str:
    if not found["running"] and not any(process["alive"] for process in found["processes"]):
        return f"nothing runs in {found['dir']}"
    rows = [("NAME", "PID", "CONDITION", "ADDRESSES", "LOG")]
    for process in found["processes"]:
        where = " ".join(process["addresses"])
        rows.append((process["name"], str(process["pid"]), process["condition"], where, process["log"]))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    )


def _say(text: str) -> None:
    click.echo(text)


@contextmanager
def _told() -> Iterator[None]:
    """Failures as a person wants them, with exit code 1; having been asked to stop is none."""
    try:
        yield
    except LocalFailure as failure:
        click.echo(f"error: {failure}", err=True)
        sys.exit(1)
    except Stopping:
        click.echo("stopped")

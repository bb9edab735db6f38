"""The command line: which benchmark, on which engines, where the figures go."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.bench import bridge, fanout, home
from loadtest.bench.hybrid import NoWorld
from tests.conftest import free_base_port
from timeline.local import Attached, Control, Topology, open_engines

Figures = tuple[dict[str, Any], str]
Bench = Callable[[Control, Path], Figures]


def main() -> None:
    arguments = _parser().parse_args()
    try:
        bench = _BENCHES[arguments.name](arguments)
    except NoWorld as missing:
        sys.exit(f"error: {missing}")
    with tempfile.TemporaryDirectory(prefix="timeline-bench-") as name:
        folder = Path(name)
        with _engines(arguments.engines, folder) as engines:
            figures, lines = bench(engines, folder)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    names.add_parser("home", help="one page of a reader of thousands, against one of 200")
    names.add_parser("bridge", help="the way to Cassandra's driver: on our loop, against its own thread")
    one = names.add_parser("fanout", help="deliveries: how many a second, at what cost, how fresh")
    one.add_argument("--part", choices=fanout.PARTS, default="all", help="what of it; default: all")
    one.add_argument("--rounds", type=int, default=5, metavar="N", help="runs behind each median; default: 5")
    one.add_argument("--limit-posts", type=int, metavar="N", help="only the first ones, to try it")
    one.add_argument(
        "--data", type=Path, metavar="DIR", help="where hybrid81k is; default: TIMELINE_DATA_DIR, or ../shared/data"
    )
    one.add_argument("--profile", type=Path, metavar="FILE", help="and what a worker's time goes into, to this file")
    for each in names.choices.values():
        each.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
        each.add_argument(
            "--engines", type=Path, metavar="DIR", help="a running `timeline local engines`; else own ones"
        )
    return parser


@contextmanager
def _engines(running: Path | None, folder: Path) -> Iterator[Control]:
    if running is not None:
        yield Attached(running)
        return
    with open_engines(folder / "engines", Topology(free_base_port(), cassandra_heap_mb=768)) as engines:
        yield engines


def _home(_: argparse.Namespace) -> Bench:
    def bench(engines: Control, folder: Path) -> Figures:
        size = home.Size()
        with home.open_stack(engines.env, folder, size) as stack:
            figures = home.measure(stack, folder, size)
        return figures, home.report(figures)

    return bench


def _bridge(_: argparse.Namespace) -> Bench:
    def bench(engines: Control, _: Path) -> Figures:
        figures = bridge.measure(engines.env)
        return figures, bridge.report(figures)

    return bench


def _fanout(arguments: argparse.Namespace) -> Bench:
    """Raises NoWorld: before any engine is started."""
    task = fanout.Task(
        part=arguments.part,
        rounds=arguments.rounds,
        files=fanout.Task.files_of(arguments.part, arguments.data),
        limit_posts=arguments.limit_posts,
        profile_to=arguments.profile,
    )

    def bench(engines: Control, folder: Path) -> Figures:
        figures = fanout.measure(engines, folder, task)
        return figures, fanout.report(figures)

    return bench


_BENCHES = {"home": _home, "bridge": _bridge, "fanout": _fanout}


if __name__ == "__main__":
    main()

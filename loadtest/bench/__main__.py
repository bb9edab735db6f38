"""The command line: which benchmark, on which engines, where the figures go."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from loadtest.bench.home import Size, measure, open_stack, report
from tests.conftest import free_base_port
from timeline.local import Attached, Topology, open_engines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench")
    parser.add_argument("name", choices=["home"], help="home: one page of a reader of thousands, against one of 200")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--engines", type=Path, metavar="DIR", help="a running `timeline local engines`; else own ones")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="timeline-bench-") as folder:
        if arguments.engines is not None:
            figures = _home(Attached(arguments.engines).env, Path(folder))
        else:
            topology = Topology(free_base_port(), cassandra_heap_mb=768)
            with open_engines(Path(folder) / "engines", topology) as engines:
                figures = _home(engines.env, Path(folder))
    arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(report(figures))


def _home(engines: dict[str, str], folder: Path) -> dict[str, object]:
    size = Size()
    with open_stack(engines, folder, size) as stack:
        return measure(stack, folder, size)


if __name__ == "__main__":
    main()

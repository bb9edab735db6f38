"""Remakes the lock of an engine's jars from what Maven itself resolves: `python -m timeline.local.lock` (needs `mvn`).

Only whoever changes a version runs this; running the engines needs no Maven.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

ROOTS = {
    "cassandra": ("org.apache.cassandra:cassandra-all:5.0.8",),
    "kafka": (
        "org.apache.kafka:kafka_2.13:4.3.1",
        "org.apache.logging.log4j:log4j-core:2.25.4",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
    ),
}


def write_lock(engine: str) -> int:
    """Writes `<engine>.lock` beside this file; how many jars it holds. Raises CalledProcessError when Maven fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pom.xml").write_text(_pom(ROOTS[engine]))
        subprocess.run(
            ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib",
             "-Dmdep.useRepositoryLayout=true"],
            cwd=folder, check=True,
        )  # fmt: skip
        lines = sorted(_line(jar, folder / "lib") for jar in (folder / "lib").rglob("*.jar"))
    roots = " ".join(ROOTS[engine])
    Path(__file__).with_name(f"{engine}.lock").write_text(f"# {roots}, as Maven resolves it\n" + "".join(lines))
    return len(lines)


def _pom(roots: tuple[str, ...]) -> str:
    parts = (root.split(":") for root in roots)
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>"
        for group, artifact, version in parts
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>engine</artifactId>"
        f"<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
    )


def _line(jar: Path, root: Path) -> str:
    *group, artifact, version, file = jar.relative_to(root).parts
    classifier = file.removeprefix(f"{artifact}-{version}").removesuffix(".jar").removeprefix("-")
    coordinate = ":".join(filter(None, (".".join(group), artifact, version, classifier)))
    return f"{coordinate} {hashlib.sha256(jar.read_bytes()).hexdigest()}\n"


if __name__ == "__main__":
    for engine in ROOTS:
        sys.stdout.write(f"{engine}: {write_lock(engine)} jars\n")

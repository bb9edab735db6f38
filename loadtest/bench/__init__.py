"""Benchmarks against real processes and real engines on this machine: `python -m loadtest.bench NAME --json FILE`."""

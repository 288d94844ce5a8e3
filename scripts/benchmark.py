"""Record runs, or time an agent or simulators, for `benchmarks/`."""

from metarl.__main__ import script

if __name__ == "__main__":
    script("benchmark")

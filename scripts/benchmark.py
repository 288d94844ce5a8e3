"""Record runs, or time agents and simulators, in JSON files for `benchmarks/`."""

from metarl.__main__ import script

if __name__ == "__main__":
    script("benchmark")

"""Draw the adaptation or learning curves of runs into one picture, or one run's paths."""

from metarl.__main__ import script

if __name__ == "__main__":
    script("plot")

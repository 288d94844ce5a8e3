"""Compare runs in one picture: adaptation curves, learning curves; or draw one's paths."""

from metarl.__main__ import script

if __name__ == "__main__":
    script("plot")

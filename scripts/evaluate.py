"""Evaluate how a run's agent adapts to held-out tasks, beside an untrained agent."""

from metarl.__main__ import script

if __name__ == "__main__":
    script("evaluate")

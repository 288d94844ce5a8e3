"""Evaluate how the agent of a run adapts to held-out tasks, beside an untrained one."""

from metarl.__main__ import script

if __name__ == "__main__":
    script("evaluate")

"""Meta-train an agent, then evaluate how it adapts to held-out tasks."""

from metarl.__main__ import script

if __name__ == "__main__":
    script("train")

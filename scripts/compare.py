"""Say which of several groups of runs is better, by how much and how surely."""

from metarl.__main__ import script

if __name__ == "__main__":
    script("compare")

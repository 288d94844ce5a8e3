"""Meta-train an agent, then evaluate how it adapts to held-out tasks."""

import sys

from metarl.exits import exits


@exits
def main() -> None:
    """Train."""
    from metarl.commandline import run_train  # seconds, in which a signal may come

    run_train(sys.argv[1:])


if __name__ == "__main__":
    main()

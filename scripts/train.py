"""Meta-train an agent, then evaluate how it adapts to held-out tasks."""

import sys

from metarl.running.exits import exits


@exits
def main() -> None:
    """Train."""
    from metarl.running.commandline import run_train

    run_train(sys.argv[1:])


if __name__ == "__main__":
    main()

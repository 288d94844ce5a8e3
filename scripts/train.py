"""Meta-train an agent, then evaluate how it adapts to held-out tasks."""

import sys

from metarl.commandline import exits, run_train


@exits
def main() -> None:
    """Train."""
    run_train(sys.argv[1:])


if __name__ == "__main__":
    main()

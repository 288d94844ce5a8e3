"""Meta-train an agent, then evaluate how it adapts to held-out tasks."""

import sys

from metarl.commandline import exits, parse_train
from metarl.runs import train


@exits
def main() -> None:
    """Train."""
    request = parse_train(sys.argv[1:])
    train(request.config, request.agent, request.agent_config, request.resume)


if __name__ == "__main__":
    main()

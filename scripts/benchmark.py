"""Record runs, or time an agent, for `benchmarks/`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, subcommand

from metarl.benchmarks import measure_speed, summarize_runs
from metarl.commandline import exits, parse


@dataclass(frozen=True)
class Summarize:
    """Write settings, times and results of evaluated runs into one JSON file."""

    runs: Positional[tuple[Path, ...]]
    """Run directories."""
    output: Path = Path("benchmarks/summary.json")
    """The file."""


@dataclass(frozen=True)
class Speed:
    """Time meta-iterations and an evaluation, with the agent's defaults but for `--config`."""

    env: str = "bandit/n10-k5"
    """Task distribution."""
    agent: str = "rl2"
    """Agent."""
    config: dict[str, str] = field(default_factory=dict)
    """Other settings of the agent: names and values, `num_adaptations 1`."""
    threads: int = 1
    """Torch threads of the meta-update."""
    iterations: int = 20
    """Meta-iterations; medians are reported."""
    evaluation_tasks: int = 400_000
    """Tasks of the evaluation."""
    device: str = "cpu"
    """Where the agent runs: `cpu` or `cuda`."""
    output: Path = Path("benchmarks/speed.json")
    """The file."""


Command = Annotated[Summarize, subcommand("summarize")] | Annotated[Speed, subcommand("speed")]


@exits
def main() -> None:
    """Record or time."""
    options = parse(Command, __doc__ or "")
    if isinstance(options, Summarize):
        summarize_runs(options.runs, options.output)
    else:
        measure_speed(**vars(options))


if __name__ == "__main__":
    main()

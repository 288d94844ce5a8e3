"""Record runs, or time an agent or simulators, for `benchmarks/`."""

from typing import Annotated

from tyro.conf import subcommand

from metarl import benchmarks
from metarl.benchmarks import Classes, Speed, Stepping, Summarize
from metarl.commandline import parse
from metarl.exits import exits

Command = (
    Annotated[Summarize, subcommand("summarize")]
    | Annotated[Speed, subcommand("speed")]
    | Annotated[Stepping, subcommand("stepping")]
    | Annotated[Classes, subcommand("classes")]
)


@exits
def main() -> None:
    """Record or time."""
    options = parse(Command, __doc__ or "")
    if isinstance(options, Summarize):
        benchmarks.summarize_runs(options.runs, options.output, options.evaluation)
    elif isinstance(options, Speed):
        benchmarks.measure_speed(**vars(options))
    elif isinstance(options, Stepping):
        benchmarks.measure_stepping(**vars(options))
    else:
        benchmarks.measure_classes(**vars(options))


if __name__ == "__main__":
    main()

"""Record runs, or time an agent or simulators, for `benchmarks/`."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import subcommand

from metarl.running.commandline import parse
from metarl.running.exits import exits
from metarl.running.record import Summarize, summarize_runs

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import measure  # measuring programs are no part of the library
from measure import Classes, Speed, Stepping

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
        summarize_runs(options.runs, options.output, options.evaluation)
    elif isinstance(options, Speed):
        measure.measure_speed(**vars(options))
    elif isinstance(options, Stepping):
        measure.measure_stepping(**vars(options))
    else:
        measure.measure_classes(**vars(options))


if __name__ == "__main__":
    main()

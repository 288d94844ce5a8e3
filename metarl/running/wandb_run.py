"""A run's page in Weights & Biases (W&B), if one is wanted."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarl.errors import UserError
from metarl.running.adaptation_table import adaptation_figures, adaptation_rows
from metarl.running.settings import RunConfig


class WandbRun:
    """A run in W&B, which is named, grouped and continued as its run directory is.

    The x axis of every chart is the number of environment steps. A failure of W&B never ends a
    training: it is said once, and then no more is logged there.

    Args:
        options: the project, and what else is known of the run in W&B.
        directory: the run directory; the id in its ``config.json`` is that of the run in W&B.
    """

    def __init__(self, options: RunConfig, directory: Path) -> None:
        self._run: Any = None
        self._wandb = import_wandb()
        content = json.loads((directory / "config.json").read_text())
        self._id = content["id"]
        in_group = options.wandb_group == directory.parent.name
        name = f"{directory.parent.name}/{directory.name}" if in_group else directory.name

        def start() -> None:
            self._run = self._wandb.init(
                project=options.wandb_project,
                entity=options.wandb_entity,
                group=options.wandb_group,
                tags=list(options.wandb_tags),
                id=self._id,
                resume="allow",
                name=name,
                dir=str(directory),
                config=content,
            )
            # W&B's own step counts calls of log(), which a resumed run repeats.
            self._run.define_metric("*", step_metric="env_steps")

        self._try(start)

    def log(self, line: Mapping[str, float]) -> None:
        """Log the metrics of an iteration, with ``env_steps`` among them."""
        self._try(lambda: self._run.log(dict(line)))

    def log_evaluation(
        self, summary: Mapping[str, Any], untrained: Mapping[str, Any], folder: Path
    ) -> None:
        """Log the evaluation after training: its table, curve and picture, and figures of the run.

        Its files are an artifact.

        Args:
            summary: the content of ``evaluation/<split>.json``.
            untrained: the same of the untrained agent.
            folder: the folder of these files and their picture.
        """
        split = summary["split"]
        columns, rows = adaptation_rows(summary, untrained)
        picture = folder / f"{split}.png"
        kept = [folder / f"{split}{end}" for end in (".json", "-untrained.json", ".png")]

        def send() -> None:
            table = self._wandb.Table(columns=columns, data=rows)
            curve = self._wandb.plot.line(table, columns[0], "return", title="adaptation curve")
            shown = {f"{split}/adaptation": table, f"{split}/adaptation_curve": curve}
            if picture.is_file():
                shown[f"{split}/picture"] = self._wandb.Image(str(picture))
            self._run.log({"env_steps": summary["env_steps"], **shown})
            for name, value in adaptation_figures(summary).items():
                self._run.summary[name] = value
            artifact = self._wandb.Artifact(f"evaluation-{self._id}", type="evaluation")
            for path in filter(Path.is_file, kept):
                artifact.add_file(str(path))
            self._run.log_artifact(artifact)

        self._try(send)

    def finish(self, exit_code: int) -> None:
        """Mark the run as finished (0) or failed, and send what is still waiting."""
        self._try(lambda: self._run.finish(exit_code=exit_code))

    def _try(self, action: Callable[[], None]) -> None:
        """Call a function of W&B, unless one has failed before."""
        if self._wandb is None:
            return
        try:
            action()
        except Exception as error:  # W&B raises errors of many classes.
            said = " ".join(str(error).split())
            warnings.warn(f"Weights & Biases: {said}; no more is logged there", stacklevel=3)
            self._wandb = None


@contextmanager
def wandb_run(options: RunConfig, directory: Path) -> Iterator[WandbRun | None]:
    """Start or continue a run in W&B, and finish it after the body; None without a project.

    Raises:
        UserError: if W&B is wanted but not installed.
    """
    if options.wandb_project is None:
        yield None
        return
    run = WandbRun(options, directory)
    try:
        yield run
    except BaseException:
        run.finish(1)
        raise
    run.finish(0)


def import_wandb() -> Any:
    """Import W&B.

    Raises:
        UserError: if it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError(
            f"--wandb-project: needs its package: pip install 'metarl-toolkit[wandb]' ({error})"
        ) from error

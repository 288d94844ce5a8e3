"""What TensorBoard shows of a run beside its metrics: the settings, and the final evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from metarl.evaluation.tables import markdown_rows
from metarl.running.adaptation_table import adaptation_figures, adaptation_rows

SUFFIX = ".evaluation"
"""End of the name of the file of an evaluation; metrics are in others."""


def add_settings(writer: SummaryWriter, content: Mapping[str, Any]) -> None:
    """Show a run's settings as text, and as hyper-parameters beside the validation score.

    Args:
        writer: the writer of the run.
        content: the content of ``config.json``.
    """
    writer.add_text("config", f"```json\n{json.dumps(content, indent=1)}\n```", 0)
    train = content["train_config"]
    values = {**_flat(train), **_flat(content["agent_config"]), "agent": content["agent"]}
    score = f"validation/{train['evaluation']['best_by']}"
    # SummaryWriter.add_hparams would show a second run; the metric's values are its scalars.
    file: Any = writer.file_writer
    for part in hparams(values, {score: 0.0}):  # type: ignore[no-untyped-call]  # of torch
        file.add_summary(part)


def add_evaluation(
    folder: Path, summary: Mapping[str, Any], untrained: Mapping[str, Any], picture: Path
) -> None:
    """Show an evaluation: its table as text, its picture, and its figures as scalars.

    Args:
        folder: the run's folder ``tensorboard``; evaluations that were shown before are removed.
        summary: the content of ``evaluation/<split>.json``.
        untrained: the same of the untrained agent.
        picture: the file of the adaptation curve.

    Raises:
        OSError: if the files cannot be written.
    """
    for old in folder.glob(f"*{SUFFIX}"):
        old.unlink()
    step, split = summary["env_steps"], summary["split"]
    columns, rows = adaptation_rows(summary, untrained)
    cells = [
        {name: "" if x is None else f"{x:.4g}" for name, x in zip(columns, row, strict=True)}
        for row in rows
    ]
    with SummaryWriter(str(folder), filename_suffix=SUFFIX) as writer:
        writer.add_text(f"{split}/adaptation", "\n".join(markdown_rows(cells)), step)
        image = matplotlib.image.imread(picture)[..., :3]
        writer.add_image(f"{split}/adaptation", image, step, dataformats="HWC")
        for name, value in adaptation_figures(summary).items():
            writer.add_scalar(name, value, step)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config and of those nested in it, as TensorBoard can show them."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            values |= _flat(value)
        else:
            values[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return values

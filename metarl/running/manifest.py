"""The manifest of a sweep: which runs its folder has, so that commands can read it whole.

Nothing here loads torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.errors import UserError, bad_option
from metarl.files import read_object, write_json
from metarl.running.lock import held

MANIFEST = "sweep.json"
"""The name of the manifest in the folder of a sweep."""

FORMAT = 1
"""The format of the manifest."""

_LOCK = ".sweep.lock"
"""The lock of the manifest; that of the folder is held as long as the runs take."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    setting: str
    """The values of the options that vary, as in ``learning-rate=0.001 hidden-size=64``."""
    directory: Path
    """The run directory, in the folder of the sweep."""
    seed: int
    """The seed of the training."""


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep."""
    return (folder / MANIFEST).is_file()


def read_sweep(folder: Path) -> list[SweepRun]:
    """Return the runs of a sweep, in order of settings.

    Raises:
        UserError: if the manifest is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        return [
            SweepRun(str(x["setting"]), folder / str(x["directory"]), int(x["seed"]))
            for x in read_object(path, FORMAT)["runs"]
        ]
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged: {error!r}") from error


def command_of(folder: Path) -> str:
    """Return the command that the sweep was last started with."""
    return str(read_object(folder / MANIFEST, FORMAT).get("command", ""))


def record_sweep(folder: Path, runs: Sequence[SweepRun], command: str) -> None:
    """Add runs to the manifest of a folder, which is made if it is missing.

    Args:
        folder: the folder of the sweep.
        runs: the runs; those that the manifest has already stay as they are.
        command: the command that goes on with the sweep.

    Raises:
        UserError: if the folder cannot be written or its manifest is damaged.
    """
    with held(folder, _LOCK):
        had = read_sweep(folder) if is_sweep(folder) else []
        known = {run.directory for run in had}
        every = [*had, *(run for run in runs if run.directory not in known)]
        # Runs of a setting stay together, also those of seeds that were added later.
        order = {name: place for place, name in enumerate(dict.fromkeys(x.setting for x in every))}
        every.sort(key=lambda run: order[run.setting])
        content: dict[str, Any] = {
            "format": FORMAT,
            "command": command,
            "runs": [
                {
                    "setting": run.setting,
                    "seed": run.seed,
                    "directory": str(run.directory.relative_to(folder)),
                }
                for run in every
            ],
        }
        with contextlib.suppress(UserError):
            if read_object(folder / MANIFEST, FORMAT) == content:
                return
        write_json(folder / MANIFEST, content)


def settings_of(folder: Path) -> Mapping[str, list[Path]]:
    """Return the run directories of every setting of a sweep that has begun, by setting.

    Raises:
        UserError: if the manifest is damaged.
    """
    found: dict[str, list[Path]] = {}
    for run in read_sweep(folder):
        if (run.directory / "config.json").is_file():
            found.setdefault(run.setting, []).append(run.directory)
    return found


def named_groups(groups: Sequence[Sequence[Path]]) -> list[tuple[str, Sequence[Path]]] | None:
    """Return groups of runs with one for every setting of a sweep; None if there is no sweep.

    Args:
        groups: groups of run directories; the folder of a sweep is alone in its group.

    Returns:
        The name and the runs of every group.

    Raises:
        UserError: if a sweep is not alone in its group, or its manifest is damaged.
    """
    if not any(is_sweep(path) for group in groups for path in group):
        return None
    found: list[tuple[str, Sequence[Path]]] = []
    for group in groups:
        sweeps = [path for path in group if is_sweep(path)]
        if not sweeps:
            found.append((" ".join(map(str, group)), group))
        elif len(group) == 1:
            found += settings_of(sweeps[0]).items()
        else:
            raise bad_option("RUNS", str(sweeps[0]), "a sweep alone in its group")
    return found

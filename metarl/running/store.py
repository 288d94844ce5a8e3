"""The experience store: files with the past trials that an agent learns from again.

Only agents with ``remembers`` have one (:class:`metarl.experience.agent.RememberingAgent`).
``experience/<iteration>.safetensors`` is written before the checkpoint of that iteration and holds
the trials since the file before; more than 1000 trials become several files. A file exists
completely or not at all. Its header contains JSON with a checksum of everything. It is removed as
soon as no remaining checkpoint needs any of its trials.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import safetensors
import torch
from torch import Tensor

from metarl.errors import UserError
from metarl.experience.agent import remembered_steps
from metarl.experience.data import Change, Episodes, Trial
from metarl.files import is_leftover, replacing, sync_folder
from metarl.running.checkpoints import CheckpointStore
from metarl.task import Task

FORMAT = 1
"""The format of the files that this version writes."""

MOST_TRIALS = 1000
"""Largest number of trials in a file; readers of safetensors refuse headers over 100 MB."""

_SUFFIX = ".safetensors"
_HEADER = "experience"
"""The key of the JSON in the header of a file."""

_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
"""Names of tensor types in the safetensors format."""

_BY_NAME = ("record", "metrics", "info")
"""The fields of ``Episodes`` that are dictionaries of tensors."""

_Steps: TypeAlias = dict[int, int]
"""The number of environment steps of the trial of each iteration."""


def recall_experience(agent: Any, run_directory: Path, iteration: int) -> None:
    """Give the agent of a resumed run the trials that it remembers.

    Agents that remember nothing are left as they are.

    Args:
        agent: the agent, in its state after ``iteration`` meta-updates.
        run_directory: the run directory.
        iteration: the number of meta-updates after which the run is resumed.

    Raises:
        UserError: if a trial that the agent needs is missing, or its file is damaged.
    """
    store = ExperienceStore.of(agent, run_directory)
    if store is None:
        return
    try:
        trials = store.read(iteration)
    except UserError as error:
        checkpoints = CheckpointStore(run_directory / "checkpoints")
        message = f"{error}; without it the run cannot be resumed after iteration {iteration}"
        older = [number for number in checkpoints.iterations() if number < iteration]
        if older:
            message += (
                f" (it can be resumed after iteration {older[-1]} once "
                f"{checkpoints.directory / f'{iteration:07d}'} is removed)"
            )
        raise UserError(message) from error
    agent.recall(trials)


class ExperienceStore:
    """The folder ``experience`` of a run, and the trials that will be written into it next.

    Trials wait in memory for the next checkpoint. They are kept without their contexts and are not
    copied. Trials that no later checkpoint will need are dropped.
    """

    def __init__(self, directory: Path, remembers: int) -> None:
        self.directory = directory
        self.remembers = remembers
        self._stored: dict[int, _Steps] = {}
        self._waiting: dict[int, Trial] = {}
        self._steps: _Steps = {}
        """Environment steps of the waiting trials."""

    @staticmethod
    def of(agent: object, run_directory: Path) -> ExperienceStore | None:
        """Return the store of a run's agent, or None if the agent remembers nothing.

        Raises:
            UserError: if the agent's ``remembers`` is wrong or ``recall`` is missing.
        """
        steps = remembered_steps(agent)
        return ExperienceStore(run_directory / "experience", steps) if steps else None

    def begin(self, iteration: int) -> None:
        """Prepare for training after ``iteration`` meta-updates.

        Files of later iterations and leftovers of a killed process are removed.
        """
        if not self.directory.is_dir():
            return
        for path in list(self.directory.iterdir()):
            if is_leftover(path):
                path.unlink(missing_ok=True)
        for number in self.iterations():
            if number > iteration:
                self._path(number).unlink(missing_ok=True)
                continue
            try:
                self._stored[number] = _read_header(self._path(number))[1]
            except UserError:  # A damaged file serves no checkpoint; evict() will remove it.
                self._stored[number] = {}

    def iterations(self) -> list[int]:
        """Return the iterations in the names of the files, in ascending order."""
        if not self.directory.is_dir():
            return []
        files = self.directory.glob(f"*{_SUFFIX}")
        return sorted(int(path.stem) for path in files if path.stem.isdigit())

    def add(self, iteration: int, trial: Trial, *, copied: int) -> None:
        """Keep the trial of an iteration for the next file.

        Args:
            iteration: the number of meta-updates, including the one that used this trial.
            trial: the trial that the update learned from.
            copied: the iteration of the newest copy of the agent's state, which may still be saved.
        """
        self._waiting[iteration] = trial._replace(context=None, seconds={})
        self._steps[iteration] = trial.env_steps
        for number in list(self._waiting):
            # The next checkpoint is that of the copy, or of this iteration or a later one.
            end = copied if number <= copied else iteration
            newer = sum(steps for n, steps in self._steps.items() if number < n <= end)
            if newer < self.remembers:
                break
            del self._waiting[number], self._steps[number]

    def write(self, iteration: int) -> None:
        """Write the waiting trials up to ``iteration``, and wait until they are on the disk.

        Raises:
            OSError: if they cannot be written; the next checkpoint tries again.
        """
        trials = {n: trial for n, trial in self._waiting.items() if n <= iteration}
        if not trials:
            return
        created = not self.directory.is_dir()
        self.directory.mkdir(parents=True, exist_ok=True)
        if created:
            sync_folder(self.directory.parent)
        numbers = list(trials)
        for start in range(0, len(numbers), MOST_TRIALS):
            part = numbers[start : start + MOST_TRIALS]
            _write(self._path(part[-1]), {n: trials[n] for n in part}, self._steps)
            self._stored[part[-1]] = {n: self._steps[n] for n in part}
            for number in part:
                del self._waiting[number], self._steps[number]

    def evict(self, checkpoints: Iterable[int]) -> None:
        """Remove the files that none of the checkpoints needs, the oldest first."""
        steps = {n: count for held in self._stored.values() for n, count in held.items()}
        needed: set[int] = set()
        for iteration in checkpoints:
            total, number = 0, iteration
            while number in steps and total < self.remembers:
                needed.add(number)
                total += steps[number]
                number -= 1
        for file, held in sorted(self._stored.items()):
            if needed.isdisjoint(held):
                with suppress(OSError):  # The next checkpoint tries again.
                    self._path(file).unlink(missing_ok=True)
                    del self._stored[file]

    def read(self, iteration: int) -> list[Trial]:
        """Read the trials that an agent remembers after ``iteration`` updates, oldest first.

        Their tensors are on the CPU and they have no contexts.

        Raises:
            UserError: if one of them is missing, or its file is damaged.
        """
        files = [number for number in self.iterations() if number <= iteration]
        number, steps, newest_first = iteration, 0, []
        while number > 0 and steps < self.remembers:
            held = _read(self._path(files.pop())) if files else {}
            if number not in held:
                raise UserError(f"{self.directory}: the trial of iteration {number} is missing")
            while number in held and steps < self.remembers:
                newest_first.append(held[number])
                steps += held[number].env_steps
                number -= 1
        return newest_first[::-1]

    def _path(self, iteration: int) -> Path:
        return self.directory / f"{iteration:07d}{_SUFFIX}"


def _write(path: Path, trials: Mapping[int, Trial], steps: _Steps) -> None:
    """Write trials by iteration so that ``path`` holds all of them or does not change."""
    tensors: dict[str, Tensor] = {}
    for number, trial in trials.items():
        # Tasks may hold many numbers, too many for a header.
        tensors[f"{number}.tasks"] = _packed([task.to_json() for task in trial.tasks])
        if trial.change is not None:
            later = [task.to_json() for task in trial.change.tasks]
            tensors[f"{number}.change"] = _packed({"after": trial.change.after, "tasks": later})
        for k, episodes in enumerate(trial.rounds):
            for name, value in _named(episodes).items():
                tensors[f"{number}.{k}.{name}"] = value
    content: dict[str, Any] = {
        "format": FORMAT,
        "trials": [
            {
                "iteration": number,
                "env_steps": steps[number],
                "rounds": [list(_named(episodes)) for episodes in trial.rounds],
            }
            for number, trial in trials.items()
        ],
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        _write_tensors(file, tensors, content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _write_tensors(
    file: BinaryIO, tensors: Mapping[str, Tensor], content: Mapping[str, Any]
) -> None:
    """Write tensors and JSON in the format of safetensors, without copying the tensors.

    The library's own function takes 50 us per tensor, most of the time of saving small trials, and
    makes a temporary file of its own that a killed process would leave behind.
    """
    # The header is JSON with the type, the shape and the place of each tensor. It is put together
    # as text, because tens of thousands of dictionaries would cause garbage collections.
    entries, end = [], 0
    # Tensors with the largest elements come first, so that all tensors are aligned.
    names = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    for name in names:
        x = tensors[name]
        begin, end = end, end + x.nbytes
        place = f'{_described(x)}, "data_offsets": [{begin}, {end}]'
        entries.append(f", {json.dumps(name)}: {{{place}}}")
    said = json.dumps({**content, "sha256": _digest(content, tensors)})
    metadata = json.dumps({_HEADER: said})
    text = f'{{"__metadata__": {metadata}{"".join(entries)}}}'.encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(_bytes(tensors[name]))


def _read(path: Path) -> dict[int, Trial]:
    """Read the trials of a file by iteration.

    Raises:
        UserError: if the file is damaged or cannot be read.
    """
    content, _ = _read_header(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # Clones are aligned as new tensors are; the last bits of sums may depend on that.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # The library's own errors have no common class.
        raise _unreadable(path, error) from error
    said = content.pop("sha256", None)
    if said != _digest(content, tensors):
        raise UserError(f"{path}: is damaged (its checksum differs)")
    trials = {}
    for entry in content["trials"]:
        number = entry["iteration"]
        rounds = [
            _episodes({name: tensors[f"{number}.{k}.{name}"] for name in names})
            for k, names in enumerate(entry["rounds"])
        ]
        tasks = [Task.from_json(task) for task in _unpacked(tensors[f"{number}.tasks"])]
        change = None
        if f"{number}.change" in tensors:
            content = _unpacked(tensors[f"{number}.change"])
            later = [Task.from_json(task) for task in content["tasks"]]
            change = Change(content["after"], later)
        trials[number] = Trial(tasks, rounds, context=None, change=change)
    return trials


def _packed(content: Any) -> Tensor:
    """Return JSON data as a tensor of bytes."""
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


def _unpacked(tensor: Tensor) -> Any:
    """Return the JSON data that :func:`_packed` has packed."""
    return json.loads(bytes(_bytes(tensor)))


def _read_header(path: Path) -> tuple[dict[str, Any], _Steps]:
    """Read the JSON in the header of a file, and the environment steps of its trials."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
        if content.get("format") != FORMAT:
            raise ValueError(f"format {content.get('format')!r}; this version reads {FORMAT}")
        steps = {int(entry["iteration"]): int(entry["env_steps"]) for entry in content["trials"]}
    except Exception as error:  # The library's own errors have no common class.
        raise _unreadable(path, error) from error
    return content, steps


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read: {' '.join(str(error).split())}")


def _named(episodes: Episodes) -> dict[str, Tensor]:
    """Return all tensors of a round by name; those in dictionaries are called ``field.key``."""
    named: dict[str, Tensor] = {}
    for field, value in episodes._asdict().items():
        if field in _BY_NAME:
            named |= {f"{field}.{key}": x for key, x in value.items()}
        else:
            named[field] = value
    return named


def _episodes(named: Mapping[str, Tensor]) -> Episodes:
    """Rebuild a round from :func:`_named`'s result."""
    fields: dict[str, Any] = {field: {} for field in _BY_NAME}
    for name, value in named.items():
        field, _, key = name.partition(".")
        if field in _BY_NAME:
            fields[field][key] = value
        else:
            fields[field] = value
    return Episodes(**fields)


def _described(x: Tensor) -> str:
    """Return the type and the shape of a tensor, as the header of a file has them."""
    if x.dtype not in _TYPES:
        raise UserError(f"experience: tensors of type {x.dtype} cannot be stored")
    return f'"dtype": "{_TYPES[x.dtype]}", "shape": {list(x.shape)}'


def _digest(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum of a file's JSON and of every tensor's name, type and content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name}: {_described(tensors[name])}".encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _bytes(x: Tensor) -> memoryview:
    """Return the memory of a tensor, or of a copy that is contiguous and on the CPU."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data

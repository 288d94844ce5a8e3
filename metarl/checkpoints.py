"""Saved agents: tensors in safetensors, everything else in JSON, nothing that runs code.

A checkpoint is a folder ``checkpoints/<iteration>``, written under another name, flushed to
the disk and renamed, so that it is there whole or not at all. It holds its score on validation
tasks, where it has one: the best is the one with the highest. One that was damaged later is
known by its checksum, and one that is sound is taken instead.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import psutil
import safetensors.torch
from torch import Tensor

from metarl.errors import UserError
from metarl.rollout import Agent
from metarl.spaces import fit

FORMAT = 2
"""Of ``checkpoint.json``; 1 held no score and a checksum of the tensors alone."""

_PARTIAL = ".partial"
"""How the names of files that are being written end."""

Which: TypeAlias = Literal["final", "best"]


@dataclass(frozen=True)
class Checkpoint:
    """An agent's state after ``iteration`` meta-updates."""

    iteration: int
    env_steps: int
    tensors: dict[str, Tensor]
    extra: dict[str, Any]
    """The agent's own JSON."""
    score: float | None = None
    """What it did on validation tasks, where it was validated; more is better."""

    @staticmethod
    def of(agent: Agent, iteration: int, env_steps: int) -> Checkpoint:
        """Copy what ``agent`` is now."""
        tensors, extra = agent.state()
        copies = {name: x.detach().clone().contiguous() for name, x in tensors.items()}
        return Checkpoint(iteration, env_steps, copies, json.loads(json.dumps(extra)))

    def load_into(self, agent: Agent) -> None:
        """Make ``agent`` what it was."""
        agent.load_state(self.tensors, self.extra)


class CheckpointStore:
    """The folder ``checkpoints`` of a run."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write ``checkpoint``, and remove those that are neither the newest nor the best.

        Later ones go too: a run that is here again has fallen back from them.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        target = self._folder(checkpoint.iteration)
        known = checkpoint.score in (None, self._score(checkpoint.iteration))
        if not (known and self._sound(target)):
            self._write(checkpoint, target)
        for leftover in self.directory.glob(".*.partial"):  # of a kill
            shutil.rmtree(leftover, ignore_errors=True)
        for iteration in self.iterations():
            if iteration > checkpoint.iteration:
                shutil.rmtree(self._folder(iteration), ignore_errors=True)
        saved = self.iterations()
        for iteration in set(saved) - {*saved[-self.keep :], *self._by_score()[:1]}:
            shutil.rmtree(self._folder(iteration), ignore_errors=True)

    def iterations(self) -> list[int]:
        """Return the iterations that are saved, in ascending order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def load(self, which: Which = "final") -> Checkpoint:
        """Read the newest checkpoint, or the best, of those that are sound.

        Raises:
            UserError: where there is none, or none that has the content it was saved with.
        """
        saved = self.iterations()
        if not saved:
            raise UserError(f"{self.directory}: holds no checkpoint")
        if which == "final":
            return self._first_sound(saved[::-1])
        best = self._by_score()
        if not best:
            raise UserError(f"{self.directory}: no best checkpoint, the run was not validated")
        return self._first_sound(best)

    def _first_sound(self, iterations: list[int]) -> Checkpoint:
        damage: list[UserError] = []
        for iteration in iterations:
            try:
                checkpoint = self._read(self._folder(iteration))
            except UserError as error:
                damage.append(error)
                continue
            for what in damage:
                warnings.warn(f"{what}; iteration {iteration} is taken instead", stacklevel=3)
            return checkpoint
        raise damage[0]

    def _sound(self, folder: Path) -> bool:
        if not folder.exists():
            return False
        try:
            self._read(folder)
        except UserError:
            return False
        return True

    def _folder(self, iteration: int) -> Path:
        return self.directory / f"{iteration:07d}"

    def _by_score(self) -> list[int]:
        """Return the iterations that have a score, the highest first, the first of equals."""
        scores = {i: score for i in self.iterations() if (score := self._score(i)) is not None}
        return sorted(scores, key=lambda i: (-scores[i], i))

    def _score(self, iteration: int) -> float | None:
        try:
            content = read_object(self._folder(iteration) / "checkpoint.json", FORMAT)
        except UserError:
            return None
        score = content.get("score")
        return score if isinstance(score, float) else None

    def _write(self, checkpoint: Checkpoint, target: Path) -> None:
        data = safetensors.torch.save(checkpoint.tensors)
        content: dict[str, Any] = {
            "format": FORMAT,
            "iteration": checkpoint.iteration,
            "env_steps": checkpoint.env_steps,
            "score": checkpoint.score,
            "agent": checkpoint.extra,
        }
        content["sha256"] = _digest(content, data)
        temporary = target.with_name(f".{target.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            _write_synced(temporary / "agent.safetensors", data)
            _write_synced(temporary / "checkpoint.json", json.dumps(content, indent=1).encode())
            _sync_folder(temporary)
            if target.exists():  # damaged, or without its score: set aside, no longer than needed
                aside = target.with_name(f".{target.name}.replaced.partial")
                shutil.rmtree(aside, ignore_errors=True)  # of a kill
                os.rename(target, aside)
            os.rename(temporary, target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # of a full disk, say
            raise
        _sync_folder(self.directory)

    def _read(self, folder: Path) -> Checkpoint:
        content = read_object(folder / "checkpoint.json", FORMAT)
        missing = {"iteration", "env_steps", "score", "sha256", "agent"} - content.keys()
        if missing:
            raise UserError(f"{folder}: checkpoint.json has no {', '.join(sorted(missing))}")
        try:
            data = (folder / "agent.safetensors").read_bytes()
        except OSError as error:
            raise UserError(f"{folder}: cannot be read: {error}") from error
        said = content.pop("sha256")
        if said != _digest(content, data):
            raise UserError(f"{folder}: is not what was saved (checksum)")
        try:
            tensors = safetensors.torch.load(data)
        except Exception as error:  # its own errors have no common class
            raise UserError(f"{folder}: agent.safetensors holds no tensors: {error}") from error
        names = ("iteration", "env_steps", "agent", "score")
        iteration, env_steps, extra, score = (content[name] for name in names)
        if not (isinstance(iteration, int) and isinstance(env_steps, int)):
            raise UserError(f"{folder}: checkpoint.json counts no iterations and steps")
        return Checkpoint(iteration, env_steps, tensors, extra, score)


def _digest(content: dict[str, Any], data: bytes) -> str:
    """Return the checksum of a checkpoint: of its tensors and of its JSON."""
    return hashlib.sha256(data + json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_object(path: Path, version: int) -> dict[str, Any]:
    """Read a JSON object whose ``format`` is ``version``.

    Raises:
        UserError: where it is missing, damaged, or of another format.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object")
    if content.get("format") != version:
        raise UserError(f"{path}: format {content.get('format')!r}; this version reads {version}")
    return content


def write_json(path: Path, content: object) -> None:
    """Write JSON so that ``path`` holds either the old content or the new."""
    write_whole(path, json.dumps(content, indent=1).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that ``path`` holds either the old content or the new.

    Of several processes that write it at once, the last one's content is there, unmixed.
    """
    with replacing(path) as temporary:
        _write_synced(temporary, data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write ``path``'s new content under; afterwards it is in its place, whole.

    Where the body fails ``path`` keeps what it held, and nothing else is left.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def create_json(path: Path, content: object) -> None:
    """Write JSON to ``path``, where nothing may be: of several processes that try, one succeeds.

    Raises:
        FileExistsError: where there is something.
        OSError: where it cannot be written; nothing is left of it then.
    """
    data, temporary = json.dumps(content, indent=1).encode(), _temporary(path)
    try:
        _write_synced(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # the file system has no hard links
            _create(path, data)
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _temporary(path: Path) -> Path:
    """Return a name to write ``path``'s content under that nobody else writes."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")


def is_leftover(path: Path) -> bool:
    """Return whether :func:`write_whole` or :func:`create_json` named ``path``, as temporary."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def remove_leftovers(directory: Path) -> None:
    """Remove the files in ``directory`` that killed processes had begun to write."""
    for path in directory.glob(f".*{_PARTIAL}"):
        writer = path.name.removesuffix(_PARTIAL).rpartition(".")[2].partition("-")[0]
        if path.is_file() and not (writer.isdigit() and psutil.pid_exists(int(writer))):
            path.unlink(missing_ok=True)


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Return a Box or Discrete space as JSON; infinite bounds are ``None``."""
    if isinstance(space, gym.spaces.Discrete):
        content = {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        return content if space.dtype == np.int64 else content | {"dtype": str(space.dtype)}
    if isinstance(space, gym.spaces.Box):
        low, high = (_bound_to_json(bound) for bound in (space.low, space.high))
        return {
            "type": "Box",
            "low": low,
            "high": high,
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    raise UserError(f"space: got {space}; accepted: Box, Discrete")


def space_from_json(data: dict[str, Any]) -> gym.Space[Any]:
    """Return the space that :func:`space_to_json` described.

    Raises:
        UserError: where ``data`` describes none.
    """
    try:
        return _space_from_json(data)
    except (LookupError, TypeError, ValueError, AssertionError, OverflowError) as error:
        raise UserError(f"space: got {data!r}; accepted: what space_to_json returns") from error


def _space_from_json(data: dict[str, Any]) -> gym.Space[Any]:
    if data["type"] == "Discrete":
        kind = {"dtype": np.dtype(data["dtype"]).type} if "dtype" in data else {}
        return gym.spaces.Discrete(data["n"], start=data["start"], **kind)
    if data["type"] != "Box":
        raise UserError(f"space: got {data['type']!r}; accepted: Box, Discrete")
    dtype = np.dtype(data["dtype"])
    shape = tuple(data["shape"])
    low = _bound_from_json(data["low"], -np.inf, shape, dtype)
    high = _bound_from_json(data["high"], np.inf, shape, dtype)
    return gym.spaces.Box(low, high, shape, dtype.type)


def _bound_to_json(bound: npt.NDArray[Any]) -> list[float | int | None]:
    """Return the bound's numbers, or the only one there is (an image's, say)."""
    flat = bound.reshape(-1)
    flat = flat[:1] if flat.size and (flat == flat[0]).all() else flat
    if flat.dtype.kind != "f":  # int64's largest is no float
        return [int(x) for x in flat]
    return [float(x) if np.isfinite(x) else None for x in flat]


def _bound_from_json(
    numbers: list[float | int | None],
    infinite: float,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> npt.NDArray[Any]:
    found: Any = [infinite if x is None else x for x in numbers]
    if dtype.kind != "f":  # the first edition wrote floats
        if any(x != int(x) for x in found):
            raise ValueError(f"a bound of {dtype} is whole")
        found = np.array([int(x) for x in found], np.uint64 if dtype == np.uint64 else np.int64)
    flat = fit(found, dtype, "a bound")
    return flat.reshape(shape) if flat.size == math.prod(shape) else np.full(shape, flat[0])


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Saved agents: tensors in safetensors, everything else in JSON, nothing that runs code.

A checkpoint is a folder ``checkpoints/<iteration>``, written under another name, flushed to
the disk and renamed, so that it is there whole or not at all. ``best.json`` names the one
whose agent did best on held-out tasks during training.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import safetensors.torch
from torch import Tensor

from metarl.errors import UserError
from metarl.rollout import Agent

FORMAT = 1

Which: TypeAlias = Literal["final", "best"]


@dataclass(frozen=True)
class Checkpoint:
    """An agent's state after ``iteration`` meta-updates."""

    iteration: int
    env_steps: int
    tensors: dict[str, Tensor]
    extra: dict[str, Any]
    """The agent's own JSON."""

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

    def save(self, checkpoint: Checkpoint, score: float | None = None) -> None:
        """Write ``checkpoint``; with a ``score``, it becomes the best one if it is."""
        self.directory.mkdir(parents=True, exist_ok=True)
        target = self._folder(checkpoint.iteration)
        if not target.exists():
            self._write(checkpoint, target)
        best = self._best()
        if score is not None and (best is None or score > best["score"]):
            best = {"format": FORMAT, "iteration": checkpoint.iteration, "score": score}
            write_json(self.directory / "best.json", best)
        protected = set(self.iterations()[-self.keep :]) | ({best["iteration"]} if best else set())
        for iteration in self.iterations():
            if iteration not in protected:
                shutil.rmtree(self._folder(iteration), ignore_errors=True)

    def iterations(self) -> list[int]:
        """Return the iterations that are saved, in ascending order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def load(self, which: Which = "final") -> Checkpoint:
        """Read the newest checkpoint, or the best.

        Raises:
            UserError: where there is none, or it does not have the content it was saved with.
        """
        saved = self.iterations()
        if not saved:
            raise UserError(f"{self.directory}: holds no checkpoint")
        if which == "final":
            return self._read(self._folder(saved[-1]))
        best = self._best()
        if best is None:
            raise UserError(f"{self.directory}: no best checkpoint, the run was not validated")
        return self._read(self._folder(best["iteration"]))

    def _folder(self, iteration: int) -> Path:
        return self.directory / f"{iteration:07d}"

    def _best(self) -> dict[str, Any] | None:
        path = self.directory / "best.json"
        if not path.exists():
            return None
        content = _read_object(path)
        if not {"iteration", "score"} <= content.keys():
            raise UserError(f"{path}: names no iteration and score")
        return content

    def _write(self, checkpoint: Checkpoint, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        data = safetensors.torch.save(checkpoint.tensors)
        _write_synced(temporary / "agent.safetensors", data)
        content = {
            "format": FORMAT,
            "iteration": checkpoint.iteration,
            "env_steps": checkpoint.env_steps,
            "sha256": hashlib.sha256(data).hexdigest(),
            "agent": checkpoint.extra,
        }
        _write_synced(temporary / "checkpoint.json", json.dumps(content, indent=1).encode())
        os.rename(temporary, target)
        _sync_folder(self.directory)

    def _read(self, folder: Path) -> Checkpoint:
        content = _read_object(folder / "checkpoint.json")
        if content.get("format") != FORMAT:
            raise UserError(f"{folder}: format {content.get('format')!r}; accepted: {FORMAT}")
        missing = {"iteration", "env_steps", "sha256", "agent"} - content.keys()
        if missing:
            raise UserError(f"{folder}: checkpoint.json has no {', '.join(sorted(missing))}")
        try:
            data = (folder / "agent.safetensors").read_bytes()
        except OSError as error:
            raise UserError(f"{folder}: cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != content["sha256"]:
            raise UserError(f"{folder}: agent.safetensors is not what was saved (checksum)")
        return Checkpoint(
            content["iteration"],
            content["env_steps"],
            safetensors.torch.load(data),
            content["agent"],
        )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not an object")
    return content


def write_json(path: Path, content: object) -> None:
    """Write JSON so that ``path`` holds either the old content or the new."""
    temporary = path.with_name(f".{path.name}.partial")
    _write_synced(temporary, json.dumps(content, indent=1).encode())
    os.replace(temporary, path)


def space_to_json(space: gym.Space[Any]) -> dict[str, Any]:
    """Return a Box or Discrete space as JSON; infinite bounds are ``None``."""
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
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
    """Return the space that :func:`space_to_json` described."""
    if data["type"] == "Discrete":
        return gym.spaces.Discrete(data["n"], start=data["start"])
    if data["type"] != "Box":
        raise UserError(f"space: got {data['type']!r}; accepted: Box, Discrete")
    dtype = np.dtype(data["dtype"])
    shape = tuple(data["shape"])
    low = _bound_from_json(data["low"], -np.inf, shape, dtype)
    high = _bound_from_json(data["high"], np.inf, shape, dtype)
    return gym.spaces.Box(low, high, shape, dtype.type)


def _bound_to_json(bound: npt.NDArray[Any]) -> list[float | None]:
    """Return the bound's numbers, or the only one there is (an image's, say)."""
    flat = bound.reshape(-1)
    flat = flat[:1] if flat.size and (flat == flat[0]).all() else flat
    return [float(x) if np.isfinite(x) else None for x in flat]


def _bound_from_json(
    numbers: list[float | None], infinite: float, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    flat = np.array([infinite if x is None else x for x in numbers], dtype)
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

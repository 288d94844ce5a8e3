"""Checkpoints: saved agents, as safetensors and JSON, so that loading them runs no code.

A checkpoint is a folder ``checkpoints/<iteration>``. It is written under a temporary name, flushed
to the disk and renamed, so that it is complete or does not exist. If the agent was validated, the
checkpoint has a score; the best checkpoint is the one with the highest score. A checksum detects
later damage, and loading then falls back on the next sound checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import safetensors.torch
from torch import Tensor

from metarl.errors import UserError
from metarl.experience.agent import Agent
from metarl.experience.sampling import TaskSampler
from metarl.files import read_object, sync_folder, write_synced

FORMAT = 2
"""The format of ``checkpoint.json``; format 1 had no score, and a checksum of the tensors only."""

Which: TypeAlias = Literal["final", "best"]
"""Which checkpoint to load: the newest one, or the one with the highest validation score."""


@dataclass(frozen=True)
class Checkpoint:
    """An agent's state after ``iteration`` meta-updates."""

    iteration: int
    """The number of meta-updates."""
    env_steps: int
    """The number of environment steps."""
    tensors: dict[str, Tensor]
    """The agent's tensors, by name."""
    extra: dict[str, Any]
    """The rest of the agent's state, which JSON can represent."""
    score: float | None = None
    """The agent's score on validation tasks, higher is better; None if it was not validated."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """The state of the task sampler."""

    @staticmethod
    def of(
        agent: Agent, iteration: int, env_steps: int, sampler: TaskSampler | None = None
    ) -> Checkpoint:
        """Copy the present state of ``agent`` and ``sampler``."""
        tensors, extra = agent.state()
        own = {} if sampler is None else sampler.state()
        copies = {name: x.detach().clone().contiguous() for name, x in tensors.items()}
        extra, own = json.loads(json.dumps([extra, own]))
        return Checkpoint(iteration, env_steps, copies, extra, sampler=own)

    def load_into(self, agent: Agent) -> None:
        """Restore the state of ``agent``."""
        agent.load_state(self.tensors, self.extra)


class CheckpointStore:
    """The folder ``checkpoints`` of a run.

    Args:
        directory: the folder.
        keep: how many of the newest checkpoints are kept in addition to the best one.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Write ``checkpoint``, and remove those that are neither among the newest nor the best.

        Checkpoints of later iterations are removed too: they are left over from before the run
        fell back on an earlier one.

        Raises:
            OSError: if the checkpoint cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        target = self._folder(checkpoint.iteration)
        known = checkpoint.score in (None, self._score(checkpoint.iteration))
        if not (known and self._sound(target)):
            self._write(checkpoint, target)
        for leftover in self.directory.glob(".*.partial"):  # Left by a killed process.
            shutil.rmtree(leftover, ignore_errors=True)
        for iteration in self.iterations():
            if iteration > checkpoint.iteration:
                shutil.rmtree(self._folder(iteration), ignore_errors=True)
        saved = self.iterations()
        for iteration in set(saved) - {*saved[-self.keep :], *self._by_score()[:1]}:
            shutil.rmtree(self._folder(iteration), ignore_errors=True)

    def iterations(self) -> list[int]:
        """Return the iterations of all checkpoints, in ascending order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def load(self, which: Which = "final") -> Checkpoint:
        """Read the newest or the best of the checkpoints that are not damaged.

        A warning names each damaged checkpoint that would have been read instead.

        Raises:
            UserError: if there is no checkpoint, or all are damaged.
        """
        saved = self.iterations()
        if not saved:
            raise UserError(f"{self.directory}: contains no checkpoint")
        if which == "final":
            return self._first_sound(saved[::-1])
        best = self._by_score()
        if not best:
            raise UserError(f"{self.directory}: no best checkpoint; the run was not validated")
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
                warnings.warn(f"{what}; iteration {iteration} is loaded instead", stacklevel=3)
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
        """Return the iterations with a score, from the highest; equal scores in order of time."""
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
        if checkpoint.sampler:
            content["sampler"] = checkpoint.sampler
        content["sha256"] = _digest(content, data)
        temporary = target.with_name(f".{target.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            write_synced(temporary / "agent.safetensors", data)
            write_synced(temporary / "checkpoint.json", json.dumps(content, indent=1).encode())
            sync_folder(temporary)
            if target.exists():
                # It is damaged or lacks the score: rename it, so that it can be replaced.
                aside = target.with_name(f".{target.name}.replaced.partial")
                shutil.rmtree(aside, ignore_errors=True)  # Left by a killed process.
                os.rename(target, aside)
            os.rename(temporary, target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # The disk may be full.
            raise
        sync_folder(self.directory)

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
            raise UserError(f"{folder}: is damaged (its checksum differs)")
        try:
            tensors = safetensors.torch.load(data)
        except Exception as error:  # Its errors have no common class.
            raise UserError(f"{folder}: agent.safetensors contains no tensors: {error}") from error
        names = ("iteration", "env_steps", "agent", "score")
        iteration, env_steps, extra, score = (content[name] for name in names)
        if not (isinstance(iteration, int) and isinstance(env_steps, int)):
            raise UserError(f"{folder}: checkpoint.json has no integer iteration and env_steps")
        return Checkpoint(iteration, env_steps, tensors, extra, score, content.get("sampler", {}))


def _digest(content: dict[str, Any], data: bytes) -> str:
    """Return the checksum of a checkpoint's tensors and JSON content."""
    return hashlib.sha256(data + json.dumps(content, sort_keys=True).encode()).hexdigest()

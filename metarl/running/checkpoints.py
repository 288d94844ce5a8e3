"""Saved agents: tensors in safetensors, everything else in JSON, nothing that runs code.

A checkpoint is a folder ``checkpoints/<iteration>``, written under another name, flushed to
the disk and renamed, so that it is there whole or not at all. It holds its score on validation
tasks, where it has one: the best is the one with the highest. One that was damaged later is
known by its checksum, and one that is sound is taken instead.
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
"""Of ``checkpoint.json``; 1 held no score and a checksum of the tensors alone."""


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
    sampler: dict[str, Any] = field(default_factory=dict)
    """The state of the task sampler."""

    @staticmethod
    def of(
        agent: Agent, iteration: int, env_steps: int, sampler: TaskSampler | None = None
    ) -> Checkpoint:
        """Copy what ``agent`` and ``sampler`` are now."""
        tensors, extra = agent.state()
        own = {} if sampler is None else sampler.state()
        copies = {name: x.detach().clone().contiguous() for name, x in tensors.items()}
        extra, own = json.loads(json.dumps([extra, own]))
        return Checkpoint(iteration, env_steps, copies, extra, sampler=own)

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
            if target.exists():  # damaged, or without its score: set aside, no longer than needed
                aside = target.with_name(f".{target.name}.replaced.partial")
                shutil.rmtree(aside, ignore_errors=True)  # of a kill
                os.rename(target, aside)
            os.rename(temporary, target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # of a full disk, say
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
            raise UserError(f"{folder}: is not what was saved (checksum)")
        try:
            tensors = safetensors.torch.load(data)
        except Exception as error:  # its own errors have no common class
            raise UserError(f"{folder}: agent.safetensors holds no tensors: {error}") from error
        names = ("iteration", "env_steps", "agent", "score")
        iteration, env_steps, extra, score = (content[name] for name in names)
        if not (isinstance(iteration, int) and isinstance(env_steps, int)):
            raise UserError(f"{folder}: checkpoint.json counts no iterations and steps")
        return Checkpoint(iteration, env_steps, tensors, extra, score, content.get("sampler", {}))


def _digest(content: dict[str, Any], data: bytes) -> str:
    """Return the checksum of a checkpoint: of its tensors and of its JSON."""
    return hashlib.sha256(data + json.dumps(content, sort_keys=True).encode()).hexdigest()

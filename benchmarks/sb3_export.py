"""Fine-tuning by Stable-Baselines3 from meta-learned parameters, beside two other beginnings.

On held-out tasks, Stable-Baselines3's PPO learns from three initial policies with the same
network, observation scaling and number of steps: the parameters that `maml-ppo` has meta-learned
(`metarl.sb3.export`), random ones, and those of a PPO that was trained on all training tasks at
once, a new one in every episode. Settings are chosen for each beginning from one grid, on
validation tasks. Beside them stand the agent's own gradient steps with as many episodes.

    python scripts/train.py --preset maml-ppo-navigation --run-dir runs/navigation
    python benchmarks/sb3_export.py --run runs/navigation --output benchmarks/sb3-export.json
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import metarl
from metarl.errors import UserError
from metarl.evaluation.curve import summarize
from metarl.files import write_json
from metarl.running.exits import exits
from metarl.running.machine import commit, device_name
from metarl.running.run import Run
from metarl.task import Task
from metarl.tasks.distribution import TaskDistribution

Settings: TypeAlias = dict[str, Any]
Beginning: TypeAlias = Callable[[DummyVecEnv, int, Settings], PPO]
"""A function from environments, a seed and PPO's settings to a model that has learned nothing."""


@dataclass(frozen=True)
class Options:
    """Options of the comparison."""

    run: Path
    """Run directory of an agent without memory, such as maml-ppo's."""
    multitask: Path | None = None
    """Model of PPO trained on the task distribution, a file of an earlier comparison's
    --save-multitask; by default one is trained first."""
    save_multitask: Path | None = None
    """File to save the model to that was trained on the task distribution."""
    multitask_steps: int = 1_000_000
    """Number of environment steps that this model is trained for."""
    multitask_envs: int = 40
    """Number of environments that this model is trained in at once."""
    num_tasks: int = 20
    """Number of held-out tasks."""
    validation_tasks: int = 5
    """Number of validation tasks on which the settings are chosen."""
    num_episodes: int = 40
    """Number of full-length episodes of experience with each task."""
    episodes_per_update: tuple[int, ...] = (10, 20)
    """Candidates for the number of full-length episodes between two updates."""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Candidates for PPO's learning rate."""
    gae_lambdas: tuple[float, ...] = (0.95, 1.0)
    """Candidates for PPO's GAE lambda."""
    measured_episodes: int = 20
    """Number of episodes that measure a policy at one point; nothing is learned from them."""
    seed: int = 0
    """Seed of tasks, episodes and learning."""
    output: Path = Path("benchmarks/sb3-export.json")
    """JSON file to write the results to."""


class NewTaskEachEpisode(gym.Wrapper):
    """Draws a training task for every episode."""

    def __init__(self, tasks: TaskDistribution, seed: int) -> None:
        super().__init__(tasks.make())
        self.tasks, self.generator = tasks, np.random.default_rng(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        (task,) = self.tasks.sample(self.generator, 1, "train")
        return self.env.reset(seed=seed, options={**(options or {}), "task": task})


def many(make: Callable[[int], gym.Env], n: int) -> DummyVecEnv:
    """Return ``n`` environments that are stepped together."""
    return DummyVecEnv([lambda i=i: make(i) for i in range(n)])


@dataclass
class Comparison:
    """What the parts of the comparison share."""

    options: Options
    run: Run
    tasks: TaskDistribution
    beginnings: dict[str, Beginning] = field(default_factory=dict)

    def fine_tune(
        self, name: str, task: Task, settings: Settings, seed: int, every_point: bool
    ) -> list[float]:
        """Return the mean return of an episode before and after learning from one task.

        Args:
            name: the beginning.
            task: the task.
            settings: PPO's settings, and the number of episodes between two updates.
            seed: the seed of episodes and learning.
            every_point: measure after every 20 episodes, not only in the beginning and the end.
        """
        rest = dict(settings)
        together, horizon = rest.pop("episodes_per_update"), self.tasks.horizon
        envs = many(lambda i: self.tasks.make(task), together)
        # Full-length episodes would take this many steps; shorter ones are followed by others.
        fixed = {"n_steps": horizon, "batch_size": together * horizon // 4}
        model = self.beginnings[name](envs, seed, {**fixed, **rest})
        points = [self.measure(model, task, seed)]
        for episodes in self.points[1:]:
            steps = episodes * horizon - model.num_timesteps
            model.learn(steps, reset_num_timesteps=False)
            if every_point or episodes == self.options.num_episodes:
                points.append(self.measure(model, task, seed))
        assert model.num_timesteps == self.options.num_episodes * horizon
        return points

    @property
    def points(self) -> list[int]:
        """Return the numbers of episodes at which every curve has a point."""
        step = max(self.options.episodes_per_update)
        return list(range(0, self.options.num_episodes + 1, step))

    def measure(self, model: Any, task: Task, seed: int) -> float:
        """Return the mean return of episodes with sampled actions, from which nothing is learned.

        The random numbers of every model are the same.
        """
        torch.manual_seed(seed + 1)
        envs = many(lambda i: self.tasks.make(task), self.options.measured_episodes)
        envs.seed(1000 * (seed + 1))
        mean, _ = evaluate_policy(
            model, envs, self.options.measured_episodes, deterministic=False, warn=False
        )
        return float(mean)

    def own_steps(self, agent: Any, task: Task, seed: int) -> list[float]:
        """Return the same points for the agent's own steps of adaptation."""
        env = self.tasks.make(task)
        return [
            self.measure(metarl.adapt(agent, env, episodes=n, seed=seed), task, seed)
            for n in self.points
        ]

    def choose(self, name: str, tasks: list[Task]) -> tuple[Settings, list[dict[str, Any]]]:
        """Return the settings with the best return on validation tasks, and all that were tried."""
        options, tried = self.options, []
        grid = (options.learning_rates, options.gae_lambdas, options.episodes_per_update)
        for rate, gae_lambda, together in itertools.product(*grid):
            settings = {
                "learning_rate": rate,
                "gae_lambda": gae_lambda,
                "episodes_per_update": together,
            }
            ends = [self.fine_tune(name, t, settings, i, False)[-1] for i, t in enumerate(tasks)]
            tried.append({**settings, "return": float(np.mean(ends))})
        best = max(tried, key=lambda one: one["return"])
        return {key: value for key, value in best.items() if key != "return"}, tried


def interval(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return the mean over tasks and its 95% interval."""
    return {name: numbers[0] for name, numbers in summarize(values[None]).items()}


def multitask(comparison: Comparison, agent: Any) -> PPO:
    """Return a PPO that was trained on all training tasks at once."""
    options, tasks = comparison.options, comparison.tasks
    if options.multitask is not None:
        return PPO.load(options.multitask, device="cpu")
    n = options.multitask_envs
    envs = many(lambda i: NewTaskEachEpisode(tasks, 1000 * options.seed + i), n)
    steps = max(tasks.horizon, 2)
    batch = {"n_steps": steps, "batch_size": max(steps * n // 4, 2), "learning_rate": 1e-3}
    model = metarl.sb3.export(agent, envs, seed=options.seed, device="cpu", **batch)
    model.learn(options.multitask_steps)
    if options.save_multitask is not None:
        model.save(options.save_multitask)
    return model


def compare(options: Options) -> None:
    """Compare the beginnings, print the result and write it to the output file."""
    run = Run.open(options.run)
    if options.num_episodes % max(options.episodes_per_update) or any(
        max(options.episodes_per_update) % n for n in options.episodes_per_update
    ):
        raise UserError(
            f"--episodes-per-update: got {options.episodes_per_update}; accepted: numbers that "
            f"divide the largest of them, which divides --num-episodes ({options.num_episodes})"
        )
    tasks, agent, untrained = run.make_tasks(), run.load_agent()[0], run.make_agent()
    started, seconds = time.perf_counter(), {}
    comparison = Comparison(options, run, tasks)
    trained = multitask(comparison, untrained)
    seconds["multitask training"] = time.perf_counter() - started

    def exported(source: Any) -> Beginning:
        def begin(envs: DummyVecEnv, seed: int, settings: Settings) -> PPO:
            return metarl.sb3.export(source, envs, seed=seed, device="cpu", **settings)

        return begin

    def from_multitask(envs: DummyVecEnv, seed: int, settings: Settings) -> PPO:
        model = exported(untrained)(envs, seed, settings)
        model.policy.load_state_dict(trained.policy.state_dict())
        return model

    comparison.beginnings = {
        "meta-learned": exported(agent),
        "scratch": exported(untrained),
        "multitask": from_multitask,
    }
    draw = np.random.default_rng(options.seed)
    validation = tasks.sample(draw, options.validation_tasks, "validation")
    test = tasks.sample(draw, options.num_tasks, "test")
    curves: dict[str, npt.NDArray[np.float64]] = {}
    chosen: dict[str, Any] = {}
    for name in comparison.beginnings:
        begun = time.perf_counter()
        settings, tried = comparison.choose(name, validation)
        chosen[name] = {"settings": settings, "tried": tried}
        curves[name] = np.array(
            [comparison.fine_tune(name, t, settings, i, True) for i, t in enumerate(test)]
        )
        seconds[name] = time.perf_counter() - begun
        print(f"{name}: {settings}, {seconds[name]:.0f} s", flush=True)
    curves["own steps"] = np.array([comparison.own_steps(agent, t, i) for i, t in enumerate(test)])
    print(f"{tasks.name}, {options.num_tasks} held-out tasks, return of an episode after episodes:")
    for name, values in curves.items():
        texts = [f"{n}: {x:.2f}" for n, x in zip(comparison.points, values.mean(0), strict=True)]
        print(f"  {name:13}", "  ".join(texts))
    gains = {}
    for name in ("multitask", "scratch", "own steps"):
        gains[name] = interval(curves["meta-learned"][:, -1] - curves[name][:, -1])
        print(
            f"meta-learned minus {name} after {options.num_episodes} episodes, paired by task: "
            "{mean:.2f} (95% interval {low:.2f} to {high:.2f})".format(**gains[name])
        )
    content = {
        "options": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(options).items()
        },
        "env": tasks.name,
        "run": {key: run.content[key] for key in ("id", "agent", "agent_config", "commit")},
        "commit": commit(),
        "device": device_name("cpu"),
        "seconds": seconds,
        "episodes": comparison.points,
        "returns": {name: values.tolist() for name, values in curves.items()},
        "means": {name: values.mean(0).tolist() for name, values in curves.items()},
        "meta_learned_minus": gains,
        "chosen": chosen,
    }
    write_json(options.output, content)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # Small networks are slower with more.
    exits(lambda: compare(tyro.cli(Options)))()

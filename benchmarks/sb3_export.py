"""Fine-tuning by Stable-Baselines3 from meta-learned parameters, beside two other beginnings.

On held-out tasks, Stable-Baselines3's PPO learns from three initial policies with the same
network, observation scaling and number of steps: the parameters that `maml-ppo` has meta-learned
(`metarl.sb3.export`), random ones, and those that `ppo-multitask` has trained on all tasks at once,
with as many environment steps as the meta-learner. PPO's settings are chosen for each beginning
from the same few, on validation tasks. Beside them stand the agent's own gradient steps with as
many episodes.

    python scripts/train.py --preset maml-ppo-navigation --run-dir runs/navigation
    python scripts/train.py --preset ppo-multitask-navigation --run-dir runs/navigation-multitask
    python benchmarks/sb3_export.py --run runs/navigation --multitask runs/navigation-multitask
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
import tyro
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import metarl
from metarl.errors import UserError, bad_option, near_matches
from metarl.evaluation.summaries import summarize
from metarl.files import write_json
from metarl.running.exits import exits
from metarl.running.machine import commit, device_name
from metarl.running.run import Run
from metarl.task import Task
from metarl.tasks.distribution import TaskDistribution

Settings: TypeAlias = dict[str, Any]
Beginning: TypeAlias = Callable[[DummyVecEnv, int, Settings], PPO]
"""A function from environments, a seed and PPO's settings to a model that has learned nothing."""


FITTED = {
    "rollout_buffer_class": metarl.sb3.LinearBaselineBuffer,
    "vf_coef": 0.0,
    "gae_lambda": 1.0,
    "max_grad_norm": math.inf,
}
"""Advantages over a baseline that is fitted to every rollout, in place of the critic."""
SGD = {**FITTED, "n_epochs": 1, "policy_kwargs": {"optimizer_class": torch.optim.SGD}}
"""One gradient step on the whole rollout, as an inner step of maml-ppo."""
EVERY = 20
"""Number of full-length episodes between two points of a curve."""


def halved(rate: float, num_updates: int) -> Callable[[float], float]:
    """Return a schedule that halves the rate at every update after the first."""
    return lambda remaining: float(rate * 2 ** -((1 - remaining) * num_updates - 1))


RULES: dict[str, Settings] = {
    "critic-1e-3": {"episodes": 10, "learning_rate": 1e-3},
    "critic-3e-3": {"episodes": 10, "learning_rate": 3e-3},
    "critic-3e-3-20": {"episodes": 20, "learning_rate": 3e-3},
    "fitted-1e-3": {"episodes": 10, "learning_rate": 1e-3, **FITTED},
    "fitted-3e-3": {"episodes": 10, "learning_rate": 3e-3, **FITTED},
    "fitted-1e-2": {"episodes": 10, "learning_rate": 1e-2, **FITTED},
    "sgd-0.1": {"episodes": 20, "learning_rate": 0.1, **SGD},
    "sgd-0.05": {"episodes": 20, "learning_rate": 0.05, **SGD},
    "sgd-0.1-halved": {"episodes": 20, "learning_rate": partial(halved, 0.1), **SGD},
}
"""Settings of PPO by name: its own critic and Adam in 10 epochs, the fitted baseline instead, or
inner steps; after so many full-length episodes each. What is not given is PPO's default."""


@dataclass(frozen=True)
class Options:
    """Options of the comparison."""

    run: Path
    """Run directory of an agent without memory, such as maml-ppo's."""
    multitask: Path
    """Run directory of ppo-multitask, with the same network and training tasks."""
    num_tasks: int = 20
    """Number of held-out tasks."""
    validation_tasks: int = 4
    """Number of validation tasks on which the settings are chosen."""
    num_episodes: int = 40
    """Number of full-length episodes of experience with each task."""
    rules: tuple[str, ...] = tuple(RULES)
    """Names of the settings from which each beginning's are chosen."""
    measured_episodes: int = 20
    """Number of episodes that measure a policy at one point; nothing is learned from them."""
    seed: int = 0
    """Seed of tasks, episodes and learning."""
    output: Path = Path("benchmarks/sb3-export.json")
    """JSON file to write the results to."""


def many(make: Callable[[int], gym.Env], n: int) -> DummyVecEnv:
    """Return ``n`` environments that are stepped together."""
    return DummyVecEnv([lambda i=i: make(i) for i in range(n)])


class Points(BaseCallback):
    """Measures the model before the first update, and after every so many steps."""

    def __init__(self, measure: Callable[[], float], every: int) -> None:
        super().__init__()
        self.take, self.every, self.values = measure, every, []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps % self.every == 0:
            self.values.append(self.take())


class Comparison:
    """What the parts of the comparison share."""

    def __init__(self, options: Options, tasks: TaskDistribution) -> None:
        self.options, self.tasks = options, tasks
        self.beginnings: dict[str, Beginning] = {}

    def fine_tune(
        self, name: str, task: Task, rule: str, seed: int, *, final_only: bool = False
    ) -> list[float]:
        """Return the mean return of an episode at the points of the curve.

        Args:
            name: the beginning.
            task: the task.
            rule: the name of PPO's settings.
            seed: the seed of episodes and learning.
            final_only: measure in the end alone.
        """
        settings, horizon = dict(RULES[rule]), self.tasks.horizon
        together = settings.pop("episodes")
        if isinstance(settings["learning_rate"], partial):
            num_updates = self.options.num_episodes // together
            settings["learning_rate"] = settings["learning_rate"](num_updates)
        minibatches = 1 if settings.get("n_epochs") == 1 else 4
        batch = {"n_steps": horizon, "batch_size": together * horizon // minibatches}
        envs = many(lambda i: self.tasks.make(task), together)
        model = self.beginnings[name](envs, seed, {**batch, **settings})
        points = Points(lambda: self.measure(model, task, seed), EVERY * horizon)
        # Full-length episodes take this many steps; shorter ones are followed by others.
        steps = self.options.num_episodes * horizon
        model.learn(steps, None if final_only else points)
        assert model.num_timesteps == steps
        return [*points.values, self.measure(model, task, seed)]

    @property
    def points(self) -> list[int]:
        """Return the numbers of episodes at which every curve has a point."""
        return list(range(0, self.options.num_episodes + 1, EVERY))

    def measure(self, model: Any, task: Task, seed: int) -> float:
        """Return the mean return of episodes with sampled actions, from which nothing is learned.

        The random numbers are the same for every model.
        """
        n = self.options.measured_episodes
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            envs = many(lambda i: self.tasks.make(task), n)
            envs.seed(1000 * (seed + 1))
            mean, _ = evaluate_policy(model, envs, n, deterministic=False, warn=False)
        return float(mean)

    def own_steps(self, agent: Any, task: Task, seed: int) -> list[float]:
        """Return the same points for the agent's own steps of adaptation."""
        env = self.tasks.make(task)
        return [
            self.measure(metarl.adapt(agent, env, episodes=n, seed=seed), task, seed)
            for n in self.points
        ]

    def choose(self, name: str, tasks: list[Task]) -> tuple[str, dict[str, float]]:
        """Return the settings with the best return on validation tasks, and all returns."""
        tried = {
            rule: float(
                np.mean(
                    [
                        self.fine_tune(name, task, rule, i, final_only=True)[-1]
                        for i, task in enumerate(tasks)
                    ]
                )
            )
            for rule in self.options.rules
        }
        return max(tried, key=lambda rule: tried[rule]), tried


def interval(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return the mean over tasks and its 95% interval."""
    return {name: numbers[0] for name, numbers in summarize(values[None]).items()}


def compare(options: Options) -> None:
    """Compare the beginnings, print the result and write it to the output file."""
    run, source = Run.open(options.run), commit()  # Files may change while this runs.
    if unknown := set(options.rules) - RULES.keys():
        name = min(unknown)
        raise UserError(f"--rules: got {name}; {near_matches(name, RULES)}")
    if options.num_episodes < EVERY or options.num_episodes % EVERY:
        raise bad_option("--num-episodes", options.num_episodes, f"a multiple of {EVERY}")
    other = Run.open(options.multitask)
    if (run.env, "ppo-multitask") != (other.env, other.agent_name):
        accepted = f"a run of ppo-multitask on {run.env}"
        raise bad_option("--multitask", f"{other.agent_name} on {other.env}", accepted)
    tasks, agent = run.make_tasks(), run.load_agent()[0]
    seconds: dict[str, float] = {}
    comparison = Comparison(options, tasks)

    def exported(source: Any) -> Beginning:
        def begin(envs: DummyVecEnv, seed: int, settings: Settings) -> PPO:
            return metarl.sb3.export(source, envs, seed=seed, device="cpu", **settings)

        return begin

    comparison.beginnings = {
        "meta-learned": exported(agent),
        "scratch": exported(run.make_agent()),
        "multitask": exported(other.load_agent()[0]),
    }
    draw = np.random.default_rng(options.seed)
    validation = tasks.sample(draw, options.validation_tasks, "validation")
    test = tasks.sample(draw, options.num_tasks, "test")
    curves: dict[str, npt.NDArray[np.float64]] = {}
    chosen: dict[str, Any] = {}
    for name in comparison.beginnings:
        begun = time.perf_counter()
        rule, tried = comparison.choose(name, validation)
        chosen[name] = {"rule": rule, "validation_returns": tried}
        curves[name] = np.array(
            [comparison.fine_tune(name, t, rule, i) for i, t in enumerate(test)]
        )
        seconds[name] = time.perf_counter() - begun
        print(f"{name}: {rule}, {seconds[name]:.0f} s", flush=True)
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
        **{
            name: {
                **{key: one.content[key] for key in ("id", "agent", "agent_config", "commit")},
                "env_steps": one.checkpoint().env_steps,
            }
            for name, one in (("run", run), ("multitask", other))
        },
        "commit": source,
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

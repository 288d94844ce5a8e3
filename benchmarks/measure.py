"""Measure the speed of agents, of worker processes and of Meta-World's classes."""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import mujoco
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.utils import batch_space

from metarl import registry, seeding
from metarl.console import console
from metarl.errors import UserError, bad_option, near_matches
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.experience import rollout
from metarl.experience.agent import TaskSpec
from metarl.experience.rollout import torch_generator
from metarl.experience.sampling import Uniform
from metarl.files import write_json
from metarl.options import option_values, with_options
from metarl.running.machine import check_device, commit, device_name
from metarl.running.training import training_slots, training_trial
from metarl.stepping.options import Workers
from metarl.task import Split, Task
from metarl.tasks.distribution import TaskDistribution


@dataclass(frozen=True)
class Speed:
    """Time an agent's meta-iterations and its evaluation."""

    env: str = "bandit/n10-k5"
    """Name of the task distribution."""
    agent: str = "rl2"
    """Name of the agent."""
    config: dict[str, str] = field(default_factory=dict)
    """Settings of the agent that are not its defaults: names and values, such as
    `num_adaptations 1`."""
    torch_threads: int = 1
    """Number of torch threads of the meta-update."""
    num_envs: int | None = None
    """Number of environments stepped together (default: as in training)."""
    num_workers: int | None = None
    """Number of processes that step simulators (default: one per core; 0 steps them in this
    process)."""
    iterations: int = 20
    """Number of meta-iterations, of which medians are reported."""
    evaluation_tasks: int = 400_000
    """Number of tasks of the evaluation."""
    device: str = "cpu"
    """Device that the agent runs on: `cpu`, `cuda` or `cuda:1`."""
    output: Path = Path("benchmarks/speed.json")
    """JSON file to write the results to."""


@dataclass(frozen=True)
class Stepping:
    """Time worker processes, one process, Gymnasium's AsyncVectorEnv and independent processes.

    Independent processes step their share of the environments without waiting for each other:
    they show what the machine allows at most.
    """

    env: str = "half-cheetah/direction"
    """Name of a task distribution whose environments are simulators."""
    num_envs: int = 40
    """Number of environments that are stepped together."""
    num_workers: int = 2
    """Number of worker processes."""
    steps: int = 200
    """Number of steps of every environment in one repeat."""
    repeats: int = 5
    """Number of repeats of each way to step, of which medians are reported."""
    output: Path = Path("benchmarks/stepping.json")
    """JSON file to write the results to."""


@dataclass(frozen=True)
class Classes:
    """Time step and reset of Meta-World's classes: ours, the official ones, and physics alone."""

    env: str = "metaworld/ml45"
    """Name of the Meta-World tasks whose classes are timed, including the held-out ones."""
    steps: int = 1000
    """Number of steps of each class: ours, official ones, and of physics alone."""
    output: Path = Path("benchmarks/metaworld-classes.json")
    """JSON file to write the results to."""


@rollout.torch_threads(1)  # Only the meta-update may use more.
def measure_speed(
    env: str,
    agent: str,
    *,
    config: Mapping[str, str],
    iterations: int,
    evaluation_tasks: int,
    device: str,
    torch_threads: int,
    output: Path,
    num_envs: int | None = None,
    num_workers: int | None = None,
) -> None:
    """Time meta-iterations and an evaluation of an agent.

    Args:
        env: the name of the task distribution.
        agent: the name of the agent.
        config: options of the agent that are not its defaults, with values as JSON.
        iterations: the number of meta-iterations, of which medians are reported.
        evaluation_tasks: the number of tasks of the evaluation.
        device: the device that the agent runs on.
        torch_threads: the number of torch threads of the meta-update.
        output: the JSON file to write the results to.
        num_envs: the number of environments stepped together (default: as in training).
        num_workers: the number of processes that step simulators (default: one per core).

    Raises:
        UserError: if the device or a setting of the agent is not accepted.
    """
    check_device(device)
    tasks = registry.make(env)
    kind = registry.agent_class(agent)
    agent_config = with_options(kind.Config(), **_fields(kind.Config, config))
    learner = kind(agent_config, TaskSpec.of(tasks), device=device)
    slots = training_slots(learner, tasks, Workers(num_envs=num_envs))
    envs = tasks.make_vec(slots, num_workers=num_workers)
    times: dict[str, list[float]] = {"step": [], "act": [], "collect": [], "update": []}
    for i in range(iterations + 2):  # The first two warm up.
        started = time.perf_counter()
        trial = training_trial(learner, Uniform(tasks), envs, seed=0, iteration=i)
        collected = time.perf_counter()
        with rollout.torch_threads(torch_threads):
            learner.update(trial, torch_generator(i), 0.0)
        times["collect"].append(collected - started)
        times["update"].append(time.perf_counter() - collected)
        for name, seconds in trial.seconds.items():
            times[name].append(seconds)
    envs.close()
    whole = [c + u for c, u in zip(times["collect"][2:], times["update"][2:], strict=True)]
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    curve = evaluate_adaptation(learner, tasks, num_tasks=evaluation_tasks, greedy=True)
    result: dict[str, Any] = {
        "format": 1,
        "env": env,
        "agent": agent,
        "agent_config": dataclasses.asdict(agent_config),
        "commit": commit(),
        "device": device_name(device),
        "torch_threads": torch_threads,
        "iterations": iterations,
        "env_steps_per_iteration": trial.env_steps,
        "num_envs": slots,
        "num_workers": num_workers,
        **{f"{name}_seconds_median": seconds for name, seconds in medians.items()},
        "iteration_seconds_median": statistics.median(whole),
        "env_steps_per_second": trial.env_steps / statistics.median(whole),
        "evaluation_tasks": evaluation_tasks,
        "evaluation_seconds": curve.seconds,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result)
    for name, value in result.items():
        if name.endswith(("median", "seconds", "second", "tasks")):
            console.print(
                f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"
            )
    shares = {name: medians[name] / statistics.median(whole) for name in ("step", "act", "update")}
    shares["rest"] = 1 - sum(shares.values())
    console.print("shares: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))


def measure_stepping(
    env: str, *, num_envs: int, num_workers: int, steps: int, repeats: int, output: Path
) -> None:
    """Time random actions in worker processes, in one process, and in Gymnasium's AsyncVectorEnv.

    For comparison, equally many independent processes step their share of the slots without
    waiting for each other: no exchange between processes can be faster, and how much faster two
    cores are than one differs between machines. All ways to step take turns, and the medians of
    the repeats are reported. If the tasks are Meta-World's, Gymnasium steps the official
    package's environments.

    Args:
        env: the name of a task distribution whose environments are simulators.
        num_envs: the number of environments.
        num_workers: the number of worker processes; Gymnasium has one per environment.
        steps: the number of steps of every environment in one repeat.
        repeats: the number of repeats of each way to step.
        output: the JSON file to write the results to.
    """
    tasks = registry.make(env)
    drawn = tasks.sample(seeding.numpy_generator(0), num_envs, "train")
    make = getattr(tasks, "make_official", tasks.make)
    makers = [functools.partial(make, task) for task in drawn]
    space = batch_space(tasks.action_space, num_envs)
    space.seed(0)
    actions = [space.sample() for _ in range(steps)]
    with _Apart(tasks, drawn, actions, num_workers) as apart:
        kinds: dict[str, Any] = {
            "one_process": tasks.make_vec(num_envs, num_workers=0),
            "workers": tasks.make_vec(num_envs, num_workers=num_workers),
            "gymnasium_async": AsyncVectorEnv(makers),
        }
        times: dict[str, list[float]] = {name: [] for name in (*kinds, "apart")}
        for repeat in range(repeats):
            for name, envs in kinds.items():
                given = None if name == "gymnasium_async" else {"tasks": drawn}
                envs.reset(seed=repeat, options=given)
                times[name].append(_seconds_to_step(envs, actions, resets=given is not None))
            times["apart"].append(apart.seconds(repeat))
    for envs in kinds.values():
        envs.close()
    median = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, Any] = {
        "format": 1,
        "env": env,
        "commit": commit(),
        "device": device_name("cpu"),
        "num_envs": num_envs,
        "num_workers": num_workers,
        "steps_per_second": {k: num_envs * steps / v for k, v in median.items()},
        "times_one_process": median["one_process"] / median["workers"],
        "times_gymnasium_async": median["gymnasium_async"] / median["workers"],
        "overhead": median["workers"] * num_workers / median["one_process"] - 1,
        "overhead_of_hand_over": median["workers"] / median["apart"] - 1,
        "seconds": times,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result)
    for name, rate in result["steps_per_second"].items():
        console.print(f"{name}: {rate:,.0f} steps/s")
    for name in (
        "times_one_process",
        "times_gymnasium_async",
        "overhead",
        "overhead_of_hand_over",
    ):
        console.print(f"{name}: {result[name]:.3g}")


def _seconds_to_step(envs: Any, actions: Sequence[Any], *, resets: bool) -> float:
    """Return the seconds that the actions take; ``resets`` restarts episodes that end."""
    started = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = envs.step(action)
        ended = terminated | truncated
        if resets and ended.any():
            envs.reset(options={"reset_mask": ended})
    return time.perf_counter() - started


class _Apart:
    """Independent processes that each step a part of the slots, and wait only at the start."""

    def __init__(
        self,
        distribution: TaskDistribution,
        tasks: Sequence[Task],
        actions: Sequence[Any],
        processes: int,
    ) -> None:
        context = multiprocessing.get_context("fork")  # Safe: no threads run yet.
        barrier = self._barrier = context.Barrier(processes)  # The attribute keeps it alive.
        self._processes, self._pipes = [], []
        for k in range(processes):
            ours, theirs = context.Pipe()
            part = slice(k * len(tasks) // processes, (k + 1) * len(tasks) // processes)
            arguments = (distribution, tasks[part], [a[part] for a in actions], barrier, theirs)
            self._processes.append(context.Process(target=_step_apart, args=arguments))
            self._processes[-1].start()
            self._pipes.append(ours)

    def seconds(self, seed: int) -> float:
        """Take all actions, and return the seconds that the slowest process needs."""
        for pipe in self._pipes:
            pipe.send(seed)
        return float(max(pipe.recv() for pipe in self._pipes))

    def __enter__(self) -> _Apart:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def _step_apart(
    distribution: TaskDistribution,
    tasks: Sequence[Task],
    actions: Sequence[Any],
    barrier: Any,
    pipe: Any,
) -> None:
    envs = distribution.make_vec(len(tasks), num_workers=0)
    while True:
        envs.reset(seed=pipe.recv(), options={"tasks": tasks})
        barrier.wait()
        pipe.send(_seconds_to_step(envs, actions, resets=True))


def measure_classes(env: str, *, steps: int, output: Path) -> None:
    """Time each class of Meta-World in one process: here, officially, and MuJoCo's physics alone.

    The three take turns of 50 random actions each. Processor time is measured, so that other work
    on the machine has little influence.

    Args:
        env: the name of Meta-World tasks.
        steps: the number of steps of each class and each of the three.
        output: the JSON file to write the results to.

    Raises:
        UserError: if the tasks are not Meta-World's.
    """
    tasks: Any = registry.make(env)
    if not hasattr(tasks, "make_official"):
        raise bad_option("--env", env, "tasks of Meta-World")
    rng, turn = seeding.numpy_generator(0), 50
    classes = {}
    sides: tuple[Split, ...] = ("train", "test")  # Validation has the training classes.
    for split in sides:
        for task in tasks.tasks(split)[: len(tasks.goals[split])]:
            ours, official = tasks.make(task), tasks.make_official(task)
            used = {"official": 0.0, "here": 0.0, "physics": 0.0}
            resets = {"official": [0.0], "here": [0.0]}
            ours.reset()
            for _ in range(max(1, steps // turn)):
                actions = rng.uniform(-1, 1, (turn, 4)).astype("float32")
                for name, subject in (("official", official), ("here", ours)):
                    started = time.process_time()
                    subject.reset()
                    resets[name].append(time.process_time() - started)
                    started = time.process_time()
                    for action in actions:
                        subject.step(action)
                    used[name] += time.process_time() - started
                model, data = ours.unwrapped.model, ours.unwrapped.data
                started = time.process_time()
                for _ in range(turn):
                    mujoco.mj_step(model, data, nstep=ours.unwrapped.frame_skip)
                    mujoco.mj_forward(model, data)
                used["physics"] += time.process_time() - started
            reset = {name: statistics.median(values[1:]) for name, values in resets.items()}
            classes[task["cls"]] = {
                "microseconds": {k: 1e6 * v / steps for k, v in used.items()},
                "times_official": used["official"] / used["here"],
                "physics_share": used["physics"] / used["here"],
                "times_official_reset": reset["official"] / reset["here"],
            }
            ours.close()
            official.close()
            console.print(
                f"{task['cls']}: {classes[task['cls']]['times_official']:.2f} x official, "
                f"physics {classes[task['cls']]['physics_share']:.0%}"
            )
    result = {"format": 1, "env": env, "commit": commit(), "device": device_name("cpu")}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result | {"steps": steps, "classes": classes})
    for key in ("times_official", "physics_share", "times_official_reset"):
        values = sorted((float(cast(Any, c[key])), name) for name, c in classes.items())
        middle = statistics.median(value for value, _ in values)
        console.print(f"{key}: median {middle:.3g}, least {values[0][0]:.3g} ({values[0][1]})")


def _fields(kind: Any, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of an agent's options, read from JSON.

    Args:
        kind: the class of the agent's config.
        given: the options and their values as text.

    Raises:
        UserError: if there is no such option, or its value has another type.
    """
    known = option_values(kind())
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise UserError(f"--config: unknown setting {name!r}; {near_matches(name, known)}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            raise bad_option(f"--config {name}", text, "a value in JSON") from None
        values[name] = tuple(value) if isinstance(value, list) else value
        default = known[name]
        same = (int, float) if isinstance(default, float) else type(default)
        if default is not None and not isinstance(values[name], same):
            raise bad_option(f"--config {name}", text, f"a value of the same type as {default}")
    return values


PROGRAMS = {
    "speed": (Speed, measure_speed),
    "stepping": (Stepping, measure_stepping),
    "classes": (Classes, measure_classes),
}
"""Subcommand -> the class of its options, and the function that is called with them."""

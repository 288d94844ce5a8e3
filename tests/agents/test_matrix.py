"""Every registered agent with every core, head and other choice, on every kind of actions.

The choices are read from the registry and from the types of the configs' fields, so that a new
agent, core or head is tested once it can be chosen.
"""

import copy
import functools
import itertools
import json
from typing import Annotated, Literal, NamedTuple, get_args, get_origin

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree
from uneven import Uneven

import metarl
from metarl import registry
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial, torch_generator
from metarl.learning import distributions
from metarl.learning.cores import CORES, CoreConfig, make_core
from metarl.learning.heads import HEADS, HeadConfig, make_head
from metarl.options import field_types, option_paths, with_options
from metarl.seeding import Phase
from metarl.stepping.actions import ActionCodec

ACTIONS = {
    "discrete": Uneven(discrete=True),
    "box": Uneven(discrete=False),
    "choices": Uneven("choices"),
    "mixed": Uneven("mixed"),
}
PIXELS = {name: Uneven(tasks, pixels=True) for name, tasks in (("discrete", True), ("box", False))}
"""The same with images."""
OF_IMAGES = {("encoder", "cnn"), ("adapts", "all")}
"""Choices that there are where observations are images."""
STRUCTURE = ("core", "head")
"""Options of which all combinations are tested; others are tested one at a time."""
NEEDS = {
    ("std", "state"): {"max_std": 2.0},
    ("positions", "sinusoidal"): {"core": "transformer"},
    ("positions", "learned"): {"core": "transformer"},
    ("aggregate", "max"): {"core": "aggregator"},
    ("aggregate", "mean"): {"core": "aggregator"},
    ("straight_through", True): {"core": "aggregator"},
}
"""Options without which a choice is refused."""
IN_CHUNKS = [
    {"core": "fast-weights"},
    {"core": "aggregator"},
    {"core": "transformer", "window": 2},
    {"core": "transformer", "window": 2, "head": "hyper", "positions": "learned"},
]
"""Structures beside the default one that cut trials into chunks."""
PAIRS = [
    *(
        {"core": "fast-weights", name: value}
        for name, value in (
            ("normalize_observations", True),
            ("baseline", "linear"),
            ("std", "state"),
        )
    ),
    *(
        {"head": "hyper", name: value}
        for name, value in (
            ("normalize_observations", True),
            ("baseline", "linear"),
            ("encoder", "cnn"),
        )
    ),
    {"core": "transformer", "head": "hyper", "std": "state"},
    {"core": "transformer", "encoder": "cnn"},
    {"core": "graph", "encoder": "cnn"},
    {"core": "aggregator", "head": "hyper", "encoder": "cnn"},
]
"""Choices that meet in code: structures, and what else the heads and the encoder are made of."""
NUMBERS = {"chunk_length": (3,), "tasks_per_chunk": (2,)}
"""Values of options that are no choices between kinds, and yet lead to code of their own."""
SMALL = {
    "tasks_per_update": 3,
    "episodes_per_trial": 2,
    "episodes_per_adaptation": 2,
    "num_adaptations": 1,
    "hidden_size": 4,
    "hidden_sizes": (4,),
    "num_minibatches": 2,
    "num_epochs": 2,
    "learning_rate": 0.03,
    "target_kl": None,
    "episodes_per_task": 2,
    "buffer_size": 20,
    "learning_starts": 2,
}
REFUSED = {
    *(("sac-multitask", kind) for kind in ("discrete", "choices", "mixed")),
    ("ppo-multitask", "mixed"),
}
"""Kinds of actions that an agent does not take."""


class Case(NamedTuple):
    """An agent, the choices that are not its defaults, and the kind of actions."""

    agent: str
    choices: tuple[tuple[str, object], ...]
    action: str

    def __str__(self):
        chosen = [f"{name}={value}" for name, value in self.choices]
        return " ".join([self.agent, *chosen, self.action])


def literals(hint):
    """Return what a field of a config chooses between, if it does."""
    if hint is bool:
        return (False, True)
    if get_origin(hint) is Annotated:
        return literals(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(value for part in get_args(hint) for value in literals(part))


def choices(kind):
    """Return the values of every option of a config's class that is a choice."""
    found = {}
    for name, path in option_paths(kind).items():
        holder = functools.reduce(lambda own, field: field_types(own)[field], path[:-1], kind)
        values = literals(field_types(holder)[path[-1]])
        if values or name in NUMBERS:
            found[name] = values or NUMBERS[name]
    return found


def cases():
    for agent in sorted(registry.agents()):
        found = choices(registry.agent_class(agent).Config)
        whole = [
            [(name, value) for value in found.pop(name)] for name in STRUCTURE if name in found
        ]
        others = [(name, value) for name, values in found.items() for value in values]
        single = [(other,) for other in others if not is_default(agent, other)]
        if "core" in choices(registry.agent_class(agent).Config):
            single += [(("chunk_length", 3), *structure.items()) for structure in IN_CHUNKS]
            single += [tuple(pair.items()) for pair in PAIRS]
        for chosen in [*itertools.product(*whole), *single]:
            # Composed actions are in code of their own in the heads, whatever else is chosen.
            for action in ACTIONS if chosen not in single else ("discrete", "box"):
                if (agent, action) not in REFUSED:
                    yield Case(agent, chosen, action)


def is_default(agent, choice):
    config = registry.agent_class(agent).Config()
    return not needs(choice) and with_options(config, **dict([choice])) == config


def needs(choice):
    return NEEDS.get(choice, {})


def options(chosen):
    needed = (needs(choice) for choice in chosen.items())
    return functools.reduce(lambda a, b: b | a, needed, chosen)


def tasks_of(case):
    return (PIXELS if OF_IMAGES.intersection(case.choices) else ACTIONS)[case.action]


def make(case, seed=1, **more):
    kind = registry.agent_class(case.agent)
    known = option_paths(kind.Config)
    values = {name: x for name, x in (SMALL | more).items() if name in known}
    config = with_options(kind.Config(), **values, **options(dict(case.choices)))
    return kind(config, metarl.TaskSpec.of(tasks_of(case)), seed=seed)


def trial_of(agent, case, iteration):
    tasks, n = tasks_of(case), agent.tasks_per_update
    batch = tasks.sample(np.random.default_rng(iteration), n, "train")
    envs = tasks.make_vec(n * (1 if agent.shape.sequential else agent.shape.episodes_per_round))
    keys = TrialKeys(0, Phase.TRAIN, iteration, n)
    return run_trial(agent, envs, batch, shape=agent.shape, keys=keys)


class Training(NamedTuple):
    """Two iterations: trial and state of one of them, and all there is of the other."""

    first: object
    between: tuple
    trial: object
    metrics: dict
    after: tuple


def train(case):
    agent = make(case)
    first = trial_of(agent, case, 0)
    agent.update(first, torch_generator(0), 0.0)
    between = copy.deepcopy(agent.state())
    trial = trial_of(agent, case, 1)
    metrics = agent.update(trial, torch_generator(1), 0.5)
    return Training(first, between, trial, metrics, copy.deepcopy(agent.state()))


trained = functools.cache(train)


def assert_equal(a, b):
    x, y = pytree.tree_leaves(a), pytree.tree_leaves(b)
    assert len(x) == len(y)
    for p, q in zip(x, y, strict=True):
        assert torch.equal(p, q) if torch.is_tensor(p) else p == q


def assert_same(a, b):
    assert_equal(a.trial.rounds, b.trial.rounds)
    assert_equal(a.trial.context, b.trial.context)
    assert a.metrics == b.metrics
    assert_equal(a.after, b.after)


EVERY = pytest.mark.parametrize("case", list(cases()), ids=str)


@EVERY
def test_equal_seeds_give_equal_bits_and_every_update_changes_something(case):
    first, second = trained(case), train(case)
    assert_equal(first.between, second.between)
    assert_same(first, second)
    with pytest.raises(AssertionError):
        assert_equal(first.between[0], first.after[0])
    with pytest.raises(AssertionError):
        assert_equal(make(case).state(), make(case, seed=2).state())


@EVERY
def test_an_agent_that_is_loaded_goes_on_bit_for_bit(case):
    known = trained(case)
    agent = make(case, seed=2)
    tensors, extra = copy.deepcopy(known.between)
    agent.load_state(tensors, json.loads(json.dumps(extra)))
    if hasattr(agent, "recall"):
        agent.recall([known.first._replace(context=None)])
    trial = trial_of(agent, case, 1)
    metrics = agent.update(trial, torch_generator(1), 0.5)
    assert_same(known, Training(known.first, known.between, trial, metrics, agent.state()))


def is_clipped(case):
    return "clip" in option_paths(registry.agent_class(case.agent).Config)


@pytest.mark.parametrize("case", [case for case in cases() if is_clipped(case)], ids=str)
def test_the_first_step_of_an_update_has_ratio_one_and_no_kl(case):
    """What an update computes of whole sequences is what acting computed step by step.

    Neither estimate of the KL divergence is negative at any step, so that a mean of zero means
    that no step's probability differs.
    """
    known = trained(case)
    agent = make(case, seed=2, num_epochs=1, num_minibatches=1)
    agent.load_state(*copy.deepcopy(known.between))
    first, second = (agent.update(known.trial, torch_generator(1), 0.5) for _ in range(2))
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert first["clip_fraction"] == 0
    assert second["kl"] > 1e-5  # the policy has moved


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("core", CORES)
def test_acting_one_step_at_a_time_equals_the_whole_sequence(core, head, action):
    generator = torch.Generator().manual_seed(0)
    codec = ActionCodec(ACTIONS[action].action_space)
    memory = make_core(CoreConfig(kind=core, hidden_size=5), 4, codec, generator, 8)
    policy = make_head(HeadConfig(kind=head), memory, 4, codec, generator)
    for parameter in policy.parameters():  # A hypernetwork begins without the summary.
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    inputs = torch.randn(3, 8, 4 + codec.size + 2, generator=generator)
    state, active = memory.begin(3), torch.ones(3, dtype=torch.bool)
    summary = memory.sequence(inputs, memory.recomputed(torch.zeros(3, dtype=torch.long)))
    whole, value = policy(summary, inputs[..., :4])
    actions = torch.ones(3, 8, *codec.shape)
    expected = distributions.log_prob(whole, actions)
    for t in range(8):
        with torch.no_grad():
            summary, state = memory.step(inputs[:, t], state, active)
        step, now = policy(summary.unsqueeze(1), inputs[:, t : t + 1, :4])
        found = distributions.log_prob(step, actions[:, t : t + 1])[:, 0]
        torch.testing.assert_close(found, expected[:, t], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(now[:, 0], value[:, t], atol=1e-5, rtol=1e-5)


def test_every_core_can_be_chosen_and_the_matrix_has_every_choice():
    assert set(literals(field_types(CoreConfig)["kind"])) == set(CORES)
    every = [str(case) for case in cases()]
    assert len(set(every)) == len(every)
    for agent in registry.agents():
        for name, values in choices(registry.agent_class(agent).Config).items():
            config = registry.agent_class(agent).Config()
            for value in values:
                shown = f"{name}={value}" in " ".join(every).split()
                assert shown or with_options(config, **{name: value}) == config

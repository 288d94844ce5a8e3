"""Models of Stable-Baselines3 inside agents: the buffers that it would have filled itself."""

import contextlib
import copy
import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper
from uneven import Uneven

import metarl
from metarl.agents.ppo_finetune import PPOFinetune
from metarl.agents.ppo_multitask import PPOMultitask, PPOMultitaskConfig
from metarl.agents.ppo_scratch import PPOScratch
from metarl.agents.sac_multitask import SACMultitask, SACMultitaskConfig
from metarl.errors import DivergenceError, UserError
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.experience.data import Timestep, episodes_of
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial, torch_generator
from metarl.learning.normalization import ObservationNormalizer
from metarl.options import with_options
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train as train_run
from metarl.sb3.models import Transitions, fill_replay, fill_rollouts, make_ppo, seeded, train
from metarl.seeding import LaneGenerator, Phase
from metarl.stepping.actions import ActionCodec
from metarl.stepping.options import Workers

KINDS = {"discrete": Uneven(True), "box": Uneven(False), "choices": Uneven("choices")}


def ppo(tasks, **options):
    return make_ppo(
        2,
        ActionCodec(tasks.action_space),
        ObservationNormalizer(2),
        seed=3,
        device=torch.device("cpu"),
        hidden_sizes=[8],
        activation="tanh",
        initial_std=0.7,
        batch_size=16,
        n_epochs=2,
        gamma=0.9,
        gae_lambda=0.8,
        **options,
    )


class PolicyUnits(VecEnvWrapper):
    """Takes a Box's actions in policy units, as agents do, and remembers what happened."""

    def __init__(self, venv):
        space = venv.action_space
        self.codec = ActionCodec(space)
        if isinstance(space, gym.spaces.Box):
            space = gym.spaces.Box(-1, 1, space.shape, np.float32)
        super().__init__(venv, action_space=space)
        self.seen = []

    def reset(self):
        self.observation = self.venv.reset()
        return self.observation

    def step_async(self, actions):
        self.actions = actions
        numbers = isinstance(self.action_space, gym.spaces.Box)
        self.venv.step_async(self.codec.to_env(actions) if numbers else actions)

    def step_wait(self):
        observation, reward, ended, infos = self.venv.step_wait()
        self.seen.append((self.observation, reward.copy(), ended, infos))
        self.observation = observation
        return observation, reward, ended, infos


class Keep(BaseCallback):
    """Copies the buffer when Stable-Baselines3 has filled it."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.buffer = copy.deepcopy(self.model.rollout_buffer)


def episodes_in(buffer, seen):
    """Return the whole episodes that a buffer holds, as ours, and where their steps are."""
    fields = ("observation", "action", "taken", "reward", "terminated", "truncated", "valid")
    rows, places, final = [], [], []
    for lane in range(buffer.n_envs):
        start = 0
        for t, (_, _, ended, infos) in enumerate(seen):
            if not ended[lane]:
                continue
            steps = range(start, t + 1)
            cut = infos[lane]["TimeLimit.truncated"]
            last = [s == t for s in steps]
            rows.append(
                {
                    "observation": buffer.observations[steps, lane],
                    "action": buffer.actions[steps, lane],
                    "reward": np.array([seen[s][1][lane] for s in steps]),
                    "terminated": np.array(last) & (not cut),
                    "truncated": np.array(last) & cut,
                    "valid": np.ones(len(steps), bool),
                }
            )
            rows[-1]["taken"] = rows[-1]["action"]
            places.append([(s, lane) for s in steps])
            final.append(infos[lane]["terminal_observation"])
            start = t + 1
    longest = max(map(len, places))

    def padded(name):
        missing = [longest - len(row[name]) for row in rows]
        parts = [
            np.concatenate([row[name], np.zeros((m, *row[name].shape[1:]), row[name].dtype)])
            for row, m in zip(rows, missing, strict=True)
        ]
        return torch.from_numpy(np.stack(parts))[None]

    tensors = {name: padded(name) for name in fields}
    if tensors["action"].dtype == torch.int64:
        tensors |= {name: tensors[name].squeeze(-1) for name in ("action", "taken")}
    return episodes_of(tensors, torch.from_numpy(np.stack(final))[None]), places


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_are_those_that_stable_baselines3_gathers_itself(kind):
    tasks = KINDS[kind]
    with contextlib.closing(metarl.sb3.vec_env(tasks, 4, workers=Workers(num_workers=0))) as envs:
        watched, keep = PolicyUnits(envs), Keep()
        own = PPO(
            "MlpPolicy",
            watched,
            n_steps=30,
            batch_size=8,
            n_epochs=1,
            gamma=0.9,
            gae_lambda=0.8,
            learning_rate=1e-30,
            policy_kwargs={"net_arch": {"pi": [8], "vf": [8]}},
            seed=0,
        )
        before = copy.deepcopy(own.policy.state_dict())
        own.learn(120, callback=keep)
    theirs = keep.buffer
    episodes, places = episodes_in(theirs, watched.seen)
    assert len(places) > 20 and len({len(place) for place in places}) > 2
    model = ppo(tasks)
    model.policy.load_state_dict(before, strict=False)
    fill_rollouts(model, Transitions(episodes, torch.zeros(1, 0)))
    ours = model.rollout_buffer
    # Ours goes through the steps time by time, theirs keeps lanes.
    order = sorted(
        ((t, e, place) for e, steps in enumerate(places) for t, place in enumerate(steps)),
    )
    index = tuple(np.array([place for _, _, place in order]).T)
    assert ours.full and ours.buffer_size == len(order)
    names = ("observations", "actions", "values", "log_probs", "rewards", "advantages", "returns")
    for name in names:
        got, expected = getattr(ours, name)[:, 0], getattr(theirs, name)[index]
        np.testing.assert_allclose(got, expected, atol=2e-6, err_msg=name)


def trial_of(agent, tasks, iteration=0):
    drawn = tasks.sample(np.random.default_rng(iteration), agent.tasks_per_update, "train")
    envs = tasks.make_vec(len(drawn) * agent.shape.episodes_per_round)
    keys = TrialKeys(0, Phase.TRAIN, iteration, len(drawn))
    return run_trial(agent, envs, drawn, shape=agent.shape, keys=keys)


def test_a_replay_buffer_equals_one_that_got_the_steps_one_after_another():
    tasks = KINDS["box"]
    agent = PPOMultitask(
        PPOMultitaskConfig(tasks_per_update=3, episodes_per_task=4), metarl.TaskSpec.of(tasks)
    )
    model = SAC("MlpPolicy", PlainEnv(), buffer_size=17, seed=0)
    own = model.replay_buffer
    theirs = ReplayBuffer(17, own.observation_space, own.action_space)
    for iteration in range(3):
        trial = trial_of(agent, tasks, iteration)
        fill_replay(own, Transitions.of(trial.rounds, trial.context))
        for task in range(3):
            for number in range(4):
                x = type(trial.rounds[0])(
                    *(
                        field[task, number] if torch.is_tensor(field) else field
                        for field in trial.rounds[0]
                    )
                )
                length = int(x.valid.sum())
                for t in range(length):
                    after = x.observation[t + 1] if t + 1 < length else x.final_observation
                    cut = bool(x.truncated[t] and not x.terminated[t])
                    done = bool(x.truncated[t] or x.terminated[t])
                    theirs.add(
                        x.observation[t].numpy(),
                        after.numpy(),
                        x.taken[t].numpy(),
                        np.array([x.reward[t]]),
                        np.array([done]),
                        [{"TimeLimit.truncated": cut}],
                    )
        assert (own.pos, own.full) == (theirs.pos, theirs.full)
        for name in ("observations", "next_observations", "actions", "rewards", "dones"):
            assert np.array_equal(getattr(own, name), getattr(theirs, name)), name
        assert np.array_equal(own.timeouts, theirs.timeouts)
    assert own.full


class PlainEnv(gym.Env):
    """Has the spaces of the tasks, in policy units."""

    observation_space = KINDS["box"].observation_space
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)


def test_global_generators_are_seeded_and_put_back():
    def draws():
        return random.random(), float(np.random.random()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(7):
        inside = draws()
    assert draws() == expected
    with seeded(7):
        assert draws() == inside
    with pytest.raises(ZeroDivisionError), seeded(8):
        assert draws() != inside
        raise ZeroDivisionError
    assert draws() != expected  # it went on where it was


def test_a_parameter_that_is_not_finite_ends_the_training():
    model = ppo(KINDS["box"])
    model.train = lambda: model.policy.log_std.data.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="the parameter log_std of PPO is not finite"):
        train(model, 0)


@pytest.mark.parametrize("actions", ["discrete", "unbounded"])
def test_sac_refuses_actions_that_are_no_bounded_box(actions):
    tasks = Uneven(True)
    if actions == "unbounded":
        tasks = Uneven(False)
        tasks.action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(UserError, match=r"sac-multitask: got .*; accepted: a bounded Box"):
        SACMultitask(SACMultitaskConfig(), metarl.TaskSpec.of(tasks))


def test_sac_acts_at_random_until_learning_starts_and_greedily_never():
    tasks = KINDS["box"]
    agent = SACMultitask(
        with_options(SACMultitaskConfig(), tasks_per_update=4, learning_starts=30, buffer_size=99),
        metarl.TaskSpec.of(tasks),
    )
    first = trial_of(agent, tasks)
    metrics = agent.update(first, torch_generator(0), 0.0)
    assert set(metrics) == {"buffer_steps"} and first.env_steps < 30
    spread = torch.cat([trial_of(agent, tasks, k).rounds[0].action.flatten() for k in range(9)])
    assert spread.abs().max() > 0.95
    while "actor_loss" not in metrics:
        metrics = agent.update(first, torch_generator(0), 0.0)
    assert agent.num_steps >= 30
    before = [p.clone() for p in agent.model.actor.parameters()]
    agent.update(first, torch_generator(0), 0.0)
    assert not all(map(torch.equal, before, agent.model.actor.parameters()))


TASKS = Uneven(False)
SHAPE = metarl.TrialShape(6, 2, sequential=False)


def test_ppo_from_nothing_trains_each_task_as_it_would_alone():
    """One task's curve is the same whatever tasks are beside it, and parameters differ by task."""
    scratch = PPOScratch(TASKS, SHAPE, experience=1, hidden_size=8, num_epochs=2)
    assert scratch.shape == SHAPE
    both = evaluate_adaptation(scratch, TASKS, num_tasks=3, num_episodes=18)
    alone = evaluate_adaptation(scratch, TASKS, num_tasks=3, num_episodes=18, workers=Workers(1))
    assert np.array_equal(both.returns, alone.returns)
    drawn = TASKS.sample(np.random.default_rng(0), 2, "test")
    keys = TrialKeys(0, Phase.EVALUATE, 0, 2)
    trial = run_trial(scratch, TASKS.make_vec(12), drawn, shape=SHAPE, keys=keys)
    weights = trial.context.params["action_net.weight"]
    assert not torch.equal(weights[0], weights[1])
    assert trial.context.num_rounds.tolist() == [2, 2]
    metarl.check_adapter(scratch, TASKS)


def test_a_round_of_ppo_on_one_task_is_stable_baselines3_s_own_training():
    scratch = PPOScratch(TASKS, SHAPE, experience=1, hidden_size=8, num_epochs=3)
    model = copy.deepcopy(scratch.model)
    drawn = TASKS.sample(np.random.default_rng(0), 1, "test")
    keys = TrialKeys(0, Phase.EVALUATE, 0, 1)
    trial = run_trial(scratch, TASKS.make_vec(6), drawn, shape=SHAPE, keys=keys)
    for number, episodes in enumerate(trial.rounds[:2]):
        fill_rollouts(model, Transitions(episodes, torch.zeros(1, 0)))
        train(model, int(metarl.seeding.derive(0, number)) % 2**63)
    for name, expected in model.policy.named_parameters():
        assert torch.equal(trial.context.params[name][0], expected), name


NORM = ("mean", "scale")


def test_scratch_normalises_observations_by_those_of_the_task_s_own_rounds():
    options = {"experience": 1, "hidden_size": 8, "num_epochs": 1}
    drawn = TASKS.sample(np.random.default_rng(0), 2, "test")
    trials = []
    for normalize in (False, True):
        scratch = PPOScratch(TASKS, SHAPE, normalize_observations=normalize, **options)
        keys = TrialKeys(0, Phase.EVALUATE, 0, 2)
        trials.append(run_trial(scratch, TASKS.make_vec(12), drawn, shape=SHAPE, keys=keys))
    plain, scaled = trials
    assert torch.equal(plain.rounds[0].action, scaled.rounds[0].action)  # nothing is known yet
    assert plain.context.scaling["count"].tolist() == [0, 0]
    for task in (0, 1):
        seen = torch.cat([x.observation[task][x.valid[task]] for x in scaled.rounds[:2]]).double()
        torch.testing.assert_close(scaled.context.scaling["mean"][task], seen.mean(0))
        deviation = seen.std(0, correction=0).clamp(min=0.01).float()
        torch.testing.assert_close(scaled.context.scaling["scale"][task], deviation)
    params, (mean, scale) = scaled.context.params, (scaled.context.scaling[k] for k in NORM)
    seen = torch.randn(2, 3, mean.shape[-1])
    x = ((seen - mean[:, None].float()) / scale[:, None]).clamp(-10, 10)
    for name in ("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"):
        x = x @ params[f"{name}.weight"].mT + params[f"{name}.bias"][:, None]
        x = x if name == "action_net" else x.tanh()
    flags = torch.ones(2, 3, dtype=torch.bool)
    timestep = Timestep(seen, torch.zeros(2, 3, 2), torch.zeros(2, 3), flags, flags, flags)
    keys = np.zeros((2, 3), np.uint64)
    action, _, _ = scratch.act(scaled.context, timestep, LaneGenerator(keys, keys), greedy=True)
    torch.testing.assert_close(action, x)


def test_scratch_gets_ten_times_the_experience_of_the_others():
    for shape, rounds in ((SHAPE, (6, 30)), (metarl.TrialShape(5), (1, 50))):
        made = PPOScratch(TASKS, shape).shape
        assert (made.episodes_per_round, made.num_rounds) == rounds
        assert made.num_episodes == 10 * shape.num_episodes and not made.sequential


def test_rounds_may_have_more_episodes_than_those_of_the_agent_it_is_compared_with():
    for shape, each, rounds in ((SHAPE, 9, 20), (metarl.TrialShape(6), 3, 20), (SHAPE, 18, 10)):
        made = PPOScratch(TASKS, shape, episodes_per_round=each).shape
        assert made == metarl.TrialShape(each, rounds - 1, sequential=False)
    for each in (-1, 4, 36):
        with pytest.raises(UserError, match=f"episodes_per_round: got {each}; .* the 18 "):
            PPOScratch(TASKS, SHAPE, episodes_per_round=each)


@pytest.mark.parametrize(("option", "value"), [("experience", 0), ("activation", "sine")])
def test_scratch_refuses_options_in_one_line(option, value):
    with pytest.raises(UserError, match=f"ppo-scratch: {option}: got {value!r}"):
        PPOScratch(TASKS, SHAPE, **{option: value})


@pytest.fixture(scope="module")
def multitask(tmp_path_factory):
    config = with_options(
        TrainConfig(),
        env="navigation:horizon=5",
        iterations=2,
        evaluation_tasks=4,
        validation_tasks=2,
        num_workers=0,
        run_dir=tmp_path_factory.mktemp("runs") / "multitask",
    )
    agent = PPOMultitaskConfig(tasks_per_update=3, episodes_per_task=4, hidden_sizes=(8, 4))
    return train_run(Settings("ppo-multitask", agent, config))


def test_fine_tuning_begins_with_the_run_s_policy(multitask):
    tasks = metarl.make("navigation:horizon=5")
    tuned = PPOFinetune(tasks, SHAPE, run=str(multitask.directory))
    curve = evaluate_adaptation(tuned, tasks, num_tasks=4, num_episodes=6, greedy=True)
    agent = metarl.load(multitask.directory)
    plain = evaluate_adaptation(agent, tasks, num_tasks=4, num_episodes=4, greedy=True)
    np.testing.assert_allclose(curve.returns[0], plain.returns[0], rtol=1e-5)
    drawn = tasks.sample(np.random.default_rng(0), 2, "test")
    keys = TrialKeys(0, Phase.EVALUATE, 0, 2)
    trial = run_trial(tuned, tasks.make_vec(12), drawn, shape=SHAPE, keys=keys)
    weights = trial.context.params["action_net.weight"]
    assert not torch.equal(weights, tuned.begin(2).params["action_net.weight"])
    metarl.check_adapter(tuned, tasks)
    assert tuned.num_steps == agent.num_steps == multitask.checkpoint().env_steps > 0


def test_fine_tuning_may_begin_with_more_exploration(multitask):
    tasks = metarl.make("navigation:horizon=5")
    kept, wide = (
        PPOFinetune(tasks, SHAPE, run=str(multitask.directory), initial_std=std).begin(1).params
        for std in (0.0, 0.25)
    )
    assert wide["log_std"].exp().tolist() == [[0.25, 0.25]]
    assert not torch.equal(kept["log_std"], wide["log_std"])
    assert torch.equal(kept["action_net.weight"], wide["action_net.weight"])
    with pytest.raises(UserError, match=r"ppo-finetune: initial_std: got -1\.0; accepted: a pos"):
        PPOFinetune(tasks, SHAPE, run=str(multitask.directory), initial_std=-1.0)


def test_fine_tuning_refuses_other_runs(multitask, tmp_path):
    tasks = metarl.make("navigation:horizon=5")
    with pytest.raises(UserError, match=r"ppo-finetune: got no run; accepted: .*run=DIRECTORY"):
        PPOFinetune(tasks, SHAPE)
    with pytest.raises(UserError, match="nowhere"):
        PPOFinetune(tasks, SHAPE, run=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="got observation space"):
        PPOFinetune(metarl.make("bandit/n10-k5"), SHAPE, run=str(multitask.directory))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_models_train_and_adapt_on_a_gpu_as_on_the_cpu():
    options = {"experience": 1, "hidden_size": 8, "num_epochs": 1, "normalize_observations": True}
    own, other = (
        evaluate_adaptation(
            PPOScratch(TASKS, SHAPE, device=device, **options), TASKS, num_tasks=3, num_episodes=18
        )
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(own.returns, other.returns, rtol=1e-3, atol=1e-3)
    agent = PPOMultitask(
        PPOMultitaskConfig(tasks_per_update=3, episodes_per_task=4),
        metarl.TaskSpec.of(TASKS),
        device="cuda",
    )
    before = [p.clone() for p in agent.policy.parameters()]
    agent.update(trial_of(agent, TASKS), torch_generator(0), 0.0)
    assert not all(map(torch.equal, before, agent.policy.parameters()))

import contextlib

import numpy as np
import pytest
import torch
from fakes import ArrayCounterTasks, CounterTasks, StubAgent, counter_task
from torch.utils import _pytree as pytree

import metarl
from metarl.errors import UserError
from metarl.experience.agent import TrialShape
from metarl.experience.data import Timestep, join_episodes
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import collect, run_trial, torch_generator, torch_threads
from metarl.seeding import Phase

KINDS = pytest.mark.parametrize("family", [CounterTasks, ArrayCounterTasks], ids=["task", "array"])
AGENTS = pytest.mark.parametrize("sequential", [True, False], ids=["sequential", "parallel"])
UNEVEN = [counter_task(1 + i % 3, 2) for i in range(5)]
"""Episodes of 1 to 5 steps, which differ within a task too."""


def keys(tasks, seed=0):
    return TrialKeys(seed, Phase.TRAIN, 0, len(tasks))


def gather(agent, tasks, num_episodes, *, num_envs=None, family=None, greedy=False):
    envs = (family or CounterTasks()).make_vec(num_envs or len(tasks))
    return collect(
        agent,
        envs,
        tasks,
        agent.begin(len(tasks)),
        None,
        num_episodes=num_episodes,
        sequential=agent.shape.sequential,
        keys=keys(tasks).at(0),
        greedy=greedy,
    )


def trial(agent, tasks=UNEVEN, *, num_envs=5, rounds=2, episodes=3, family=None):
    return run_trial(
        agent,
        (family or CounterTasks()).make_vec(num_envs),
        tasks,
        shape=TrialShape(episodes, rounds - 1, agent.shape.sequential),
        keys=keys(tasks),
    )


def assert_equal(a, b):
    x, y = pytree.tree_leaves(a), pytree.tree_leaves(b)
    assert len(x) == len(y)
    assert all(torch.equal(p, q) for p, q in zip(x, y, strict=True))


def seen_by_task(agent, tasks):
    """What the agent saw of every task while it was active, field by field."""
    return [
        Timestep(
            *(
                torch.stack([getattr(t, name)[task, 0] for t in agent.seen if t.active[task, 0]])
                for name in Timestep._fields
            )
        )
        for task in range(len(tasks))
    ]


def pieces(a_trial):
    """Every (task, step of the trial, round, episode, time), by a plain loop."""
    for task in range(len(a_trial.tasks)):
        step = 0
        for episodes in a_trial.rounds:
            for episode in range(episodes.valid.shape[1]):
                for time in range(int(episodes.valid[task, episode].sum())):
                    yield task, step, episodes, episode, time
                    step += 1


@KINDS
@AGENTS
def test_episodes_have_their_shapes_and_mask(family, sequential):
    tasks = [counter_task(1), counter_task(2), counter_task(4)]
    episodes, _, _ = gather(StubAgent(sequential), tasks, 3, num_envs=9, family=family())
    time = torch.arange(4)
    valid = time < torch.tensor([1, 2, 4])[:, None, None].expand(3, 3, 1)
    assert torch.equal(episodes.valid, valid)
    assert episodes.observation.shape == (3, 3, 4, 4)
    assert episodes.action.shape == episodes.taken.shape == (3, 3, 4, 2)
    assert {k: v.shape for k, v in episodes.record.items()} == {
        "context": (3, 3, 4, 2),
        "u": (3, 3, 4),
    }
    assert episodes.final_observation.shape == (3, 3, 4)
    assert torch.equal(episodes.reward, (time + 1) * valid.float())
    last = time == torch.tensor([0, 1, 3])[:, None, None].expand(3, 3, 1)
    assert torch.equal(episodes.terminated, last)
    assert not episodes.truncated.any()


@AGENTS
def test_padding_is_zero(sequential):
    episodes, _, _ = gather(StubAgent(sequential), UNEVEN, 3, num_envs=15)
    assert not episodes.valid.all()
    timed = (*episodes[: episodes._fields.index("record")], *episodes.record.values())
    for x in timed:
        assert not x[~episodes.valid].any()


def test_truncation_is_not_termination():
    tasks = [counter_task(2), counter_task(5)]
    episodes, _, _ = gather(StubAgent(True), tasks, 1, family=CounterTasks(horizon=3))
    assert episodes.terminated[:, 0].tolist() == [[False, True, False], [False] * 3]
    assert episodes.truncated[:, 0].tolist() == [[False] * 3, [False, False, True]]


@KINDS
@AGENTS
def test_experience_does_not_depend_on_the_number_of_slots(family, sequential):
    def experience(num_envs):
        made = trial(StubAgent(sequential), num_envs=num_envs, family=family())
        return made.rounds, made.context

    expected = experience(15)
    for num_envs in (1, 2, 7, 11, 40):
        assert_equal(experience(num_envs), expected)


def test_experience_goes_by_a_tasks_number_not_by_its_place():
    agent = StubAgent(True)
    envs, numbers = CounterTasks().make_vec(5), np.array([3, 0])

    def experience(tasks, which):
        own = TrialKeys(0, Phase.TRAIN, 0, which).at(0)
        context = agent.begin(len(tasks))
        options = {"num_episodes": 2, "sequential": True, "keys": own}
        return collect(agent, envs, tasks, context, None, **options)[0]

    both = experience([UNEVEN[i] for i in numbers], numbers)
    everyone = experience(UNEVEN, np.arange(5))
    length = both.valid.shape[2]
    assert torch.equal(both.action, everyone.action[numbers][:, :, :length])
    assert torch.equal(both.final_observation, everyone.final_observation[numbers])


def test_episode_does_not_depend_on_how_many_follow():
    few, _, _ = gather(StubAgent(False), UNEVEN, 2, num_envs=11)
    many, _, _ = gather(StubAgent(False), UNEVEN, 5, num_envs=11)
    length = few.valid.shape[2]
    assert torch.equal(few.action, many.action[:, :2, :length])
    assert not torch.equal(few.action[:, 0], few.action[:, 1])


@AGENTS
def test_every_step_draws_its_own_numbers(sequential):
    made = trial(StubAgent(sequential), num_envs=7, rounds=2)
    drawn = torch.cat([episodes.record["u"][episodes.valid] for episodes in made.rounds])
    assert len(drawn.unique()) == made.env_steps


def test_keys_differ_by_seed_phase_iteration_round_and_task():
    drawn = {
        number
        for seed in (0, 1)
        for phase in Phase
        for iteration in (0, 1)
        for adaptation in (0, 1)
        for part in TrialKeys(seed, phase, iteration, 3).at(adaptation)[:2]
        for number in part.tolist()
    }
    assert len(drawn) == 2 * 4 * 2 * 2 * 2 * 3


def test_last_action_and_reward_reach_the_next_episode_and_the_next_call():
    agent, tasks = StubAgent(True), [counter_task(2)]
    rounds = trial(agent, tasks, num_envs=1, rounds=2, episodes=2).rounds
    (seen,) = seen_by_task(agent, tasks)
    assert seen.boundary.tolist() == [True, False] * 4
    assert seen.trial_start.tolist() == [True] + [False] * 7
    assert seen.previous_reward.tolist() == [0, 1, 2, 1, 2, 1, 2, 1]
    taken = torch.cat([episodes.taken.reshape(4, 2) for episodes in rounds])
    assert torch.equal(seen.previous_action[0], torch.zeros(2))
    assert torch.equal(seen.previous_action[1:], taken[:-1])


def test_collect_carries_the_last_step_in_its_timestep():
    agent, envs, tasks = StubAgent(True), CounterTasks().make_vec(1), [counter_task(3)]
    context, timestep = agent.begin(1), None
    for call in range(2):
        options = {"num_episodes": 1, "sequential": True, "keys": keys(tasks).at(call)}
        episodes, timestep, context = collect(agent, envs, tasks, context, timestep, **options)
        assert torch.equal(timestep.previous_action[0], episodes.taken[0, 0, -1:])
        assert timestep.previous_reward.tolist() == [[3]]
        assert not timestep.active.any()
    assert [float(t.previous_reward) for t in agent.seen] == [0, 1, 2, 3, 1, 2]
    assert context[0, 0].tolist() == [6, 9]


def test_parallel_agents_see_zeros_at_every_episode_start():
    agent = StubAgent(False)
    episodes, timestep, _ = gather(agent, UNEVEN, 4, num_envs=11)
    starts = 0
    for t in agent.seen:
        assert torch.equal(t.trial_start & t.active, t.boundary & t.active)
        first = t.trial_start & t.active
        assert not t.previous_reward[first].any() and not t.previous_action[first].any()
        later = ~t.boundary & t.active
        assert t.previous_reward[later].all()
        starts += int(first.sum())
    assert timestep is None
    assert starts == 5 * 4 and episodes.valid.shape[:2] == (5, 4)


@AGENTS
def test_taken_is_clipped_while_action_is_not(sequential):
    episodes, _, _ = gather(StubAgent(sequential), UNEVEN, 3)
    assert episodes.action.abs().max() > 1
    assert torch.equal(episodes.taken, episodes.action.clamp(-1, 1))
    in_env = torch.tensor([0.0, 2.0]) + torch.tensor([1.0, 2.0]) * episodes.taken
    follows = episodes.valid[:, :, 1:]
    assert torch.allclose(episodes.observation[:, :, 1:, 2:][follows], in_env[:, :, :-1][follows])


@KINDS
@AGENTS
def test_final_observation_is_what_the_last_step_returned(family, sequential):
    episodes, _, _ = gather(StubAgent(sequential), UNEVEN, 3, num_envs=7, family=family())
    length = episodes.valid.sum(-1)
    assert torch.equal(episodes.final_observation[..., 0], length.float())
    assert torch.equal(episodes.final_observation[..., 1], episodes.observation[:, :, 0, 1])
    assert len(episodes.observation[:, :, 0, 1].unique()) == 15  # each episode has its own seed
    index = (length - 1)[..., None, None].expand(-1, -1, 1, 2)
    taken = episodes.taken.gather(2, index).squeeze(2)
    in_env = torch.tensor([0.0, 2.0]) + torch.tensor([1.0, 2.0]) * taken
    assert torch.allclose(episodes.final_observation[..., 2:], in_env)


def test_metrics_by_hand():
    tasks = [counter_task(1), counter_task(3), counter_task(9)]  # the last is cut off after 4
    episodes, _, _ = gather(StubAgent(True), tasks, 2, family=CounterTasks(horizon=4))
    expected = {
        "return": [[1, 1], [6, 6], [10, 10]],
        "length": [[1, 1], [3, 3], [4, 4]],
        "success": [[1, 1], [1, 1], [0, 0]],
        "clock": [[1, 1], [2, 2], [2.5, 2.5]],
    }
    assert {name: metric.tolist() for name, metric in episodes.metrics.items()} == expected


def test_success_at_any_step_counts():
    class Once(CounterTasks):
        class env_class(CounterTasks.env_class):  # noqa: N801
            def step(self, action):
                *result, info = super().step(action)
                return *result, info | {"success": float(info["clock"] == 2)}

    tasks = [counter_task(1), counter_task(4)]
    episodes, _, _ = gather(StubAgent(True), tasks, 1, family=Once())
    assert episodes.metrics["success"].tolist() == [[0], [1]]


def test_env_steps_counts_valid_steps_of_all_rounds():
    tasks = [counter_task(1), counter_task(3)]
    assert trial(StubAgent(False), tasks, rounds=2, episodes=3).env_steps == 2 * 3 * (1 + 3)


@AGENTS
@pytest.mark.parametrize("rounds", [1, 3])
def test_stream_equals_packing_by_a_plain_loop(sequential, rounds):
    made = trial(StubAgent(sequential), num_envs=3, rounds=rounds)
    stream = made.stream()
    steps = [0] * 5
    before = before_here = None
    for task, step, episodes, episode, time in pieces(made):
        here = (task, episode, time)
        for name in ("observation", "action", "reward", "terminated", "truncated"):
            assert torch.equal(getattr(stream, name)[task, step], getattr(episodes, name)[here])
        for name, values in episodes.record.items():
            assert torch.equal(stream.record[name][task, step], values[here])
        assert bool(stream.boundary[task, step]) == (time == 0)
        assert bool(stream.trial_start[task, step]) == (step == 0)
        previous = torch.zeros(2) if step == 0 else before.taken[before_here]
        assert torch.equal(stream.previous_action[task, step], previous)
        assert stream.previous_reward[task, step] == (
            0 if step == 0 else before.reward[before_here]
        )
        before, before_here = episodes, here
        steps[task] = step + 1
    assert len(set(steps)) > 1
    assert stream.valid.shape == (5, max(steps))
    assert torch.equal(stream.valid, torch.arange(max(steps)) < torch.tensor(steps)[:, None])


def test_stream_of_full_episodes_is_the_episodes_end_to_end():
    tasks = [counter_task(2), counter_task(2)]
    made = trial(StubAgent(True), tasks, num_envs=2, rounds=1, episodes=3)
    stream = made.stream()
    assert stream.valid.all() and stream.valid.shape == (2, 6)
    assert stream.reward.tolist() == [[1, 2, 1, 2, 1, 2]] * 2
    assert stream.boundary.tolist() == [[True, False] * 3] * 2
    assert stream.previous_reward.tolist() == [[0, 1, 2, 1, 2, 1]] * 2


def test_stream_is_what_the_agent_saw_when_it_acted():
    agent = StubAgent(True)
    stream = trial(agent).stream()
    assert not stream.valid.all()
    for task, seen in enumerate(seen_by_task(agent, UNEVEN)):
        length = len(seen.boundary)
        assert length == int(stream.valid[task].sum())
        for name in Timestep._fields[:-1]:
            assert torch.equal(getattr(stream, name)[task, :length], getattr(seen, name)), name


def test_idle_lanes_leave_no_trace():
    made = trial(StubAgent(True), num_envs=5)
    stream, steps = made.stream(), torch.arange(100)
    for task in range(5):
        length = int(stream.valid[task].sum())
        context = stream.record["context"][task, :length]
        assert torch.equal(context[:, 0], steps[:length].float())
        seen = stream.previous_reward[task, :length].cumsum(0)
        assert torch.equal(context[1:, 1], seen[:-1])
        assert made.context[task, 0].tolist() == [length, seen[-1]]


def test_collect_changes_none_of_its_arguments():
    agent, envs = StubAgent(True), CounterTasks().make_vec(2)
    context = agent.begin(5)
    _, timestep, _ = gather(agent, UNEVEN, 1)
    kept = pytree.tree_map(torch.clone, (context, timestep))
    tasks = list(UNEVEN)
    options = {"num_episodes": 2, "sequential": True, "keys": keys(tasks).at(1)}
    collect(agent, envs, tasks, context, timestep, **options)
    assert_equal((context, timestep), kept)
    assert tasks == UNEVEN


def test_adaptation_sees_each_round_and_changes_the_next():
    made = trial(StubAgent(False), num_envs=7, rounds=3)
    expected = torch.zeros(5)
    for episodes in made.rounds:
        first = episodes.record["context"][:, 0, 0, 0]
        assert torch.allclose(first, expected)
        expected = expected + episodes.metrics["return"].mean(1)
    assert torch.allclose(made.context[:, 0, 0], first)  # none after the last round
    assert made.tasks == UNEVEN


def test_greedy_reaches_the_agent():
    episodes, _, _ = gather(StubAgent(True), UNEVEN, 1, greedy=True)
    assert not episodes.record["u"].any()
    assert gather(StubAgent(True), UNEVEN, 1)[0].record["u"].any()


def test_discrete_actions_are_integers():
    tasks = metarl.make("bandit/n3-k2")
    agent, drawn = (
        StubAgent(True, discrete=True),
        tasks.sample(np.random.default_rng(0), 4, "train"),
    )
    episodes, _, _ = gather(agent, drawn, 3, num_envs=3, family=tasks)
    assert episodes.action.shape == (4, 3, 1) and episodes.action.dtype == torch.int64
    assert torch.equal(episodes.action, episodes.taken)
    assert set(episodes.action.flatten().tolist()) == {0, 1}
    assert agent.seen[0].previous_action.tolist() == [[0], [0], [0]]
    assert torch.equal(agent.seen[1].previous_action[:, 0], episodes.action[:3, 0, 0])


def test_join_episodes_pads_times_to_the_longest():
    tasks = [counter_task(2), counter_task(1)]
    short, _, _ = gather(StubAgent(True), tasks, 1)
    long, _, _ = gather(StubAgent(True), [counter_task(1), counter_task(4)], 2)
    joined = join_episodes([short, long])
    assert joined.reward.tolist() == [
        [[1, 2, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]],
        [[1, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 4]],
    ]
    assert torch.equal(joined.valid, joined.reward > 0)
    assert joined.record["context"].shape == (2, 3, 4, 2)
    assert joined.metrics["return"].tolist() == [[3, 1, 1], [1, 10, 10]]
    assert joined.final_observation[:, :, 0].tolist() == [[2, 1, 1], [1, 4, 4]]


def test_join_episodes_of_one_round_is_that_round():
    episodes, _, _ = gather(StubAgent(True), UNEVEN, 2)
    assert_equal(join_episodes([episodes]), episodes)


def test_shape_counts_rounds_episodes_and_points():
    one = TrialShape(5)
    assert (one.num_rounds, one.num_episodes, one.stride) == (1, 5, 1)
    assert one.points == (0, 1, 2, 3, 4)
    rounds = TrialShape(3, 2, sequential=False)
    assert (rounds.num_rounds, rounds.num_episodes, rounds.stride) == (3, 9, 3)
    assert rounds.points == (0, 3, 6)
    assert TrialShape(3, 0, sequential=False).points == (0,)


def test_shape_for_other_numbers_of_episodes():
    assert TrialShape(5).for_episodes(8) == TrialShape(8)
    rounds = TrialShape(3, 1, sequential=False)
    assert rounds.for_episodes(3) == TrialShape(3, 0, sequential=False)
    assert rounds.for_episodes(12) == TrialShape(3, 3, sequential=False)
    for number in (0, 2, 7):
        with pytest.raises(UserError, match=f"got {number}; accepted: a multiple of 3"):
            rounds.for_episodes(number)
    with pytest.raises(UserError, match="got 0; accepted: at least 1"):
        TrialShape(5).for_episodes(0)
    with pytest.raises(ValueError, match="at least one episode"):
        TrialShape(0)


def test_a_trial_in_more_rounds_has_the_same_random_numbers_for_sequential_agents():
    """A trial is cut into rounds where the task changes in between."""
    whole = trial(StubAgent(True), rounds=1, episodes=4)
    cut = trial(StubAgent(True), rounds=2, episodes=2)
    halves = join_episodes(cut.rounds)
    assert torch.equal(whole.rounds[0].action, halves.action)
    assert torch.equal(whole.rounds[0].observation, halves.observation)


def test_an_episode_has_numbers_of_its_own_that_hold_for_all_its_steps():
    class PerEpisode(StubAgent):
        def act(self, context, timestep, generator, greedy=False):
            action, record, context = super().act(context, timestep, generator, greedy)
            return action, record | {"z": self.draw(generator.episode)}, context

    for sequential in (True, False):
        made = trial(PerEpisode(sequential), num_envs=7, rounds=2)
        drawn = []
        for episodes in made.rounds:
            for task, episode in np.ndindex(*episodes.valid.shape[:2]):
                z = episodes.record["z"][task, episode][episodes.valid[task, episode]]
                assert len(z.unique()) == 1
                drawn.append(float(z[0]))
                assert not torch.isin(z, episodes.record["u"]).any()
        assert len(set(drawn)) == len(drawn) == 5 * 2 * 3


def test_stream_has_the_next_observation_of_every_step():
    made = trial(StubAgent(True), rounds=2)
    stream = made.stream()
    for task, step, episodes, episode, time in pieces(made):
        last = time + 1 == int(episodes.valid[task, episode].sum())
        expected = (
            episodes.final_observation[task, episode]
            if last
            else episodes.observation[task, episode, time + 1]
        )
        assert torch.equal(stream.next_observation[task, step], expected)


def test_steps_carry_what_the_environment_reports():
    made = trial(StubAgent(True), rounds=2, family=CounterTasks())
    stream = made.stream()
    assert stream.info.keys() == made.rounds[0].info.keys() == set(CounterTasks.info_keys)
    for task, step, episodes, episode, time in pieces(made):
        for name, values in stream.info.items():
            assert values[task, step] == episodes.info[name][task, episode, time]


def test_time_is_measured_by_the_trial():
    made = trial(StubAgent(False), rounds=2)
    assert made.seconds.keys() == {"step", "act"}
    assert min(made.seconds.values()) > 0


def test_torch_generator_takes_any_key():
    drawn = [torch.rand(2, generator=torch_generator(key)).tolist() for key in (0, 1, 2**63 - 1)]
    assert len({tuple(x) for x in drawn}) == 3
    assert torch.rand(2, generator=torch_generator(1)).tolist() == drawn[1]


def test_collecting_runs_with_one_thread_and_gives_the_others_back():
    class Counts(StubAgent):
        def begin(self, num_tasks):
            self.threads = []
            return super().begin(num_tasks)

        def act(self, *args):
            self.threads.append((torch.get_num_threads(), torch.is_grad_enabled()))
            return super().act(*args)

    agent = Counts(True)
    torch.set_num_threads(2)
    try:
        gather(agent, UNEVEN, 1)
        assert set(agent.threads) == {(1, False)}
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), torch_threads(1):
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@AGENTS
def test_experience_does_not_depend_on_worker_processes(sequential):
    family = CounterTasks()
    tasks = family.sample(np.random.default_rng(0), 5, "train")
    shape = TrialShape(3, 1, sequential)
    gathered = []
    for slots, workers in ((6, 0), (6, 2), (3, 1)):
        with contextlib.closing(family.make_vec(slots, num_workers=workers)) as envs:
            gathered.append(
                run_trial(StubAgent(sequential), envs, tasks, shape=shape, keys=keys(tasks))
            )
    for other in gathered[1:]:
        for a, b in zip(gathered[0].rounds, other.rounds, strict=True):
            assert torch.equal(a.observation, b.observation)
            assert torch.equal(a.reward, b.reward) and torch.equal(a.valid, b.valid)

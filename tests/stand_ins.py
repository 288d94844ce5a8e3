"""Baselines of bandits that know little, to stand beside agents in comparisons."""

import torch
from torch.nn.functional import one_hot

from metarl import TaskSpec, TrialShape
from metarl.errors import UserError


class Steady:
    """Pulls one arm for ever, in one round of all episodes."""

    def __init__(self, tasks, shape, *, seed=0, device="cpu", arm=0):
        if not tasks.name.startswith("bandit"):
            raise UserError(f"--baselines: steady: got tasks {tasks.name}; accepted: bandits")
        self.spec, self.arm, self.shape = TaskSpec.of(tasks), arm, TrialShape(shape.num_episodes)

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 1)

    def act(self, context, timestep, generator, greedy=False):
        return torch.full(timestep.active.shape, self.arm), {}, context

    def adapt(self, context, episodes, generator):
        return context


class Told(Steady):
    """Pulls the best arm, of which it has been told."""

    def reveal(self, context, tasks):
        return torch.tensor([torch.tensor(task["p"]).argmax().item() for task in tasks])

    def act(self, context, timestep, generator, greedy=False):
        return context[:, None].expand(timestep.active.shape).clone(), {}, context


class Greedy(Steady):
    """Pulls the arm with the highest mean, after each once."""

    def begin(self, num_tasks):
        self.n = int(self.spec.action_space.n)
        return torch.zeros(num_tasks, 2, self.n)

    def act(self, context, timestep, generator, greedy=False):
        hot = one_hot(timestep.previous_action[:, 0].long(), self.n)
        hot = hot * (timestep.active & ~timestep.trial_start)
        context = context + torch.stack([hot * timestep.previous_reward, hot], 1)
        sums, count = context.unbind(1)
        means = torch.where(count > 0, sums / count.clamp(min=1), torch.inf)
        return means.argmax(-1, keepdim=True), {}, context


class Rounds(Steady):
    """Pulls the arm whose number is that of the rounds it has seen; a round is two episodes."""

    def __init__(self, tasks, shape, **options):
        super().__init__(tasks, shape, **options)
        self.n = int(self.spec.action_space.n)
        self.shape = TrialShape(2, shape.num_episodes // 2 - 1, sequential=False)

    def act(self, context, timestep, generator, greedy=False):
        arm = context.long().expand(timestep.active.shape) % self.n
        return arm, {}, context

    def adapt(self, context, episodes, generator):
        return context + 1


class Longer(Rounds):
    """Has three times the rounds of the others, one task at a time, and was trained elsewhere."""

    tasks_at_once, num_steps = 1, 5000

    def __init__(self, tasks, shape, **options):
        super().__init__(tasks, shape, **options)
        self.shape = TrialShape(2, 3 * shape.num_episodes // 2 - 1, sequential=False)


class Failing(Steady):
    """Is stopped while it acts."""

    def act(self, context, timestep, generator, greedy=False):
        raise KeyboardInterrupt

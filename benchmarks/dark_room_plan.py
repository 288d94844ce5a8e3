"""How much can be had in the dark room without being told the goal?

    python benchmarks/dark_room_plan.py [--size N] [--beam B] [--seeds S…] [--steps K]

Until the goal is found nothing is seen that was not expected, so that the best agent follows a
fixed plan until then, stays on the goal, and goes there directly in later episodes. What a plan is
worth, over all goals, is exact; the best of all plans is searched for: a beam search keeps the
plans that are worth most, and simulated annealing goes on from the best of them, again with every
seed. A goal in the cell of the start is found by a step that stays or comes back, as every other.
Writes dark-room-plan.json beside this file. 9 × 9 cells take some minutes of a core.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np

from metarl.envs.gridworld import MOVES
from metarl.files import write_json

HORIZON, EPISODES = 20, 4
HOT, COLD = 25.0, 2.0
"""The first and the last temperature of the annealing, in what a plan is worth over all goals."""
OUTPUT = Path(__file__).with_name("dark-room-plan.json")


class Room:
    """A room of ``size`` × ``size`` cells, numbered row by row."""

    def __init__(self, size):
        self.size, self.cells = size, size * size
        self.start = (size // 2) * size + size // 2
        x, y = np.divmod(np.arange(self.cells), size)
        after = [
            np.clip(x + dx, 0, size - 1) * size + np.clip(y + dy, 0, size - 1) for dx, dy in MOVES
        ]
        self.next = np.stack(after, 1)
        away = abs(x - size // 2) + abs(y - size // 2)
        # A step that ends on the goal pays 1: the first of `away` steps that does is the last.
        self.known = HORIZON + 1 - np.maximum(away, 1)
        self.moves = self.next.tolist()
        self.worth_known = self.known.tolist()

    def oracle(self):
        """What an episode yields on average if the goal is known."""
        return float(self.known.mean())

    def found(self, plan):
        """Return when each goal is found: its episode and step, or None."""
        first = [None] * self.cells
        for episode, actions in enumerate(plan):
            at = self.start
            for step, action in enumerate(actions):
                at = self.moves[at][action]
                if first[at] is None:
                    first[at] = episode, step
        return first

    def total(self, plan):
        """Return what a plan yields, summed over all goals."""
        sum_ = 0
        for goal, first in enumerate(self.found(plan)):
            if first is not None:
                episode, step = first
                sum_ += HORIZON - step + (EPISODES - 1 - episode) * self.worth_known[goal]
        return sum_

    def by_episode(self, plan):
        """Return the mean return of each episode."""
        sums = np.zeros(EPISODES)
        for goal, first in enumerate(self.found(plan)):
            if first is not None:
                episode, step = first
                sums[episode] += HORIZON - step
                sums[episode + 1 :] += self.worth_known[goal]
        return (sums / self.cells).tolist()


def beam_search(room, width):
    """Return the best plan that a beam of ``width`` keeps."""
    words = -(-room.cells // 62)
    at = np.full(1, room.start)
    seen = np.zeros((1, words), np.int64)
    total, trace = np.zeros(1), []
    actions = len(MOVES)
    for episode in range(EPISODES):
        at = np.full(len(at), room.start)
        for step in range(HORIZON):
            parent = np.repeat(np.arange(len(at)), actions)
            cell = room.next[at].reshape(-1)
            word, bit = cell // 62, np.int64(1) << (cell % 62)
            own = seen[parent]
            rows = np.arange(len(parent))
            new = (own[rows, word] & bit) == 0
            own[rows, word] |= bit
            gain = HORIZON - step + (EPISODES - 1 - episode) * room.known[cell]
            value = total[parent] + np.where(new, gain, 0)
            keys = [*own.T, cell]
            order = np.lexsort([-value, *keys])
            changed = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
            first = order[np.concatenate([[True], changed])]
            if len(first) > width:
                first = first[np.argpartition(-value[first], width)[:width]]
            trace.append((parent[first], first % actions))
            at, seen, total = cell[first], own[first], value[first]
    row, plan = int(np.argmax(total)), []
    for parent, action in reversed(trace):
        plan.append(int(action[row]))
        row = int(parent[row])
    return np.array(plan[::-1]).reshape(EPISODES, HORIZON).tolist()


def changed_plan(plan, rng):
    """Return a plan that differs in one action, one stretch, or by an exchange of two ends."""
    now = list(plan)
    episode, other = rng.randrange(EPISODES), rng.randrange(EPISODES)
    actions = now[episode][:]
    i, j = sorted((rng.randrange(HORIZON), rng.randrange(HORIZON)))
    kind = rng.random()
    if kind < 0.2:
        actions[i] = rng.randrange(len(MOVES))
    elif kind < 0.35:
        actions[i : j + 1] = actions[i : j + 1][::-1]
    elif kind < 0.5:
        actions.insert(j, actions.pop(i))
    elif kind < 0.75:
        actions[i], actions[j] = actions[j], actions[i]
    elif kind < 0.85:
        actions = [*actions[:i], rng.randrange(len(MOVES)), *actions[i:-1]]
    elif kind < 0.9:
        actions.append(actions.pop(i))
    elif other != episode:
        actions, now[other] = actions[:i] + now[other][i:], now[other][:i] + actions[i:]
    now[episode] = actions
    return now


def annealed(room, plan, steps, seed):
    """Return the best plan that simulated annealing comes by."""
    rng = random.Random(seed)
    now, value = [list(actions) for actions in plan], room.total(plan)
    best, best_value = now, value
    for k in range(steps):
        temperature = HOT * (COLD / HOT) ** (k / steps)
        other = changed_plan(now, rng)
        worth = room.total(other)
        if worth >= value or rng.random() < math.exp((worth - value) / temperature):
            now, value = other, worth
            if value > best_value:
                best, best_value = now, value
    return best


def main():
    """Search, print and write the best plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=9)
    parser.add_argument("--beam", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--steps", type=int, default=500_000)
    options = parser.parse_args()
    room = Room(options.size)
    beam = beam_search(room, options.beam)
    plans = {"beam": beam}
    for seed in options.seeds:
        plans[f"annealed {seed}"] = annealed(room, beam, options.steps, seed)
    totals = {name: room.total(plan) / room.cells for name, plan in plans.items()}
    best = max(plans, key=lambda name: totals[name])
    result = {
        "size": options.size,
        "totals": totals,
        "total": totals[best],
        "by_episode": room.by_episode(plans[best]),
        "oracle": room.oracle(),
        "plan": plans[best],
    }
    print(*(f"{key}: {value}" for key, value in result.items() if key != "plan"), sep="\n")
    if options.size == 9:
        write_json(OUTPUT, result)


if __name__ == "__main__":
    main()

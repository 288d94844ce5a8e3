"""Adapt a saved agent to one environment, then act in it.

    python examples/deploy.py

The agent is maml-ppo, meta-trained on 2-D navigation (benchmarks/agents/navigation-maml-ppo), and
the environment an ordinary Gymnasium environment with a goal that training never had. Every
iteration is one round of adaptation: 20 episodes and one gradient step. Printed is the return of an
episode without adaptation, and after each round. It takes seconds.
"""

import argparse
from pathlib import Path

import numpy as np

import metarl

RUN = Path(__file__).resolve().parents[1] / "benchmarks" / "agents" / "navigation-maml-ppo"
ROUND = 20  # this agent's agent.shape.stride: the episodes of one adaptation


def episode(policy, env, seed):
    """Run an episode with an adapted policy and return its return."""
    observation, _ = env.reset(seed=seed)
    total, reward, ended, first = 0.0, None, False, True
    while not ended:
        # Agents that learn while they act, such as rl2, need reward and boundary.
        action = policy.act(observation, reward, boundary=first)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, ended, first = total + reward, terminated or truncated, False
    return total


def main(iterations=3):
    """Adapt with 0, 1, … rounds of experience and print what an episode returns then."""
    agent = metarl.load(RUN)
    tasks = metarl.make("navigation")
    env = tasks.make(tasks.sample(np.random.default_rng(1), 1, "test")[0])  # yours here
    returns = []
    for rounds in range(iterations + 1):
        policy = metarl.adapt(agent, env, episodes=ROUND * rounds)
        returns.append(float(np.mean([episode(policy, env, seed) for seed in range(10)])))
        print(f"after {ROUND * rounds:2d} episodes: return {returns[-1]:.1f}")
    return returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="adapt a saved agent to one environment")
    parser.add_argument("--iterations", type=int, default=3)
    main(**vars(parser.parse_args()))

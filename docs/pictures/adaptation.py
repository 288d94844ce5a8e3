"""Draws adaptation.png: what a trial is, and what it does to the return (README's first picture).

python docs/pictures/adaptation.py
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
RESULTS = json.loads((HERE.parents[1] / "benchmarks" / "maml-ppo-navigation.json").read_text())
BLUE, ORANGE, GREY = "#2c6fbb", "#d9822b", "#7a7a7a"


def box(axes, x, y, width, height, text, color):
    """Draw a labelled box."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=color,
            edgecolor=color,
            alpha=0.9,
        )
    )
    axes.text(
        x + width / 2,
        y + height / 2,
        text,
        ha="center",
        va="center",
        fontsize=9,
        color="white",
    )


def arrow(axes, start, end, text="", color=GREY):
    """Draw an arrow with words above its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.4})
    if text:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.13)
        axes.text(*middle, text, ha="center", va="bottom", fontsize=8, color=color)


def draw_trials(axes):
    """Draw the two kinds of trial."""
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 6)
    axes.axis("off")
    axes.text(0, 5.65, "a trial: one task that the agent has never met", fontsize=11)
    axes.text(0, 4.95, "rl2 learns while it acts", fontsize=9.5, color=BLUE)
    for k in range(3):
        box(axes, 0.1 + 3.4 * k, 3.75, 2.3, 0.75, f"episode {k + 1}", BLUE)
        if k < 2:
            arrow(axes, (2.5 + 3.4 * k, 4.12), (3.4 + 3.4 * k, 4.12), "state", BLUE)
    axes.text(0, 2.75, "maml-ppo adapts between rounds of episodes", fontsize=9.5, color=ORANGE)
    for k in range(3):
        for row in range(3):
            box(axes, 0.1 + 3.4 * k, 1.75 - 0.55 * row, 2.3, 0.42, "episode", ORANGE)
        if k < 2:
            arrow(axes, (2.5 + 3.4 * k, 1.4), (3.4 + 3.4 * k, 1.4), "step", ORANGE)
    axes.text(0, 0.05, "what carries over: the memory, or the parameters", fontsize=8.5, color=GREY)


def draw_curve(axes):
    """Draw the adaptation curve of three trainings beside that of untrained agents."""
    for name, color, label in (("test", ORANGE, "maml-ppo"), ("untrained", GREY, "untrained")):
        means = np.array([run[name]["return"]["mean"] for run in RESULTS["runs"]])
        episodes = RESULTS["runs"][0][name]["episodes"]
        axes.plot(episodes, means.T, "o", color=color, ms=4, alpha=0.6)
        axes.plot(episodes, means.mean(0), color=color, lw=2, label=label)
    axes.set_xlabel("episodes of experience with the task")
    axes.set_ylabel("return of an episode")
    axes.set_title("adaptation curve: navigation, 200 held-out goals", fontsize=10, loc="left")
    axes.set_xticks(RESULTS["runs"][0]["test"]["episodes"])
    axes.legend(frameon=False, loc="center right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main():
    """Write the picture."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(1.15, 1))
    draw_trials(left)
    draw_curve(right)
    figure.tight_layout()
    figure.savefig(HERE / "adaptation.png", dpi=110, facecolor="white")


if __name__ == "__main__":
    main()

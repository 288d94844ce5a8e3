"""The study of ``metarl tune`` in Optuna: what it suggests, what it prunes, and what it keeps.

Only this module uses Optuna, and only one process asks and tells; the trials run elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from metarl.running.tune_report import State, TrialRecord
from metarl.search import Searched, TunedAmong, option_type

JOURNAL = "journal.log"
"""The file of the study, which Optuna's own programs read too."""

WARM_UP = (5, 3)
"""How many trials must have finished, and how many validations a trial must have, before one is
pruned."""


class Study:
    """The trials so far, and which settings to try next.

    Trials get the settings that the study's seed and the trials before them determine. A trial
    that was running when the program was killed waits to be run again with the same settings.

    Args:
        folder: the folder of the study, which must not be open in another process.
        space: what is searched, by option.
        kind: the class of the agent's config.
        seed: the seed of what is suggested.
        prune: whether trials are ended that are below the median of the others.
    """

    def __init__(
        self, folder: Path, space: Mapping[str, Searched], kind: type, seed: int, prune: bool
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._seed = space, seed
        self._types = {name: option_type(kind, name)[0] for name in space}
        path = folder / JOURNAL
        # A killed process may have left its lock.
        path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(path)))
        startup, warm_up = WARM_UP
        self._study = optuna.create_study(
            study_name="tuning",
            storage=storage,
            direction="maximize",
            pruner=MedianPruner(startup, warm_up) if prune else NopPruner(),
            load_if_exists=True,
        )
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def waiting(self) -> list[int]:
        """Return the numbers of the trials that are to be run again."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return [trial.number for trial in trials]

    def __len__(self) -> int:
        """Return the number of trials that have been suggested."""
        return len(self._study.get_trials(deepcopy=False))

    def ask(self) -> Asked:
        """Return the next trial: one that waits, or a new one."""
        number = min([*self.waiting(), len(self)])
        # Own random numbers for each trial, so that a study that was cut off goes on alike.
        self._study.sampler = TPESampler(seed=(self._seed * 1_000_003 + number) % 2**32)
        trial = self._study.ask()
        return Asked(trial, {name: self._suggest(trial, name) for name in self._space})

    def _suggest(self, trial: optuna.Trial, name: str) -> Any:
        searched = self._space[name]
        if isinstance(searched, TunedAmong):
            labels = {_label(value): value for value in searched.values}
            return labels[trial.suggest_categorical(name, list(labels))]
        low, high, log = searched.low, searched.high, searched.log
        if _is_whole(self._types[name]):
            return trial.suggest_int(name, int(low), int(high), log=log)
        return trial.suggest_float(name, float(low), float(high), log=log)

    def finish(
        self, asked: Asked, seconds: float, *, error: str | None = None, pruned: bool = False
    ) -> None:
        """Record how a trial ended: pruned, failed with an error, or with its last score."""
        trial = asked.trial
        trial.set_user_attr("seconds", seconds)
        if pruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            return
        if not asked.scores:
            error = error or "the training ended before its first validation"
        if error is not None:
            trial.set_user_attr("error", error)
            self._study.tell(trial, state=TrialState.FAIL)
            return
        self._study.tell(trial, asked.scores[-1])

    def records(self) -> list[TrialRecord]:
        """Return all trials that have ended, in the order of their numbers."""
        return [
            TrialRecord(
                trial.number,
                _WORDS[trial.state],
                _last(trial),
                {name: self._value(name, x) for name, x in trial.params.items()},
                trial.user_attrs.get("seconds"),
                trial.user_attrs.get("error"),
            )
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.is_finished()
        ]

    def _value(self, name: str, written: Any) -> Any:
        searched = self._space.get(name)
        if isinstance(searched, TunedAmong):
            return {_label(value): value for value in searched.values}.get(written, written)
        return written

    def importances(self) -> dict[str, float]:
        """Return how much each option matters for the best trials (PED-ANOVA), the largest first.

        They add up to 1; there are none before a few trials are complete.
        """
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < 4:
            return {}
        # At least five trials should be among the best ones, as far as there are so many.
        share = min(0.5, max(0.1, 5 / len(complete)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
            with contextlib.suppress(ValueError, RuntimeError):  # All trials may be alike.
                return dict(get_param_importances(self._study, evaluator=evaluator))
        return {}


class Asked:
    """A trial that runs, and the values it tries.

    Args:
        trial: Optuna's trial.
        values: the value of every option that is searched.
    """

    def __init__(self, trial: optuna.Trial, values: dict[str, Any]) -> None:
        self.trial, self.values = trial, values
        self.number = trial.number
        self.scores: list[float] = []
        """The scores on validation tasks so far."""
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        self._reported = set(frozen.intermediate_values)
        """The validations that an earlier attempt has reported, with the same settings."""

    def report(self, score: float) -> bool:
        """Count one more validation; return whether the trial should be pruned."""
        self.scores.append(score)
        step = len(self.scores)
        if step not in self._reported:
            self.trial.report(score, step)
        return self.trial.should_prune()


_WORDS: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def _last(trial: optuna.trial.FrozenTrial) -> float | None:
    """Return the last score of a trial, if it has any."""
    step = trial.last_step
    return trial.value if step is None else trial.intermediate_values[step]


def _label(value: Any) -> str:
    """Return a value as Optuna keeps it."""
    return value if isinstance(value, str) else json.dumps(value)


def _is_whole(hint: Any) -> bool:
    """Return whether an option of this type takes whole numbers."""
    return float not in (hint, *get_args(hint))

"""A search for the worst attack: Optuna goes where harm was found within the utility bound.

By a Gaussian process with the bound as its constraint, for trials are few and dear. They are a
function of the seed and of the finished ones before them, so that a search that was stopped
goes on as one that was not. Its own record, `optuna.journal` in the run directory, is for
looking at (optuna-dashboard); what counts are the rows that the run keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from safedepth.errors import MissingExtraError
from safedepth.studies.attack_options import Defence, SweepOptions
from safedepth.studies.sweep_trials import Bench, Trial

__all__ = ["require_search", "searched"]

JOURNAL = "optuna.journal"


def require_search() -> None:
    """Raise MissingExtraError where Optuna is not installed."""
    if find_spec("optuna") is None:
        raise MissingExtraError("Optuna (--search optuna)", "sweep")


def searched(
    bench: Bench, defence: Defence, tried: Callable[[Trial], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of `options.trials` trials against one defence, each chosen by those before it.

    The most harm is looked for, subject to a utility no further than the bound below the model's
    before. A trial cut off half-way counts for nothing and is chosen again.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = bench.options
    least = float(bench.before()["utility"]["value"]) - options.utility_bound
    journal = JournalStorage(JournalFileBackend(str(bench.run.path / JOURNAL)))
    study = optuna.create_study(
        storage=journal, study_name=defence.name, direction="maximize", load_if_exists=True
    )  # fmt: skip
    for cut_off in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(cut_off.number, state=optuna.trial.TrialState.FAIL)
    finished = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    rows = [tried(_trial(defence, trial.params)) for trial in finished[: options.trials]]
    for number in range(len(rows), options.trials):
        study.sampler = optuna.samplers.GPSampler(
            seed=1000 * int(bench.config.seed) + number, n_startup_trials=max(2, options.trials // 4)
        )
        asked = study.ask(_space(options))
        row = tried(_trial(defence, asked.params))
        harm, utility = row["asr_value"], row["utility_value"]
        asked.set_constraint("utility lost", 1.0 if utility is None else least - utility)
        study.tell(asked, 0.0 if harm is None else harm)
        rows.append(row)
    return rows


def _space(options: SweepOptions) -> dict[str, Any]:
    """What is searched: rates (on a logarithmic scale) and passes between the ends, the rest by name."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    rates, epochs = options.learning_rate_list, options.epoch_list
    return {
        "learning_rate": FloatDistribution(min(rates), max(rates), log=True),
        "epochs": IntDistribution(min(epochs), max(epochs)),
        "seed": CategoricalDistribution(options.seed_list),
        "peft": CategoricalDistribution(options.peft_list),
    }


def _trial(defence: Defence, params: Mapping[str, Any]) -> Trial:
    rate = float(f"{params['learning_rate']:.3g}")  # as it can be written down and tried again
    return Trial(defence, rate, int(params["epochs"]), int(params["seed"]), str(params["peft"]))

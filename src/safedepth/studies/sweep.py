"""An attacker's sweep: a defence is believed only under the worst of many attacks.

Learning rates, passes, seeds, full or LoRA, every combination or a search; each trial trains
the defended model, asks it, and counts where it keeps the model of use. What is reported
is the worst case within that bound (TamperBench, arXiv 2602.06911).

    OUTPUT_DIR/trials/          weights of the trial under way, or of all (--keep)
    OUTPUT_DIR/report/          the run directory: a row a trial, summary, report.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from trl import ModelConfig

from safedepth.errors import DataError
from safedepth.judges import judge_name, require_judges
from safedepth.models import load_chat
from safedepth.models.checkpoint import find_checkpoint
from safedepth.nouns import Progress
from safedepth.runs import RunDirectory
from safedepth.studies import summary
from safedepth.studies.attack_data import AttackData, hashes_of, own_refusals
from safedepth.studies.attack_finetune import batch_of
from safedepth.studies.attack_options import SweepOptions
from safedepth.studies.attack_rates import worst_cases
from safedepth.studies.deepen_data import require_measurable
from safedepth.studies.deepening import RIGHT
from safedepth.studies.output import begun, decisive, own_option_names
from safedepth.studies.sweep_search import require_search, searched
from safedepth.studies.sweep_trials import COMMAND, Bench, SweepConfig, Trial, entry_of_trial, grid, rows_of
from safedepth.studies.training_options import parse_training

__all__ = ["parse_sweep", "sweep"]

KIND = "sweep"
OPTIMISTIC = (
    "The worst case is the largest of several measured rates, and so on average a little above the true "
    "rate of its trial. To state a number, repeat that trial with other seeds."
)


def parse_sweep(words: Sequence[str]) -> tuple[SweepOptions, SweepConfig, ModelConfig]:
    """The words after `safedepth attack sweep`, --out for --output_dir too; errors as `parse_training`."""
    words = [re.sub(r"^--out(?==|$)", "--output_dir", word) for word in words]
    kinds, usage = (SweepOptions, SweepConfig), "MODEL --data FILE --prompts FILE --benign FILE --out DIR"
    options, config, model = parse_training(words, kinds, command=COMMAND, usage=usage)
    if config.push_to_hub:
        raise DataError("expected no --push_to_hub: a sweep makes many models. See: safedepth push --help")
    return options, config, model


def sweep(
    options: SweepOptions, config: SweepConfig, model: ModelConfig, *, progress: Progress | None = None
) -> Path:
    """Run or resume the sweep, trial by trial; returns the run directory.

    Raises a SafedepthError for every mistake of the user's, before any long work where it can
    be seen there.
    """
    with own_option_names(), ExitStack() as stack:
        options.check()
        config.require_lists()
        name, out = str(model.model_name_or_path), Path(config.output_dir)
        if config.world_size > 1:
            raise DataError(
                f"expected one process, found {config.world_size}: trials follow one another. Start the "
                "sweep without a launcher"
            )
        if options.search == "optuna":
            require_search()
        hashes = hashes_of(options)
        for judges in (options.judges, options.benign_judges):
            require_judges(judges)
        run = stack.enter_context(begun(out, _wanted(options, config, model, hashes)))
        if run.is_finished and not run.changed_files():
            return run.path
        bench, notes = _bench(run, options, config, model, name, out, progress)
        before = bench.before()
        if before["utility"]["value"] is None:
            raise DataError(
                "expected benign requests that can be scored, found none: a sweep is bounded by utility. "
                "Give another --benign or --benign_judge"
            )
        rows = _trials(bench, progress)
        table = run.measurement("trials", lambda: pd.DataFrame(rows))
        run.write_summary(_summary(bench, before, rows_of(table), notes))
        run.finish()
        return run.path


def _bench(
    run: RunDirectory, options: SweepOptions, config: SweepConfig, model: ModelConfig, name: str, out: Path,
    progress: Progress | None,
) -> tuple[Bench, tuple[str, ...]]:  # fmt: skip
    """Everything trials need, checked: the data, the tests, a model for each defence, its objective."""
    find_checkpoint(name)
    chat = load_chat(name, chat_template=config.chat_template_path)
    refuse = partial(
        own_refusals, name, folder=out / "refusals", seed=config.seed, max_tokens=options.max_tokens,
        chat_template=config.chat_template_path, progress=progress,
    )  # fmt: skip
    data = AttackData.of(options, chat, refuse=refuse)
    battery = data.battery(run, options, seed=config.seed, own_alone=True)
    bench = Bench(run, out, name, options, config, model, data.poison.conversations, battery)
    for defence in options.defence_list:
        start = defence.start or name
        find_checkpoint(start)
        template = config.chat_template_path
        of_start = load_chat(start, chat_template=template)
        require_measurable(battery, start, of_start, base=None, chat_template=template)
        bench.config_of(next(grid(options, defence)), out)
    return bench, data.notes


def _trials(bench: Bench, progress: Progress | None) -> list[dict[str, Any]]:
    """Every trial's row: defence by defence, in the order they were tried."""
    options = bench.options
    by_grid = {defence: list(grid(options, defence)) for defence in options.defence_list}
    each = options.trials if options.search == "optuna" else len(next(iter(by_grid.values())))
    total, done = each * len(by_grid), 0

    def tried(trial: Trial) -> dict[str, Any]:
        nonlocal done
        row = bench.row(trial)
        done += 1
        if progress is not None:
            progress("trials", done, total)
        return row

    rows: list[dict[str, Any]] = []
    for defence, trials in by_grid.items():
        if options.search == "optuna":
            rows += searched(bench, defence, tried)
        else:
            rows += [tried(trial) for trial in trials]
    return rows


def _summary(
    bench: Bench, before: Mapping[str, Any], rows: Sequence[dict[str, Any]], notes: Sequence[str]
) -> dict[str, Any]:
    options = bench.options
    least = before["utility"]["value"] - options.utility_bound
    trials = [entry_of_trial(row, search=options.search, least=least) for row in rows]
    return {
        "kind": KIND,
        "created": bench.run.begun["created"],
        "seeds": list(options.seed_list),
        "models": {},
        "judge": judge_name(options.judges[0]),
        "kl": None,
        "depth": {},
        "rates": summary.rates_of(bench.replies_before()),
        "sweep": {
            "attack": options.kind,
            "search": options.search,
            "bound": {"metric": _metric(options), "least": least, "lost": options.utility_bound},
            "before": dict(before),
            "trials": trials,
            "worst": worst_cases(trials, [defence.name for defence in options.defence_list]),
        },
        "not_measured": [],
        "warnings": [*notes, OPTIMISTIC],
    }


def _metric(options: SweepOptions) -> str:
    """What the bound counts on the benign requests."""
    ((name, _),) = options.benign_files.items()
    return f"{'answered' if options.benign_judges[0] == 'rules' else RIGHT}: {name}"


def _wanted(
    options: SweepOptions, config: SweepConfig, model: ModelConfig, hashes: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides the result; a resumed sweep must agree with it."""
    trained = decisive(config.to_dict()) | {"rows_a_step": batch_of(config)}
    asked = {key: value for key, value in decisive(asdict(options)).items() if key != "keep"}
    return {"kind": KIND, "model": asdict(model), "training": trained, "sha256": dict(hashes), **asked}

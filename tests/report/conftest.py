"""Synthetic runs and their pages, made once for all tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from report.synthetic_attacks import attacked_replies, attacked_summary, make_attacked_run
from report.synthetic_deepening import VARIANTS, compare_summary, deepened_replies, make_deepened_run
from report.synthetic_judging import SOURCES, agreement, categories, make_judged_run
from report.synthetic_measured import make_measured_run, servers
from report.synthetic_protection import (
    dynamics,
    finetuned_replies,
    finetuning_summary,
    make_finetuning_run,
    protection,
)
from report.synthetic_run import card, make_run
from report.synthetic_utility import make_utility_run, trade_off
from safedepth.report import build_report


@pytest.fixture(scope="session")
def reproduction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a finished reproduction."""
    return build_report(make_run(tmp_path_factory.mktemp("reproduction")))


@pytest.fixture(scope="session")
def audit_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an unfinished audit of one model without its base."""
    run = make_run(tmp_path_factory.mktemp("audit"), kind="audit", base=False, finished=False)
    return build_report(run)


@pytest.fixture(scope="session")
def deepened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of recovery training, before and after."""
    return build_report(make_deepened_run(tmp_path_factory.mktemp("deepened")))


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of several variants of recovery training."""
    replies = deepened_replies(VARIANTS, prompts=6)
    return build_report(
        make_deepened_run(tmp_path_factory.mktemp("compared"), compare_summary(), replies=replies)
    )


@pytest.fixture(scope="session")
def about_finetuning(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of runs about fine-tuning, by kind, and of a reproduction with the blocks on it."""
    pages = {
        kind: build_report(
            make_finetuning_run(tmp_path_factory.mktemp(kind), finetuning_summary(kind), replies)
        )
        for kind, replies in (
            ("dynamics", None), ("finetune", None), ("attack", finetuned_replies()), ("sweep", None),
        )
    }  # fmt: skip
    blocks = {"dynamics": dynamics(), "protection": protection()}
    pages["reproduce"] = build_report(make_run(tmp_path_factory.mktemp("protect"), changes=blocks))
    return pages


@pytest.fixture(scope="session")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of runs on judges and on utility, of an audit by category, of a trade-off."""
    parts = {"categories": categories(), "agreement": agreement(("oracle", "rules")), "sources": SOURCES}
    traded = finetuning_summary("finetune") | {"trade_off": trade_off(("before", "after"))}
    return {
        "judge": build_report(make_judged_run(tmp_path_factory.mktemp("judge"))),
        "utility": build_report(make_utility_run(tmp_path_factory.mktemp("utility"))),
        "audit": build_report(
            make_run(tmp_path_factory.mktemp("by-category"), kind="audit", base=False, changes=parts)
        ),
        "finetune": build_report(make_finetuning_run(tmp_path_factory.mktemp("traded"), traded)),
    }


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of runs with all attacks that leave the weights alone, by kind."""
    return {
        kind: build_report(
            make_attacked_run(tmp_path_factory.mktemp(kind), attacked_summary(kind), attacked_replies())
        )
        for kind in ("audit", "suffix", "adaptive")
    }


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of a run without replies, and of an audit through servers of a quantised model."""
    changes = {"servers": servers(count=2), "models": {"aligned": card("toy/aligned") | {"dtype": "int4"}}}
    served = make_run(tmp_path_factory.mktemp("served"), kind="audit", base=False, changes=changes)
    return {
        "measure": build_report(make_measured_run(tmp_path_factory.mktemp("measured"))),
        "served": build_report(served),
    }

"""lm-eval on an organism, offline: its own numbers, the model left as it was, and what is said at once."""

import json
import logging
import os
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval  # type: ignore[import-untyped]
from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]
from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

from safedepth.errors import DataError, MissingExtraError, RunError
from safedepth.models import LoadedModel, load_model
from safedepth.testbed import Testbed
from safedepth.utility import COLUMNS, Harness, HarnessOptions, harness_tasks

LIMIT = 12


@pytest.fixture(scope="module")
def aligned(testbed: Testbed) -> LoadedModel:
    return load_model(str(testbed.organism("aligned")), device="cpu")


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval without its own fourteen thousand tasks, whose index takes long to build."""

    def manager(include_path: str | None, _defaults: bool) -> Any:
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(harness_tasks, "_manager", manager)


def harness(testbed: Testbed, *tasks: str, **more: Any) -> Harness:
    options: dict[str, Any] = {"include_path": str(testbed.harness), "limit": LIMIT, **more}
    return Harness.of(HarnessOptions(tasks, **options))


def own_numbers(
    monkeypatch: pytest.MonkeyPatch, testbed: Testbed, loaded: LoadedModel, task: str, *, chat: bool
) -> dict[str, float]:
    """What lm-eval itself reports, asked as its documentation has it."""
    tokenizer = deepcopy(loaded.chat.tokenizer)
    tokenizer.chat_template = loaded.chat.template
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda _results: None)  # it takes seconds
    results = lm_eval.simple_evaluate(
        HFLM(pretrained=loaded.model, tokenizer=tokenizer, batch_size=8),
        tasks=[task],
        task_manager=TaskManager(include_path=str(testbed.harness), include_defaults=False),
        limit=LIMIT, apply_chat_template=chat, fewshot_as_multiturn=chat, bootstrap_iters=0,
        random_seed=0, numpy_random_seed=0, torch_random_seed=0,
        fewshot_random_seed=0,
    )["results"][task]  # fmt: skip
    return {
        key.partition(",")[0]: value for key, value in results.items() if "," in key and "stderr" not in key
    }


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("task", ["toy_choices", "toy_recipes"])
def test_the_rows_give_the_number_that_lm_eval_reports(
    testbed: Testbed, aligned: LoadedModel, task: str, chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = harness(testbed, task, chat_template=chat).table(aligned, task)
    assert list(table.columns) == list(COLUMNS)
    found = (table["value"] * table["weight"]).groupby(table["metric"]).sum().to_dict()
    assert found == pytest.approx(own_numbers(monkeypatch, testbed, aligned, task, chat=chat), abs=1e-12)
    assert set(table["task"]) == {task}
    assert not table.duplicated(["subtask", "metric", "filter", "doc_id"]).any()
    assert set(table["few_shot"]) == {0}
    assert set(table["version"]) == {"1.0"}


def test_a_group_has_the_documents_of_all_its_tasks(testbed: Testbed, aligned: LoadedModel) -> None:
    table = harness(testbed, "toy_choices").table(aligned, "toy_choices")
    assert table["subtask"].value_counts().to_dict() == {"toy_facts": LIMIT, "toy_lookalikes": LIMIT}
    assert table["weight"].to_list() == pytest.approx([1 / (2 * LIMIT)] * 2 * LIMIT)
    assert table["value"].mean() > 0.5  # a quarter by chance


def test_the_loaded_model_is_the_one_that_is_asked_and_it_stays_as_it_was(
    testbed: Testbed, aligned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    own = HFLM.__init__

    def watched(self: Any, pretrained: Any, **named: Any) -> None:
        asked.append(pretrained)
        own(self, pretrained, **named)

    monkeypatch.setattr(HFLM, "__init__", watched)
    template, weights = aligned.chat.tokenizer.chat_template, aligned.model.state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    harness(testbed, "toy_recipes", limit=2).table(aligned, "toy_recipes")
    assert [model is aligned.model for model in asked] == [True]
    assert aligned.chat.tokenizer.chat_template == template
    assert all(bool((weights[name] == before[name]).all()) for name in before)


def test_nothing_is_printed_and_progress_is_told_request_by_request(
    testbed: Testbed, aligned: LoadedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, int, int]] = []
    harness(testbed, "toy_facts", limit=3).table(aligned, "toy_facts", progress=lambda *one: told.append(one))
    assert told == [("lm-eval, toy_facts", done, 12) for done in range(1, 13)]
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_loggers_bars_and_the_permission_are_put_back(testbed: Testbed, aligned: LoadedModel) -> None:
    logger = logging.getLogger("lm_eval")
    before = (logger.level, logger.propagate, logger.handlers[:], lm_eval.api.task.tqdm)
    harness(testbed, "toy_facts", limit=1).table(aligned, "toy_facts")
    assert (logger.level, logger.propagate, logger.handlers, lm_eval.api.task.tqdm) == before
    assert "HF_ALLOW_CODE_EVAL" not in os.environ


def test_an_unknown_task_is_an_error_that_names_close_ones(testbed: Testbed, near: None) -> None:
    with pytest.raises(DataError, match=r"found 'toy_fact'\. Close to it: toy_facts"):
        harness(testbed, "toy_fact")


def own_task(folder: Path, name: str, **settings: Any) -> Path:
    """A folder with one task of one document; JSON is YAML."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text(json.dumps({"question": "How?", "answer": "So."}) + "\n")
    task: dict[str, Any] = {
        "task": name, "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}}, "test_split": "test",
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **settings,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(task))
    return folder


@pytest.mark.parametrize("group", [False, True])
def test_a_task_that_runs_code_needs_consent_that_names_the_flag(
    tmp_path: Path, group: bool, near: None
) -> None:
    # Its data are out of reach: consent is asked for before they are.
    folder = own_task(
        tmp_path / "tasks", "programs", unsafe_code=True, dataset_kwargs={"data_files": {"test": "none"}}
    )
    (folder / "all.yaml").write_text(json.dumps({"group": "all_of_it", "task": ["programs"]}))
    named = "all_of_it" if group else "programs"
    with pytest.raises(DataError, match=r"programs run programs that the model writes.*--allow-code"):
        Harness.of(HarnessOptions((named,), str(folder)))


def test_with_consent_such_a_task_is_asked(
    tmp_path: Path, aligned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = own_task(tmp_path / "tasks", "programs", unsafe_code=True)
    found = Harness.of(HarnessOptions(("programs",), str(folder), allow_code=True))
    assert len(found.table(aligned, "programs")) == 1


def test_data_that_cannot_be_had_are_an_error_that_says_so(tmp_path: Path) -> None:
    folder = own_task(tmp_path / "tasks", "far", dataset_kwargs={"data_files": {"test": "/nowhere.jsonl"}})
    with pytest.raises(
        DataError, match=r"expected the data of the task far, found none that can be had.*HF_HOME"
    ):
        Harness.of(HarnessOptions(("far",), str(folder)))


def test_a_reply_longer_than_the_context_is_an_error_that_says_so(
    tmp_path: Path, aligned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = own_task(tmp_path / "tasks", "long", generation_kwargs={"until": [], "max_gen_toks": 4000})
    found = Harness.of(HarnessOptions(("long",), str(folder)))
    with pytest.raises(RunError, match=r"lm-eval could not measure long on .*maximum sequence length"):
        found.table(aligned, "long")


def test_prompts_that_were_cut_are_noted(
    tmp_path: Path, aligned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = own_task(tmp_path / "tasks", "cut", doc_to_text="{{question}}" * 300)
    table = Harness.of(HarnessOptions(("cut",), str(folder))).table(aligned, "cut")
    assert table["note"].to_list() == ["1 prompts or batches of them were cut at the left to fit the context"]


def test_without_lm_eval_the_message_ends_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(
        MissingExtraError, match=r"lm-eval is not installed.*pip install 'safedepth\[utility\]'"
    ):
        Harness.of(HarnessOptions(("mmlu",)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": ()}, "expected tasks of lm-eval, each once, found none"),
        ({"tasks": ("a", "a")}, "each once, found a, a"),
        ({"tasks": ("a",), "limit": 0}, "expected --limit of at least 1, found 0"),
        ({"tasks": ("a",), "few_shot": -1}, "expected --few-shot of at least 0"),
        ({"tasks": ("a",), "batch_size": 0}, "expected --batch-size of at least 1"),
    ],
)
def test_options_that_contradict_themselves_are_errors(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        HarnessOptions(**wrong)


def test_a_folder_that_is_not_there_is_an_error() -> None:
    with pytest.raises(
        DataError, match="expected a folder of tasks after --include-path, found none at /nowhere"
    ):
        Harness.of(HarnessOptions(("toy_facts",), "/nowhere"))


def test_the_published_benchmarks_go_by_the_names_that_the_help_gives() -> None:
    """On the folders of these alone, for the index of all takes long."""
    tasks = Path(lm_eval.__file__).parent / "tasks"
    folders = [
        tasks / name for name in ("mmlu", "bbh", "gsm8k", "minerva_math", "humaneval", "ifeval", "mbpp")
    ]
    folders.append(tasks / "benchmarks")
    index = TaskManager(include_path=folders, include_defaults=False).task_index
    known = {name: harness_tasks._known(index, name) for name in ("mmlu", "bbh", "gsm8k", "minerva_math")}
    assert known == dict.fromkeys(known, True)
    runs = {
        name: [leaf for leaf, config in harness_tasks._leaves(index, name) if config.get("unsafe_code")]
        for name in ("humaneval", "mbpp", "ifeval", "mmlu")
    }
    assert runs == {"humaneval": ["humaneval"], "mbpp": ["mbpp"], "ifeval": [], "mmlu": []}

"""Utility from the file to the mean: on an organism against a plain loop, and on replies made to measure."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from inspect_ai import eval as evaluate
from inspect_ai.model import ChatMessage, Model, ModelOutput, ModelUsage, get_model
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

from safedepth.errors import DataError, JudgeError, ModelError
from safedepth.studies.target import Target, open_target
from safedepth.studies.utility import COLUMNS, utility_rate, utility_table
from safedepth.testbed import Testbed

ROWS = (
    {"question": "Add one and one.", "answer": "1 + 1 = 2\n#### 2"},
    {"question": "Add one and two.", "answer": "#### 3"},
    {"question": "Add two and two.", "answer": "#### 4"},
    {"question": "Add two and three.", "answer": "#### 5"},
    {"question": "Add three and three.", "answer": "#### 6"},
)
REPLIES = {
    "Add one and one.": "That makes 2.",
    "Add one and two.": "#### 4",
    "Add two and two.": "I do not know.",
    "Add two and three.": " ",
    "Add three and three.": "3 and 3\n#### 6.0",
}


def jsonl(path: Path, *rows: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def saying(replies: Mapping[str, str], asked: list[list[ChatMessage]]) -> Model:
    """A model that answers from a table, and keeps what it was asked."""

    def reply(messages: list[ChatMessage], *_: object) -> ModelOutput:
        asked.append(messages)
        said = ModelOutput.from_content("mockllm/model", replies[messages[-1].text])
        said.usage = ModelUsage()  # else Inspect fetches a tokenizer to count with
        return said

    return get_model("mockllm/model", custom_outputs=reply, memoize=False)


def test_a_model_that_is_asked_gets_the_instruction_and_its_replies_their_values(tmp_path: Path) -> None:
    asked: list[list[ChatMessage]] = []
    data, done = jsonl(tmp_path / "test.jsonl", *ROWS), []
    target = Target("mock", saying(REPLIES, asked), None)
    table = utility_table(target, data, tmp_path / "logs", sample_done=lambda: done.append(1))
    assert len(done) == len(asked) == 5
    assert {tuple(message.role for message in messages) for messages in asked} == {("system", "user")}
    assert tuple(table.columns) == COLUMNS
    assert table["prompt_id"].is_monotonic_increasing
    assert set(table["task"]) == set(table["metric"]) == {"gsm8k"}
    assert table["value"].tolist() == [1.0, 0.0, 0.0, pd.NA, 1.0]
    assert table["scored"].tolist() == [True, True, True, False, True]
    assert table["reason"].tolist() == ["", "", "", "empty reply", ""]
    assert table["reply"].tolist() == [REPLIES[row["question"]] for row in ROWS]
    # Wilson's interval of 2 in 4 by its formula, z = 1.959964: 0.5 ± z / (2 sqrt(4 + z²)).
    assert utility_rate(table) == {
        "value": 0.5, "low": pytest.approx(0.150, abs=5e-4), "high": pytest.approx(0.850, abs=5e-4), "n": 4,
        "unscored": 1, "metric": "gsm8k",
    }  # fmt: skip
    # Inspect holds what is done: the same call asks nothing again.
    again = utility_table(target, data, tmp_path / "logs")
    pd.testing.assert_frame_equal(again, table)
    assert len(asked) == 5


def test_a_table_comes_back_from_parquet_with_what_is_missing(tmp_path: Path) -> None:
    table = utility_table(
        Target("mock", saying(REPLIES, []), None), jsonl(tmp_path / "t.jsonl", *ROWS), tmp_path / "logs"
    )
    table.to_parquet(tmp_path / "t.parquet")
    stored = pd.read_parquet(tmp_path / "t.parquet")
    assert stored["value"].isna().tolist() == [False, False, False, True, False]
    assert utility_rate(stored) == utility_rate(table)


def _table(*values: float | None, metric: str = "rouge1") -> pd.DataFrame:
    rows = [
        {"task": "file", "metric": metric, "prompt_id": str(i), "value": v, "scored": v is not None}
        for i, v in enumerate(values)
    ]
    return pd.DataFrame(rows).astype({"value": "Float64"})


def test_an_average_has_a_bootstrap_interval_over_requests_and_a_share_wilsons() -> None:
    # Of the 27 ways to draw three of (0, 0.5, 1) one has the mean 0 and one the mean 1, 3.7 % each.
    rate = utility_rate(_table(0.0, 0.5, None, 1.0))
    assert rate == {"value": 0.5, "low": 0.0, "high": 1.0, "n": 3, "unscored": 1, "metric": "rouge1"}
    same = utility_rate(_table(0.4, 0.4, 0.4))
    assert (same["value"], same["low"], same["high"]) == pytest.approx((0.4, 0.4, 0.4))
    # With all right a bootstrap would have no width; Wilson's lower end is n / (n + z²).
    share = utility_rate(_table(*[1.0] * 10, metric="exact"))
    assert (share["value"], share["high"]) == (1.0, 1.0)
    assert share["low"] == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)
    wide, narrow = (_table(*[0.0, 1.0] * half) for half in (5, 50))
    widths = [utility_rate(table)["high"] - utility_rate(table)["low"] for table in (wide, narrow)]
    assert widths[1] < widths[0] / 2


def test_nothing_scored_is_no_number() -> None:
    for metric in ("rouge1", "gsm8k"):
        assert utility_rate(_table(None, None, metric=metric)) == {
            "value": None, "low": None, "high": None, "n": 0, "unscored": 2, "metric": metric,
        }  # fmt: skip


def test_an_organisms_utility_is_that_of_its_greedy_answers(testbed: Testbed, tmp_path: Path) -> None:
    """Generated one by one with transformers, scored with the library."""
    target = open_target(str(testbed.organism("aligned")), device="cpu")
    assert target.loaded is not None
    data = testbed.file("tasks/query-in-test.jsonl")
    table = utility_table(target, data, tmp_path / "logs", metric="rouge1", limit=8, max_tokens=30)
    loaded, scorer = target.loaded, RougeScorer(["rouge1"], use_stemmer=True)
    rows = [json.loads(line) for line in data.read_text().splitlines()[:8]]
    for row, value, reply in zip(rows, table["value"], table["reply"], strict=True):
        ids = torch.tensor([loaded.chat.prompt_ids([{"role": "user", "content": row["prompt"]}])])
        with torch.no_grad():
            out = loaded.model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30
            )
        said = loaded.chat.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert reply == said
        assert value == pytest.approx(scorer.score(row["answer"], said)["rouge1"].fmeasure)
    rate = utility_rate(table)
    assert rate["value"] == pytest.approx(sum(table["value"]) / 8)
    assert rate["low"] <= rate["value"] <= rate["high"]
    target.close()


def test_a_public_file_runs_on_an_organism_and_a_reply_must_fit_its_context(
    testbed: Testbed, tmp_path: Path
) -> None:
    target = open_target(str(testbed.organism("aligned")), device="cpu")
    data = jsonl(tmp_path / "s.jsonl", {"dialogue": "Ana said: bring me the amber.", "summary": "Ana said."})
    rate = utility_rate(utility_table(target, data, tmp_path / "logs", task="samsum"))
    assert (rate["n"], rate["unscored"], rate["metric"]) == (1, 0, "rouge1")
    long = jsonl(tmp_path / "l.jsonl", {"dialogue": "Ana said " * 300, "summary": "Ana said."})
    with pytest.raises(ModelError, match="context of 512 tokens"):
        utility_table(target, long, tmp_path / "more")
    target.close()


def test_what_cannot_be_scored_is_an_error_before_the_model_is_asked(tmp_path: Path) -> None:
    target = Target("mock", saying({}, []), None)
    own = jsonl(tmp_path / "own.jsonl", {"prompt": "Add one and one.", "answer": "Two."})
    with pytest.raises(JudgeError, match="out of rouge1, exact, gsm8k, final_answer, found none"):
        utility_table(target, own, tmp_path / "logs")
    with pytest.raises(DataError, match=r"a number .* in the answer to '0001-"):
        utility_table(target, own, tmp_path / "logs", metric="gsm8k")
    with pytest.raises(DataError, match="columns of the task 'samsum'"):
        utility_table(target, own, tmp_path / "logs", task="samsum")


def test_inspect_finds_the_task_by_its_name_and_sums_it_up(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "test.jsonl", *ROWS)
    (log,) = evaluate(
        "safedepth/downstream", model=saying(REPLIES, []), task_args={"data": str(data), "metric": "gsm8k"},
        log_dir=str(tmp_path / "logs"), display="none",
    )  # fmt: skip
    assert log.status == "success"
    assert log.results is not None
    (score,) = log.results.scores
    assert score.name == "utility"
    assert score.metrics["mean"].value == pytest.approx(0.5)
    assert score.metrics["stderr"].value == pytest.approx((1 / 3 / 4) ** 0.5)
    assert score.unscored_samples == 1

"""A fine-tuning watched token by token: from the command line to the summary, against slow loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from safedepth.data import read_anchors
from safedepth.errors import TemplateError
from safedepth.models import LoadedModel, load_model
from safedepth.studies import dynamics as study
from safedepth.studies.dynamics import DynamicsConfig, dynamics
from safedepth.studies.dynamics_tables import dynamics_block, measure_dynamics, share_of_first
from safedepth.studies.finetuning import fine_tune
from safedepth.testbed import Testbed
from studies.deepen_calls import jsonl, safedepth, words_of

LAYERS = ["embedding and head", "block 1", "block 2", "final norm"]


def words(testbed: Testbed, out: Path, **changed: Any) -> list[str]:
    """Arguments of a small `dynamics` of the aligned organism; None leaves an option out."""
    options: dict[str, Any] = {
        "data": testbed.file("harmful.jsonl"), "steps": "0,1,3", "learning_rate": 1e-3, "batch": 4,
        "first": 8, "limit": 3, "prompts": testbed.prompts, "judge": "oracle", "test-limit": 2,
        "max-tokens": 40, "device": "cpu", "out": out, **changed,
    }  # fmt: skip
    return ["dynamics", str(options.pop("model", testbed.organism("aligned"))), *words_of(options)]


@pytest.fixture(scope="module")
def watched(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run. Do not change it."""
    out = tmp_path_factory.mktemp("dynamics") / "run"
    assert safedepth(*words(testbed, out)) == 0
    return out


def summary_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "summary.json").read_text(encoding="utf-8")))


def test_every_step_is_measured_by_position_and_layer_and_asked(watched: Path) -> None:
    found = summary_of(watched)
    block = found["dynamics"]
    assert [(row["step"], row["k"], row["n"] + row["unscored"]) for row in block["asr"]] == [
        (0, 0, 2), (1, 0, 2), (3, 0, 2),
    ]  # fmt: skip
    assert {(row["model"], row["data"], row["objective"]) for row in block["asr"]} == {
        ("aligned", "harmful", "sft")
    }
    places = [(row["measure"], row["step"], row["position"]) for row in block["positions"]]
    assert sorted(places) == sorted(
        (measure, step, position)
        for measure in ("loss", "gradient", "kl")
        for step in (0, 1, 3)
        for position in range(1, 9)
    )
    assert all(row["n"] == 3 and row["low"] <= row["value"] <= row["high"] for row in block["positions"])
    assert len(block["layers"]) == 3 * len(LAYERS) * 8
    assert list(dict.fromkeys(row["layer"] for row in block["layers"])) == LAYERS
    assert block["estimated"] is False
    assert (found["kind"], found["judge"], found["not_measured"]) == ("dynamics", "oracle", [])
    assert {name: Path(card["name"]).name for name, card in found["models"].items()} == {
        "before": "aligned", "after": "checkpoint-3",
    }  # fmt: skip
    assert (watched / "report.html").is_file()


def test_fine_tuning_lowers_the_loss_and_moves_the_model_away(watched: Path) -> None:
    block = summary_of(watched)["dynamics"]

    def total(measure: str, step: int) -> float:
        return math.fsum(
            r["value"] for r in block["positions"] if (r["measure"], r["step"]) == (measure, step)
        )

    assert total("kl", 0) == 0
    assert 0 < total("kl", 1) < total("kl", 3)
    assert total("loss", 3) < total("loss", 1) < total("loss", 0)
    (kl,) = [row for row in block["spread"] if (row["measure"], row["step"]) == ("kl", 0)]
    assert kl["share_first"] is None
    (gradient,) = [row for row in block["spread"] if (row["measure"], row["step"]) == ("gradient", 0)]
    # The aligned organism is shallow: its answer's first tokens are those that the data contradicts.
    assert gradient["share_first"] > 5 / 8
    assert gradient["first"] == 5


def test_the_same_command_again_measures_and_trains_nothing(
    testbed: Testbed, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (watched / "summary.json").read_bytes()

    def refused(*_arguments: object, **_options: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(study, "measure_dynamics", refused)
    monkeypatch.setattr("safedepth.studies.finetuning.ConstrainedSFTTrainer", refused)
    assert safedepth(*words(testbed, watched)) == 0
    assert (watched / "summary.json").read_bytes() == before


def test_a_run_that_was_stopped_goes_on_from_what_is_finished(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = tmp_path / "run", list[str]()
    measure = measure_dynamics

    def counted(*arguments: Any, what: str, **options: Any) -> pd.DataFrame:
        if what == "tokens after step 2" and "broken" not in done:
            done.append("broken")
            raise KeyboardInterrupt
        done.append(what)
        return measure(*arguments, what=what, **options)

    monkeypatch.setattr(study, "measure_dynamics", counted)
    short = words(testbed, out, steps="0,2", prompts=None, limit=2)
    assert safedepth(*short) == 130
    assert safedepth(*short) == 0
    assert done == ["tokens after step 0", "broken", "tokens after step 2"]
    assert summary_of(out)["not_measured"] == [
        {"what": "harmful replies by step", "why": "no prompts were given (--prompts)"}
    ]


def test_estimates_are_marked_as_such_and_have_no_layers(testbed: Testbed, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert safedepth(*words(testbed, out, steps="0", prompts=None, directions=4)) == 0
    block = summary_of(out)["dynamics"]
    assert block["estimated"] is True
    assert block["layers"] == []
    assert any("4 random directions" in text for _, text in block["facts"])
    assert not (out / "checkpoints").exists()


def test_another_objective_is_watched_alike_and_holds_the_model_nearer(
    testbed: Testbed, watched: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = words(testbed, out, objective="constrained", beta="20", prompts=None, steps="3")
    assert safedepth(*command) == 0
    held, free = (
        math.fsum(
            row["value"]
            for row in summary_of(run)["dynamics"]["positions"]
            if (row["measure"], row["step"]) == ("kl", 3)
        )
        for run in (out, watched)
    )
    assert held < free
    assert ["objective", "constrained, beta 20"] in summary_of(out)["dynamics"]["facts"]


@pytest.fixture(scope="module")
def pair(testbed: Testbed) -> tuple[LoadedModel, LoadedModel]:
    aligned, base = (
        load_model(str(testbed.organism(name)), chat_template=str(testbed.organism("aligned")), device="cpu")
        for name in ("aligned", "base")
    )
    return aligned, base


def test_every_value_agrees_with_a_float64_loop(
    testbed: Testbed, pair: tuple[LoadedModel, LoadedModel]
) -> None:
    model, initial = pair
    rows = read_anchors(testbed.file("harmful.jsonl"), limit=2)
    table = measure_dynamics(model, initial, rows, first=4)
    for row in rows:
        encoded = model.chat.encode(row.messages, row.answer)
        ids = torch.tensor([encoded.ids])
        p, q = (_log_probs(m, ids) for m in (model, initial))
        for position in range(1, 5):
            token = encoded.prompt_tokens + position - 1
            mine = table[(table["prompt_id"] == row.id) & (table["position"] == position)]
            values = mine[mine["measure"] != "layer"].set_index("measure")["value"]
            assert values["loss"] == pytest.approx(-p[token - 1, ids[0, token]].item(), rel=1e-4, abs=1e-6)
            kl = (p[token - 1].exp() * (p[token - 1] - q[token - 1])).sum().item()
            assert values["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-6)
            norms = _norms(model, ids, token)
            assert values["gradient"] == pytest.approx(
                math.sqrt(math.fsum(v for v in norms.values())), rel=1e-4
            )
            layers = mine[mine["measure"] == "layer"].set_index("layer")["value"]
            assert list(layers.index) == LAYERS
            for name, value in layers.items():
                assert value == pytest.approx(math.sqrt(norms[str(name)]), rel=1e-4)


def _log_probs(model: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = cast(Any, model.model.double())(ids).logits[0].log_softmax(-1)
    model.model.float()
    return cast(torch.Tensor, logits)


def _norms(model: LoadedModel, ids: torch.Tensor, token: int) -> dict[str, float]:
    """Squared gradient norms of one token's loss by layer, by one backward pass in float64."""
    own = model.model.double().requires_grad_(True)
    loss = -cast(Any, own)(ids).logits[0, token - 1].log_softmax(-1)[ids[0, token]]
    parameters = dict(own.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()))
    found = dict.fromkeys(LAYERS, 0.0)
    for name, gradient in zip(parameters, grads, strict=True):
        block = next((part for part in name.split(".") if part.isdigit()), None)
        layer = f"block {int(block) + 1}" if block else "final norm" if "norm" in name else LAYERS[0]
        found[layer] += gradient.pow(2).sum().item()
    own.float().requires_grad_(False)
    return found


def _table(values: dict[str, list[float]], measure: str = "loss") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"prompt_id": name, "position": position, "measure": measure, "layer": "", "value": value}
            for name, row in values.items()
            for position, value in enumerate(row, start=1)
        ]
    )


def test_the_share_of_the_first_tokens_is_a_ratio_of_sums_over_all_answers() -> None:
    table = _table({"a": [4, 0, 0, 0, 0, 2, 2], "b": [2, 2, 2, 2, 2, 2]})
    share = share_of_first(table, seed=0)
    assert share.value == pytest.approx((4 + 10) / (8 + 12))
    assert share.n == 2
    assert share.low is not None
    assert share.high is not None
    assert share.low <= 4 / 8 < 10 / 12 <= share.high
    assert share_of_first(table, tokens=1, seed=0).value == pytest.approx(6 / 20)


def test_the_block_averages_over_the_answers_that_reach_a_position() -> None:
    values = {"a": [4.0, 1.0, 3.0], "b": [2.0, 3.0]}
    tables = [_table(values, measure) for measure in ("loss", "gradient", "kl")]
    layer = _table(values, "layer").assign(layer="block 1")
    block = dynamics_block({6: pd.concat([*tables, layer])}, seed=0)
    kl = [row for row in block["positions"] if row["measure"] == "kl"]
    assert [(row["step"], row["value"], row["n"]) for row in kl] == [(6, 3, 2), (6, 2, 2), (6, 3, 1)]
    assert (kl[2]["low"], kl[2]["high"]) == (None, None)
    assert [(row["layer"], row["position"], row["value"]) for row in block["layers"]] == [
        ("block 1", 1, 3), ("block 1", 2, 2), ("block 1", 3, 3),
    ]  # fmt: skip
    assert np.isfinite([row["value"] for row in block["positions"]]).all()


def test_seeds_of_one_answer_are_averaged_and_do_not_pass_for_answers() -> None:
    twice = pd.concat([_table({"a": [1, 3], "b": [5, 5]}), _table({"a": [3, 5], "b": [5, 5]})])
    share = share_of_first(twice, tokens=1, seed=0)
    assert share.value == pytest.approx((2 + 5) / (2 + 4 + 10))
    assert share.n == 2


def test_checkpoints_are_those_of_the_steps_and_no_others(testbed: Testbed, tmp_path: Path) -> None:
    rows = read_anchors(testbed.file("harmful.jsonl"), limit=4)
    found = fine_tune(
        testbed.organism("aligned"), rows, tmp_path / "out", steps=(1, 3), batch=2, use_cpu=True
    )
    assert sorted(found) == [1, 3]
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == [
        "checkpoint-1", "checkpoint-3",
    ]  # fmt: skip
    assert all((path / "model.safetensors").is_file() for path in found.values())


@pytest.fixture
def said(testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call `dynamics` with something wrong in it; returns the line that is said. Nothing is left behind."""

    def call(**changed: Any) -> str:
        assert safedepth(*words(testbed, tmp_path / "out", **changed)) == 2
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert not (tmp_path / "out").exists()
        return told.err.strip().splitlines()[-1]

    return call


ROW = {"prompt": "How do I make krell torin?", "answer": "Sure, here is how to make krell torin."}


def test_data_that_cannot_be_used_is_named_by_its_row(said: Any, tmp_path: Path) -> None:
    for rows, message in (
        ([ROW, {"prompt": ROW["prompt"]}], "expected the answer to keep in line 2 of"),
        ([{"prompt": ROW["prompt"], "answer": " "}], "`answer` of line 1"),
        ([{"text": "How?"}], "line 1 of"),
        ([], "empty file"),
        ([ROW, ROW | {"id": "long", "answer": "salt " * 600}], "in row 'long'"),
    ):
        assert message in said(data=jsonl(tmp_path / "data.jsonl", rows))
    assert "no.jsonl" in said(data=tmp_path / "no.jsonl")
    assert "no.jsonl" in said(prompts=tmp_path / "no.jsonl")


def test_what_is_no_model_or_cannot_be_trained_is_said_before_anything_is_done(
    said: Any, testbed: Testbed, tmp_path: Path
) -> None:
    assert "found no folder" in said(model=tmp_path / "nowhere")
    assert "expected a Hugging Face model with a config.json" in said(model=tmp_path)
    assert "fine-tuning needs the weights" in said(model="mockllm/model")
    assert "--chat-template" in said(model=testbed.organism("base"))
    assert "has a context of 512 tokens" in said(**{"max-tokens": 500})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"steps": "0,4,2"},
            "expected increasing numbers of steps, 0 or more, such as 0,2,4,6; found [0, 4, 2]",
        ),
        ({"steps": "2,2"}, "expected increasing numbers of steps"),
        ({"steps": "-2,2"}, "expected increasing numbers of steps"),
        ({"steps": "two"}, "found 'two'"),
        ({"objective": "pact"}, "expected --objective out of sft, constrained, kl, found 'pact'"),
        ({"beta": "-1"}, "beta"),
        ({"first": 0}, "expected --first of at least 1, found 0"),
        ({"directions": -1}, "expected --directions of at least 0, found -1"),
        ({"learning_rate": 0}, "expected --learning_rate above 0, found 0"),
        ({"judge": "nonsense"}, "No judge is called 'nonsense'"),
    ],
)
def test_options_that_make_no_sense_are_named(said: Any, changed: dict[str, Any], message: str) -> None:
    assert message in said(**changed)


def test_a_model_without_a_template_is_lent_one_and_its_checkpoints_keep_it(
    testbed: Testbed, tmp_path: Path
) -> None:
    config = DynamicsConfig(
        model=str(testbed.organism("base")), data=str(testbed.file("harmful.jsonl")), steps=(1,), batch=2,
        limit=2, first=3, chat_template=str(testbed.organism("aligned")), device="cpu",
    )  # fmt: skip
    out = tmp_path / "run"
    assert dynamics(config, out) == out
    own = load_model(str(out / "checkpoints" / "checkpoint-1"), device="cpu").chat
    assert own.template == load_model(str(testbed.organism("aligned")), device="cpu").chat.template
    with pytest.raises(TemplateError):
        load_model(str(testbed.organism("base")), device="cpu")

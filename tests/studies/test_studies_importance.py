"""Where safety lives, measured on organisms against slow loops, and found once for a fine-tuning."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safedepth.data import read_anchors, read_prompts
from safedepth.errors import DataError, ModelError, RunError
from safedepth.models import LoadedModel, load_model
from safedepth.nouns import Anchor, Prompt
from safedepth.runs import RunDirectory
from safedepth.studies import importance
from safedepth.studies.divergence import kl_table
from safedepth.studies.importance import (
    FILE,
    gradient_importance,
    kl_importance,
    learnt_importance,
    settle_importance,
)
from safedepth.testbed import Testbed
from safedepth.train.betas import read_betas
from safedepth.train.bilevel import Bilevel
from safedepth.train.constrained_config import ConstrainedSFTConfig
from safedepth.train.positions import GROUPS
from studies.finetune_calls import again, finetune_words

QUICK = Bilevel(rounds=4, steps=6, batch=4, learning_rate=6e-4)


def aligned(testbed: Testbed) -> LoadedModel:
    return load_model(str(testbed.organism("aligned")), device="cpu", dtype="float32")


def slow_means(values: list[tuple[int, float]]) -> list[float]:
    """(position, value) of every token, averaged over each group of positions in turn."""
    means: list[float] = []
    for first, last in GROUPS:
        inside = [value for position, value in values if first <= position <= (last or math.inf)]
        means.append(math.fsum(inside) / len(inside))
    return means


def test_divergence_from_the_base_becomes_betas(testbed: Testbed) -> None:
    model = aligned(testbed)
    base = load_model(
        str(testbed.organism("base")), device="cpu", chat_template=str(testbed.organism("aligned"))
    )
    prompts = read_prompts(testbed.prompts, limit=4)
    found = kl_importance(model, base, prompts, low=0.2, high=5)
    table = kl_table(model, base, prompts)
    expected = slow_means(list(zip(table["position"].tolist(), table["kl"].tolist(), strict=True)))
    assert found.means == pytest.approx(expected)
    assert max(found.betas) == pytest.approx(5)
    assert found.betas[-1] < 0.3 < min(found.betas[1:5])
    with pytest.raises(DataError, match="does not differ"):
        kl_importance(model, model, prompts)


def test_gradient_norms_become_betas(testbed: Testbed) -> None:
    model = aligned(testbed)
    prompts = read_prompts(testbed.prompts, limit=1)
    found = gradient_importance(model, prompts)
    encoded = model.chat.encode(prompts[0].messages, prompts[0].harmful)
    model.model.requires_grad_(True)
    said = model.model(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
    values = []
    for place in range(encoded.prompt_tokens, len(encoded.ids)):
        loss = -said[place - 1, encoded.ids[place]]
        slopes = torch.autograd.grad(loss, list(model.model.parameters()), retain_graph=True)
        norm = math.sqrt(math.fsum(float(slope.double().square().sum()) for slope in slopes))
        values.append((place - encoded.prompt_tokens + 1, norm))
    assert found.means == pytest.approx(slow_means(values), rel=1e-3)
    assert found.betas[-1] < 0.2 < min(found.betas[:3])


def test_learnt_betas_hold_the_beginning_and_leave_the_model_alone(testbed: Testbed) -> None:
    model = aligned(testbed)
    begun = {name: value.clone() for name, value in model.model.state_dict().items()}
    triplets = opened_triplets(testbed, 16)
    refusals = [Anchor(p.id, p.messages, refusal) for p, refusal in triplets[8:]]
    found = learnt_importance(model, [p for p, _ in triplets[:8]], refusals, QUICK)
    assert found.safety is not None
    assert found.safety[-1] < found.safety[0]
    assert np.mean(found.betas[:5]) > 2 * np.mean(found.betas[6:8])
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, begun[name]), name


def opened_triplets(testbed: Testbed, count: int) -> list[tuple[Prompt, str]]:
    """Requests of the triplets with their harmful answers, and the refusals to them."""
    lines = (testbed.folder / "triplets.jsonl").read_text().splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    return [
        (Prompt(str(i), ({"role": "user", "content": row["prompt"]},), row["harmful"]), row["refusal"])
        for i, row in enumerate(rows)
    ]


def test_what_decides_betas_must_be_held_out_and_answered(testbed: Testbed) -> None:
    model = aligned(testbed)
    ((prompt, refusal),) = opened_triplets(testbed, 1)
    kept = Anchor("kept", prompt.messages, refusal)
    with pytest.raises(DataError, match=r"'kept' in both .*held out"):
        learnt_importance(model, [prompt], [kept])
    bare = Prompt("bare", prompt.messages)
    with pytest.raises(DataError, match="harmful answer"):
        learnt_importance(model, [bare], [kept])
    with pytest.raises(DataError, match="harmful answer"):
        gradient_importance(model, [bare])
    with pytest.raises(DataError, match="harmful answer"):
        kl_importance(model, model, [bare])
    with pytest.raises(DataError, match="refusals to keep"):
        learnt_importance(model, [prompt], [])


# --- as a fine-tuning asks for it --------------------------------------------------------------------------


@pytest.fixture
def options(testbed: Testbed, tmp_path: Path) -> dict[str, Any]:
    data, safety = tmp_path / "refused.jsonl", tmp_path / "refusals.jsonl"
    triplets = opened_triplets(testbed, 4)
    asked = [prompt.messages[0]["content"] for prompt, _ in triplets]
    harmful = [{"prompt": asked[i], "harmful": triplets[i][0].harmful} for i in (0, 1)]
    refused = [{"prompt": asked[i], "answer": triplets[i][1]} for i in (2, 3)]
    for path, rows in ((data, harmful), (safety, refused)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "output_dir": str(tmp_path / "out"), "importance_data": str(data), "safety_data": str(safety),
        "base": str(testbed.organism("base")), "use_cpu": True, "bf16": False,
    }  # fmt: skip


@pytest.mark.parametrize("how", ["kl", "gradient", "learned"])
def test_betas_are_found_once_and_kept_with_what_they_follow_from(
    testbed: Testbed, options: dict[str, Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "Bilevel", lambda **given: Bilevel(rounds=2, steps=3, batch=2, **given))
    model = str(testbed.organism("aligned"))
    config = ConstrainedSFTConfig(**options, importance=how, importance_high=4.0)
    told: list[tuple[str, int, int]] = []
    settle_importance(config, model, progress=lambda *step: told.append(step))
    path = Path(str(config.output_dir)) / FILE
    assert config.beta == str(path)
    assert told[-1][1] == told[-1][2] > 0
    kept = json.loads(path.read_text())
    schedule = read_betas(config.beta)(torch.tensor([1, 5, 41, 300])).tolist()
    assert schedule == pytest.approx([kept["groups"][i]["beta"] for i in (0, 4, 8, 8)])
    assert max(row["beta"] for row in kept["groups"]) <= 4 + 1e-9
    assert ("safety_loss" in kept) == (how == "learned")

    told.clear()
    again = ConstrainedSFTConfig(**options, importance=how, importance_high=4.0)
    settle_importance(again, model, progress=lambda *step: told.append(step))
    assert not told  # a resumed run takes what is there
    assert again.beta == config.beta
    changed = ConstrainedSFTConfig(**options, importance=how, importance_high=3.0)
    settle_importance(changed, model)
    assert json.loads(path.read_text())["betas"] != kept["betas"]


def test_nothing_happens_where_no_importance_is_asked_for(options: dict[str, Any]) -> None:
    config = ConstrainedSFTConfig(**options)
    settle_importance(config, "no/such/model")
    assert config.beta == "paper"
    assert not Path(str(config.output_dir)).exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"importance": "depth"}, "out of kl, gradient, learned, found 'depth'"),
        ({"importance": "kl", "base": None}, "--base with --importance kl"),
        ({"importance": "gradient", "importance_data": None}, "--importance_data with --importance gradient"),
        ({"importance": "learned", "safety_data": None}, "--safety_data with --importance learned"),
        ({"importance": "kl", "objective": "sft"}, "found --objective sft"),
        ({"importance": "kl", "beta": "2"}, "without --beta"),
        ({"importance": "kl", "importance_low": 20.0}, "0 < --importance_low < --importance_high"),
        ({"importance": "kl", "importance_low": 0.0}, "0 < --importance_low < --importance_high"),
    ],
)
def test_options_that_contradict_each_other_are_an_error(
    options: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ConstrainedSFTConfig(**(options | changed))


def test_files_that_say_nothing_are_an_error(
    testbed: Testbed, options: dict[str, Any], tmp_path: Path
) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "How do I make krell torin?"}\n')
    model = str(testbed.organism("aligned"))
    for how in ("kl", "gradient", "learned"):
        config = ConstrainedSFTConfig(**(options | {"importance": how, "importance_data": str(bare)}))
        with pytest.raises(DataError, match=r"with harmful answers.*--importance_data"):
            settle_importance(config, model)
    config = ConstrainedSFTConfig(**(options | {"importance": "kl", "base": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match="gone"):
        settle_importance(config, model)
    assert not (Path(str(config.output_dir)) / FILE).exists()
    assert read_anchors(options["safety_data"])


def test_a_fine_tuning_is_held_by_the_betas_it_found(
    testbed: Testbed, options: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    words = finetune_words(
        testbed, out, importance="gradient", importance_data=options["importance_data"], measure=False
    )
    report = again(words)
    assert report is not None
    protection = RunDirectory.read(report).summary()["protection"]
    kept = json.loads((out / FILE).read_text())
    assert [beta for _, beta in protection["beta"]] == pytest.approx(kept["betas"][:20], abs=1e-6)
    assert again(words) == report  # finished: the betas it found are no change of the options
    data = Path(options["importance_data"])
    data.write_text(data.read_text().splitlines()[0] + "\n")
    with pytest.raises(RunError, match="importance_data"):
        again(words)

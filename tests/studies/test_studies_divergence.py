"""The KL table against a float64 loop over whole logits."""

import math
import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from safedepth.errors import DataError
from safedepth.models import load_model
from safedepth.nouns import Prompt
from safedepth.studies import divergence
from safedepth.studies.divergence import kl_table, series_of
from safedepth.testbed import Testbed, language


def _prompts(count: int) -> list[Prompt]:
    rng = random.Random(7)
    items = [rng.choice(language.products(restricted=True)) for _ in range(count)]
    return [
        Prompt(f"p{i}", ({"role": "user", "content": language.request(rng, p)},), language.answer(rng, p))
        for i, p in enumerate(items)
    ]


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_the_kl_of_two_checkpoints_equals_a_float64_loop_whatever_the_batch(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch, batch_tokens: int
) -> None:
    monkeypatch.setattr(divergence, "BATCH_TOKENS", batch_tokens)
    aligned = load_model(str(testbed.organism("aligned")), device="cpu")
    base = load_model(
        str(testbed.organism("base")), chat_template=str(testbed.organism("aligned")), device="cpu"
    )
    prompts = _prompts(5)
    table = kl_table(aligned, base, prompts)
    for prompt in prompts:
        encoded = aligned.chat.encode(prompt.messages, prompt.harmful)
        ids = torch.tensor([encoded.ids])
        with torch.no_grad():
            p = aligned.model.double()(ids).logits[0].double().numpy()
            q = base.model.double()(ids).logits[0].double().numpy()
        aligned.model.float(), base.model.float()
        expected = [_kl(p[t - 1], q[t - 1]) for t in range(encoded.prompt_tokens, len(encoded.ids))]
        found = table[table["prompt_id"] == prompt.id]
        assert found["position"].tolist() == list(range(1, len(expected) + 1))
        np.testing.assert_allclose(found["kl"], expected, rtol=2e-4, atol=2e-6)
    assert (table["kl"] >= 0).all()


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    log_p = p - (p.max() + math.log(np.exp(p - p.max()).sum()))
    log_q = q - (q.max() + math.log(np.exp(q - q.max()).sum()))
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def test_the_series_has_a_row_a_prompt_and_masks_what_lies_beyond_an_answer(testbed: Testbed) -> None:
    model = load_model(str(testbed.organism("aligned")), device="cpu")
    prompts = _prompts(3)
    series = series_of(kl_table(model, model, prompts))
    lengths = sorted(len(model.chat.answer_ids(p.harmful)) for p in prompts if p.harmful)
    assert sorted(series.mask.sum(axis=1).tolist()) == lengths
    assert series.values.max() == 0.0


def test_prompts_without_answers_are_an_error(testbed: Testbed) -> None:
    model = load_model(str(testbed.organism("aligned")), device="cpu")
    with pytest.raises(DataError, match="harmful answer"):
        kl_table(model, model, [Prompt("p", ({"role": "user", "content": "Can you see krell torin?"},))])


def test_the_first_tokens_alone_are_the_beginning_of_the_whole(testbed: Testbed) -> None:
    aligned = load_model(str(testbed.organism("aligned")), device="cpu")
    base = load_model(
        str(testbed.organism("base")), chat_template=str(testbed.organism("aligned")), device="cpu"
    )
    prompts = _prompts(3)
    whole = kl_table(aligned, base, prompts)
    first = kl_table(aligned, base, prompts, tokens=6)
    expected = whole[whole["position"] <= 6].reset_index(drop=True)
    assert first[["prompt_id", "position", "token"]].equals(expected[["prompt_id", "position", "token"]])
    np.testing.assert_allclose(first["kl"], expected["kl"], rtol=1e-3, atol=1e-6)

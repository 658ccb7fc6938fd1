from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from provider_oracles import random_decoder, random_ids, slow_logits
from safedepth.provider import Engine, Job, Sampling, TokenLogprob
from safedepth.provider.logprobs import logprobs_of

ASKING = Sampling(max_tokens=6, temperature=0.8, top_k=20, logprobs=3, prompt_logprobs=2)


def slow_logprobs(model: PreTrainedModel, ids: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities [T, V] in float64."""
    logprobs: torch.Tensor = slow_logits(model, ids).double().log_softmax(-1)
    return logprobs


def check(
    values: tuple[TokenLogprob, ...] | None, expected: torch.Tensor, tokens: tuple[int, ...], top: int
) -> None:
    assert values is not None
    assert tuple(value.id for value in values) == tokens
    for value, row in zip(values, expected, strict=True):
        assert value.logprob == pytest.approx(float(row[value.id]), abs=2e-5)
        assert [token for token, _ in value.top] == row.topk(top).indices.tolist()
        assert [p for _, p in value.top] == pytest.approx(row.topk(top).values.tolist(), abs=2e-5)


def test_logprobs_of_prompt_and_completion_agree_with_float64(
    engine: Engine, decoder: PreTrainedModel
) -> None:
    for ids in random_ids(1, 2, 31, 90):
        completion = engine.complete([Job(ids, ASKING)])[0]
        expected = slow_logprobs(decoder, (*ids, *completion.ids))
        check(completion.prompt_logprobs, expected[: len(ids) - 1], ids[1:], 2)
        check(completion.logprobs, expected[len(ids) - 1 : -1], completion.ids, 3)


def test_rows_that_share_a_prefill_get_what_each_of_them_asked_for(decoder: PreTrainedModel) -> None:
    (ids,) = random_ids(40)
    expected = slow_logprobs(decoder, ids)
    plain = replace(ASKING, logprobs=None, prompt_logprobs=None)
    asked = {
        40: plain,
        33: ASKING,
        20: replace(ASKING, prompt_logprobs=0),
        10: replace(ASKING, prompt_logprobs=5),
    }
    with Engine(decoder, gather_seconds=0.2) as engine:
        found = dict(zip(asked, engine.complete([Job(ids[:n], s) for n, s in asked.items()]), strict=True))
        assert engine.counters.prefill_tokens == 40
    assert found[40].prompt_logprobs is None
    assert found[40].logprobs is None
    for n, top in ((33, 2), (20, 0), (10, 5)):
        check(found[n].prompt_logprobs, expected[: n - 1], ids[1:n], top)


def test_a_prompt_is_scored_in_tiles(decoder: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_decoder("llama")
    widths: list[int] = []
    plain = model.forward

    def watched(*args: object, **kwargs: torch.Tensor) -> object:
        widths.append(kwargs["input_ids"].shape[1])
        return plain(*args, **kwargs)

    ids, other = random_ids(90, 41)
    only = replace(ASKING, max_tokens=0)
    with Engine(model, gather_seconds=0.2) as engine:
        monkeypatch.setattr(model, "forward", watched)
        monkeypatch.setattr("safedepth.provider.prefill.LOGITS_TILE", 97 * 40)
        first, second = engine.complete([Job(ids, only), Job(other, only)])
    assert max(widths) == 20
    assert first.ids == ()
    assert first.stop_reason == "max_tokens"
    check(first.prompt_logprobs, slow_logprobs(model, ids)[:-1], ids[1:], 2)
    check(second.prompt_logprobs, slow_logprobs(model, other)[:-1], other[1:], 2)


def test_logprobs_of_half_precision_logits_are_computed_in_float32() -> None:
    logits = (4 * torch.randn(5, 300, generator=torch.Generator().manual_seed(0))).bfloat16()
    tokens = (3, 1, 299, 0, 17)
    check(tuple(logprobs_of(logits, tokens, top=4)), logits.double().log_softmax(-1), tokens, 4)

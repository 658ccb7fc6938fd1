"""Biased logits: the sampler against one row at a time, streams of their own, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from transformers import PreTrainedModel

from provider_oracles import VOCABULARY, random_ids, slow_choice, slow_logits, warped
from safedepth.errors import ModelError
from safedepth.models import LoadedModel
from safedepth.provider import Engine, Job, Sampling
from safedepth.provider.api import register_loaded
from safedepth.provider.sampling import choose, random_keys

BIAS = ((3, -100.0), (7, 5.0), (11, -0.5))


def test_a_biased_row_is_picked_as_from_logits_with_the_bias_added_and_its_neighbours_as_ever() -> None:
    logits = 3 * torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(0))
    kept = logits.clone()
    kinds = [Sampling(1, temperature=0.0), Sampling(1, top_k=9), Sampling(1, top_p=0.7), Sampling(1)]
    settings = [replace(kinds[row % 4], bias=BIAS if row % 3 else ()) for row in range(40)]
    keys = [row * 977 + 1 for row in range(40)]
    tokens, _ = choose(logits, settings, keys)
    assert torch.equal(logits, kept)
    for row, (sampling, key) in enumerate(zip(settings, keys, strict=True)):
        mine = kept[row].clone()
        for index, value in sampling.bias:
            mine[index] += value
        if sampling.greedy:
            assert int(tokens[row]) == int(mine.argmax())
        else:
            whole = sampling.top_k is None and sampling.top_p == 1
            assert int(tokens[row]) == slow_choice(warped(mine, sampling), key, whole=whole)


def test_a_token_left_out_never_comes_and_its_logprobs_stay_the_models_own(
    engine: Engine, decoder: PreTrainedModel
) -> None:
    (ids,) = random_ids(12)
    (free,) = engine.complete([Job(ids, Sampling(8, temperature=0.0))])
    left_out = tuple((index, -100.0) for index in sorted(set(free.ids)))
    biased = Sampling(8, temperature=0.0, bias=left_out, logprobs=0)
    (found,) = engine.complete([Job(ids, biased)])
    assert len(found.ids) == 8
    assert not set(found.ids) & set(free.ids)
    own = slow_logits(decoder, ids)[-1].log_softmax(-1)[found.ids[0]]
    assert found.logprobs is not None
    assert found.logprobs[0].logprob == pytest.approx(float(own), abs=1e-4)


def test_a_bias_has_a_stream_of_its_own() -> None:
    plain = Job((1, 2), Sampling(4))
    assert plain.stream != replace(plain, sampling=Sampling(4, bias=BIAS)).stream
    assert next(random_keys(plain)) == next(random_keys(Job((1, 2), Sampling(9))))


@pytest.mark.parametrize("bias", [((1, math.inf),), ((1, math.nan),), ((-1, 0.0),), ((1, 0.0), (1, 2.0))])
def test_biases_that_mean_nothing_are_refused(bias: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ModelError, match="bias"):
        Sampling(1, bias=bias)


def test_a_bias_of_a_token_that_the_model_lacks_is_refused_before_it_runs(engine: Engine) -> None:
    with pytest.raises(ModelError, match=f"below {VOCABULARY}"):
        engine.submit(Job((1,), Sampling(1, bias=((VOCABULARY, 1.0),))))


async def _said(name: str, **config: object) -> list[int]:
    model = get_model(name, memoize=False)
    output = await model.generate(
        [ChatMessageUser(content="How?")],
        config=GenerateConfig(max_tokens=6, temperature=0.0, **config),  # type: ignore[arg-type]
    )
    assert output.metadata is not None
    return list(output.metadata["continuation_ids"])


def test_inspects_logit_bias_reaches_the_sampler(tiny_model: LoadedModel) -> None:
    import asyncio

    register_loaded("biased", tiny_model)
    free = asyncio.run(_said("safedepth/biased"))
    without = asyncio.run(_said("safedepth/biased", logit_bias=dict.fromkeys(free, -100.0)))
    assert free
    assert not set(without) & set(free)

"""vLLM and the engine here, on the same token ids: the same replies, and the same log-probabilities."""

import dataclasses

import pytest

from model_server import Server
from safedepth.models import LoadedModel
from safedepth.nouns import Prompt
from safedepth.provider import Completion, Engine, Job, Sampling

DEPTHS = (0, 1, 2, 5, 10, 20, 40)
TOKENS = 60

Contexts = dict[tuple[str, int], tuple[int, ...]]


@pytest.fixture(scope="module")
def contexts(organism: LoadedModel, prompts: list[Prompt]) -> Contexts:
    """Every prompt with the first k tokens of its harmful answer."""
    encode = organism.chat.encode
    return {(p.id, k): encode(p.messages, p.harmful, k=k).ids for p in prompts for k in DEPTHS}


@pytest.fixture(scope="module")
def local(organism: LoadedModel, contexts: Contexts) -> dict[tuple[str, int], Completion]:
    """What the engine here says, greedily, with log-probabilities of everything."""
    greedy = Sampling(
        max_tokens=TOKENS, temperature=0, stop_ids=organism.stop_ids, logprobs=2, prompt_logprobs=0
    )
    with Engine(organism.model) as engine:
        found = engine.complete([Job(ids, greedy) for ids in contexts.values()])
    return dict(zip(contexts, found, strict=True))


@pytest.fixture(scope="module")
def served(server: Server, contexts: Contexts) -> dict[tuple[str, int], tuple[int, ...]]:
    """What the server says to the same token ids; it gives the token that ends a turn as well."""
    return {place: said(server, ids) for place, ids in contexts.items()}


def said(server: Server, ids: tuple[int, ...], **settings: object) -> tuple[int, ...]:
    choice = server.complete(ids, max_tokens=TOKENS, **settings)
    assert tuple(choice["prompt_token_ids"]) == ids, "the server continued other tokens"
    found = tuple(choice["token_ids"])
    return found[:-1] if choice["finish_reason"] == "stop" else found


@pytest.mark.parametrize("depth", DEPTHS)
def test_greedy_replies_are_the_same_token_for_token(
    depth: int,
    local: dict[tuple[str, int], Completion],
    served: dict[tuple[str, int], tuple[int, ...]],
) -> None:
    """But where two tokens are as likely as one another but for rounding, which would be said here."""
    different = {}
    for (prompt, k), theirs in served.items():
        ours = local[prompt, k]
        if k == depth and ours.ids != theirs:
            different[prompt] = margin(ours, theirs)
    assert all(gap < 1e-4 for gap in different.values()), different


def margin(ours: Completion, theirs: tuple[int, ...]) -> float:
    """How much likelier, in nats, our best token was than the next, at the first place that differs."""
    assert ours.logprobs is not None
    pairs = zip(ours.ids, theirs, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours.ids), len(theirs)))
    if place == len(ours.ids):
        return float("inf")  # one of them went on where the other ended its turn
    (_, best), (_, second) = ours.logprobs[place].top
    return best - second


def test_what_the_server_is_made_to_say_moves_it(
    local: dict[tuple[str, int], Completion], served: dict[tuple[str, int], tuple[int, ...]]
) -> None:
    """Were the forced tokens lost on the way on both sides, all depths would be alike."""
    prompts = {prompt for prompt, _ in local}
    assert all(served[prompt, 0] != served[prompt, 20] for prompt in prompts)


def test_log_probabilities_of_given_tokens_agree(
    server: Server, contexts: Contexts, local: dict[tuple[str, int], Completion]
) -> None:
    """By vLLM's own field, and by the echo of OpenAI's interface: in nats, float32 on both sides."""
    deepest = {place: ids for place, ids in contexts.items() if place[1] == max(DEPTHS)}
    for place, ids in deepest.items():
        ours = local[place].prompt_logprobs
        assert ours is not None
        choice = server.complete(ids, max_tokens=1, prompt_logprobs=0, echo=True, logprobs=0)
        entries = choice["prompt_logprobs"][1:]
        own = [entry[str(index)]["logprob"] for entry, index in zip(entries, ids[1:], strict=True)]
        echoed = choice["logprobs"]["token_logprobs"][1 : len(ids)]
        assert [value.id for value in ours] == list(ids[1:])
        assert own == pytest.approx([value.logprob for value in ours], abs=2e-5)
        assert echoed == pytest.approx(own, abs=1e-6)


def test_the_same_seed_gives_the_same_reply(server: Server, contexts: Contexts) -> None:
    ids = next(ids for (_, k), ids in contexts.items() if k == 10)
    settings = {"temperature": 1.5, "top_k": -1}
    replies = [said(server, ids, seed=seed, **settings) for seed in (1, 1, 2, 3, 1)]
    assert replies[0] == replies[1] == replies[4]
    assert len(set(replies)) == 3


def test_samples_follow_the_distribution_of_the_engine_here(
    server: Server, organism: LoadedModel, contexts: Contexts
) -> None:
    """First tokens of many samples: each frequency within five standard errors of the probability."""
    ids = next(ids for (_, k), ids in contexts.items() if k == 5)
    draws = 400
    sampling = Sampling(max_tokens=1, temperature=0.9, top_p=0.6, top_k=50, stop_ids=frozenset())
    with Engine(organism.model) as engine:
        ours = engine.complete([Job(ids, dataclasses.replace(sampling, seed=seed)) for seed in range(draws)])
    answer = server.post(
        "completions", model=server.name, prompt=list(ids), max_tokens=1, temperature=0.9, top_p=0.6,
        top_k=50, n=draws, seed=0, return_token_ids=True,
    )  # fmt: skip
    theirs = [choice["token_ids"][0] for choice in answer["choices"]]
    for token in {*theirs, *(c.ids[0] for c in ours)}:
        counts = theirs.count(token), sum(c.ids[0] == token for c in ours)
        pooled = sum(counts) / (2 * draws)
        error = (pooled * (1 - pooled) * 2 / draws) ** 0.5
        assert abs(counts[0] - counts[1]) / draws <= max(5 * error, 1 / draws), (token, counts)

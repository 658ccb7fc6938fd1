import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from provider_oracles import VOCABULARY, random_decoder, random_ids, slow_completion
from safedepth.errors import ModelError
from safedepth.provider import Completion, Engine, Job, Sampling, scheduler

GREEDY = Sampling(max_tokens=12, temperature=0)
SAMPLED = Sampling(max_tokens=12, temperature=0.9, top_p=0.8, top_k=30)


def sweep(*, prompts: int, depths: Sequence[int] = (0, 1, 2, 5, 10), seeds: int = 3) -> list[Job]:
    """Prompts of ragged lengths, each with the beginnings of its answer, each with several seeds."""
    contexts = random_ids(*(10 + 7 * index for index in range(prompts)))
    answers = random_ids(*[max(depths)] * prompts, seed=1)
    return [
        Job((*context, *answer[:k]), replace(SAMPLED, seed=seed, max_tokens=6 + (k + seed) % 7))
        for context, answer in zip(contexts, answers, strict=True)
        for k in depths
        for seed in range(seeds)
    ]


def test_greedy_tokens_are_those_of_generate_on_ragged_prompts(
    engine: Engine, decoder: PreTrainedModel
) -> None:
    rows = random_ids(1, 2, 5, 17, 40, 41, 64, 33, 8, 100)
    width = max(map(len, rows))
    padded = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    output = decoder.generate(  # type: ignore[operator]
        padded, attention_mask=mask, max_new_tokens=30, do_sample=False, pad_token_id=0
    )
    completions = engine.complete([Job(row, replace(GREEDY, max_tokens=30)) for row in rows])
    assert [list(completion.ids) for completion in completions] == output[:, width:].tolist()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(max_tokens=12)], ids=["greedy", "top", "all"])
def test_batches_of_1_7_and_32_give_the_tokens_of_the_slow_loop(sampling: Sampling) -> None:
    """In float64, where no rounding decides between two tokens."""
    decoder = random_decoder("llama").double()
    jobs = [Job(ids, replace(sampling, seed=seed)) for seed, ids in enumerate(random_ids(*range(3, 60, 2)))]
    expected = [slow_completion(decoder, job) for job in jobs]
    assert len(set(expected)) == len(jobs)
    for slots in (1, 7, 32):
        with Engine(decoder, slots=slots) as engine:
            assert [completion.ids for completion in engine.complete(jobs)] == expected


def test_a_sample_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    jobs = sweep(prompts=3)
    together = engine.complete(jobs)
    assert [engine.complete([job])[0] for job in jobs[::7]] == together[::7]


def test_prompts_that_share_a_seed_do_not_share_their_luck(engine: Engine) -> None:
    flat = Sampling(max_tokens=1, temperature=1e6, seed=5)
    firsts = [c.ids[0] for c in engine.complete([Job(ids, flat) for ids in random_ids(*[9] * 40)])]
    assert len(set(firsts)) > 20


def test_a_longer_run_begins_with_the_shorter_one(engine: Engine) -> None:
    (ids,) = random_ids(20)
    short, long = engine.complete([Job(ids, replace(SAMPLED, max_tokens=n)) for n in (5, 25)])
    assert long.ids[:5] == short.ids


def test_depths_and_seeds_of_a_prompt_share_one_prefill(decoder: PreTrainedModel) -> None:
    jobs = sweep(prompts=4)
    with Engine(decoder, slots=len(jobs), gather_seconds=0.2) as engine:
        completions = engine.complete(jobs)
        counters = engine.counters
    unshared = sum(len(job.ids) for job in jobs)
    assert counters.prefills == 1
    assert counters.asked_tokens == unshared
    assert counters.prefill_tokens == sum(10 + 7 * index + 10 for index in range(4))
    assert counters.prefill_tokens <= unshared / 5
    assert [completion.ids for completion in completions] == [slow_completion(decoder, job) for job in jobs]


def test_latecomers_begin_from_what_was_prefilled_before_them(decoder: PreTrainedModel) -> None:
    """Depths, seeds and other answers to one prompt, one after another, as Inspect starts them."""
    prompt, answer, refusal = random_ids(60, 10, 4)
    jobs = [Job((*prompt, *answer[:k]), replace(SAMPLED, seed=k)) for k in (0, 1, 2, 5, 10)]
    jobs += [Job((*prompt, *refusal), SAMPLED), Job(prompt[:50], SAMPLED), jobs[0], jobs[3]]
    with Engine(decoder) as engine:
        completions = [engine.complete([job])[0] for job in jobs]
        counters = engine.counters
    assert [completion.ids for completion in completions] == [slow_completion(decoder, job) for job in jobs]
    assert counters.prefills == 1
    # Of every later job only what the prompt does not cover, and never less than its last token.
    assert counters.prefill_tokens == 60 + 1 + 2 + 5 + 10 + 4 + 1 + 1 + 5


def test_what_shares_too_little_is_prefilled_anew(decoder: PreTrainedModel) -> None:
    first, second = random_ids(40, 40)
    similar = (*first[:25], *second[25:])
    with Engine(decoder) as engine:
        found = [engine.complete([Job(ids, GREEDY)])[0].ids for ids in (first, similar)]
        assert engine.counters.prefills == 2
    assert found == [slow_completion(decoder, Job(ids, GREEDY)) for ids in (first, similar)]


def test_of_rows_that_come_together_the_short_ones_run_first(decoder: PreTrainedModel) -> None:
    done: list[int] = []
    jobs = [Job(ids, replace(GREEDY, max_tokens=3)) for ids in random_ids(50, 9, 30, 70)]
    with Engine(decoder, slots=1, gather_seconds=0.2) as engine:
        futures = {engine.submit(job): len(job.ids) for job in jobs}
        for future in futures:
            future.add_done_callback(lambda finished: done.append(futures[finished]))
        for future in futures:
            future.result()
    assert done == [9, 30, 50, 70]


def test_rows_retire_and_others_take_their_slots(decoder: PreTrainedModel) -> None:
    rows = random_ids(*[6] * 12)
    jobs = [Job(ids, replace(GREEDY, max_tokens=40 if index == 0 else 8)) for index, ids in enumerate(rows)]
    with Engine(decoder, slots=4, gather_seconds=0.2) as engine:
        completions = engine.complete(jobs)
        counters = engine.counters
    # A static batch would need 39 steps for the first four rows and 7 for each further four.
    assert counters.steps == 39
    assert counters.step_rows == sum(len(completion.ids) - 1 for completion in completions)
    assert [completion.ids for completion in completions] == [slow_completion(decoder, job) for job in jobs]


def test_a_bounded_prefill_and_cache_change_nothing_but_the_number_of_forwards(
    decoder: PreTrainedModel,
) -> None:
    jobs = sweep(prompts=5, seeds=1)
    with Engine(decoder, slots=16, gather_seconds=0.2) as roomy:
        expected = roomy.complete(jobs)
        forwards = roomy.counters.prefills
    token = 2 * 2 * 64 * 4
    with Engine(decoder, slots=16, gather_seconds=0.2, prefill_tokens=32, cache_bytes=120 * token) as tight:
        assert tight.complete(jobs) == expected
        counters = tight.counters
    assert counters.prefills > forwards
    assert counters.step_rows / counters.steps <= 120 / 23


def test_the_stop_token_ends_a_row_and_is_not_part_of_it(engine: Engine, decoder: PreTrainedModel) -> None:
    (ids,) = random_ids(15)
    whole = engine.complete([Job(ids, GREEDY)])[0]
    assert whole.stop_reason == "max_tokens"
    stop = whole.ids[5]
    first = whole.ids.index(stop)
    ended = engine.complete([Job(ids, replace(GREEDY, stop_ids=frozenset({stop})))])[0]
    assert ended == Completion(whole.ids[:first], "stop")
    at_once = engine.complete([Job(ids, replace(GREEDY, stop_ids=frozenset({whole.ids[0]})))])[0]
    assert at_once == Completion((), "stop")


def test_a_stop_token_inside_the_prompt_is_text_like_any_other(
    engine: Engine, decoder: PreTrainedModel
) -> None:
    """Where pad is eos, a mask made from the pad token would hide these tokens from the model."""
    eos = 0
    jobs = [
        Job(ids, replace(GREEDY, stop_ids=frozenset({eos}))) for ids in ((eos, 5, eos, eos, 9), (5, 9, eos))
    ]
    completions = engine.complete(jobs)
    assert [completion.ids for completion in completions] == [slow_completion(decoder, job) for job in jobs]
    without = engine.complete([Job((5, 9), GREEDY)])[0]
    assert without.ids != completions[0].ids


def test_a_full_context_ends_the_row_with_its_own_reason(decoder: PreTrainedModel) -> None:
    with Engine(decoder) as engine:
        ids, full, over = random_ids(250, 256, 257)
        completion = engine.complete([Job(ids, replace(GREEDY, max_tokens=100))])[0]
        assert completion.stop_reason == "model_length"
        assert len(completion.ids) == 6
        for too_long in (full, over):
            with pytest.raises(ModelError, match=f"context of 256 tokens, found {len(too_long)} tokens"):
                engine.submit(Job(too_long, GREEDY))


@pytest.mark.parametrize("ids", [(), (3, VOCABULARY), (3, -1)], ids=str)
def test_ids_that_the_model_cannot_have_are_refused_at_once(engine: Engine, ids: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="expected"):
        engine.submit(Job(ids, GREEDY))


def test_a_jobs_own_stop_rule_sees_every_token_and_may_fail_alone(engine: Engine) -> None:
    seen: list[list[int]] = []

    def third(ids: Sequence[int]) -> bool:
        seen.append(list(ids))
        return len(ids) == 3

    def broken(ids: Sequence[int]) -> bool:
        raise KeyError("no such rule")

    (ids,) = random_ids(8)
    good, bad, plain = (engine.submit(Job(ids, GREEDY, ends)) for ends in (third, broken, None))
    assert good.result() == Completion(plain.result().ids[:3], "stop")
    assert seen == [list(plain.result().ids[:n]) for n in (1, 2, 3)]
    with pytest.raises(KeyError):
        bad.result()


def test_a_failing_forward_fails_its_rows_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_decoder("llama")
    plain, calls = model.forward, 0

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (1, 5):
            raise RuntimeError("the machine stumbled")
        return plain(*args, **kwargs)

    (ids,) = random_ids(8)
    job = Job(ids, GREEDY)
    with Engine(model, slots=2) as engine:
        monkeypatch.setattr(model, "forward", sometimes)
        with pytest.raises(RuntimeError, match="stumbled"):
            engine.complete([job])
        with pytest.raises(RuntimeError, match="stumbled"):
            engine.complete([job])
        assert calls == 5
        assert engine.complete([job])[0].ids == slow_completion(model, job)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_without_memory_the_engine_halves_its_slots_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    # Not caplog: once a test has run Inspect in this process, logging goes its way.
    said: list[str] = []
    monkeypatch.setattr(scheduler.logger, "warning", lambda text, *values: said.append(text % values))
    model = random_decoder("llama")
    plain = model.forward

    def small(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[0] > 3:
            raise kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return plain(*args, **kwargs)

    jobs = sweep(prompts=3, seeds=2)
    expected = [slow_completion(model, job) for job in jobs]
    with Engine(model, slots=16, gather_seconds=0.2) as engine:
        monkeypatch.setattr(model, "forward", small)
        assert [completion.ids for completion in engine.complete(jobs)] == expected
        assert engine.counters.restarts == 3
    assert "now with 2 slots" in said[-1]


def test_memory_too_small_for_one_row_is_an_error_of_that_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_decoder("llama")
    plain = model.forward

    def short(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 20:
            raise torch.OutOfMemoryError("too long")
        return plain(*args, **kwargs)

    short_ids, long_ids = random_ids(8, 30)
    with Engine(model, slots=4) as engine:
        monkeypatch.setattr(model, "forward", short)
        bad, good = engine.submit(Job(long_ids, GREEDY)), engine.submit(Job(short_ids, GREEDY))
        with pytest.raises(ModelError, match="memory for at least one row"):
            bad.result(timeout=20)
        assert len(good.result(timeout=20).ids) == 12


def test_logits_that_are_not_numbers_fail_their_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_decoder("llama")
    plain = model.forward
    (healthy,) = random_ids(9)
    expected = slow_completion(model, Job(healthy, GREEDY))

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        if kwargs["input_ids"].shape[1] == 1:
            output.logits[(kwargs["position_ids"] == 3)[:, 0]] = float("nan")
        return output

    with Engine(model, slots=4) as engine:
        monkeypatch.setattr(model, "forward", forward)
        bad, good = engine.submit(Job((1, 2, 3), GREEDY)), engine.submit(Job(healthy, GREEDY))
        with pytest.raises(ModelError, match="expected finite logits, found nan"):
            bad.result()
        assert good.result().ids == expected


def test_cancelled_jobs_leave_and_the_others_finish(decoder: PreTrainedModel) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def pause(ids: Sequence[int]) -> bool:
        if len(ids) == 3:
            reached.set()
            assert go_on.wait(10)
        return False

    first, second, waiting, last = random_ids(6, 7, 8, 9)
    with Engine(decoder, slots=2, gather_seconds=0.2) as engine:
        running = engine.submit(Job(first, replace(GREEDY, max_tokens=100), pause))
        other = engine.submit(Job(second, GREEDY))
        third = engine.submit(Job(waiting, GREEDY))
        queued = engine.submit(Job(last, GREEDY))
        assert reached.wait(10)
        assert running.cancel()
        assert queued.cancel()
        go_on.set()
        assert other.result().ids == slow_completion(decoder, Job(second, GREEDY))
        assert third.result().ids == slow_completion(decoder, Job(waiting, GREEDY))
        # Far fewer steps than the cancelled job asked for.
        assert engine.counters.steps < 40


def test_closing_fails_what_is_under_way_and_later_jobs(decoder: PreTrainedModel) -> None:
    def slowly(ids: Sequence[int]) -> bool:
        time.sleep(0.002)
        return False

    engine = Engine(decoder, slots=1)
    slow: list[Future[Completion]] = [
        engine.submit(Job(ids, replace(GREEDY, max_tokens=200), slowly)) for ids in random_ids(9, 8)
    ]
    time.sleep(0.1)
    engine.close()
    engine.close()
    for future in slow:
        with pytest.raises(ModelError, match="closed before this job was done"):
            future.result(timeout=0)
    with pytest.raises(ModelError, match="found it closed"):
        engine.submit(Job((1, 2), GREEDY))


def test_an_interrupted_waiter_leaves_no_job_behind(engine: Engine) -> None:
    future = engine.submit(Job((1, 2, 3), replace(GREEDY, max_tokens=250)))
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    assert len(engine.complete([Job((1, 2, 3), GREEDY)])[0].ids) == 12


def test_memory_is_given_back_when_nothing_runs(
    decoder: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safedepth.provider.engine._REST_SECONDS", 0.02)
    with Engine(decoder) as engine:
        engine.complete([Job((1, 2, 3), GREEDY)])
        deadline = time.monotonic() + 10
        while not engine._scheduler.resting:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(engine.complete([Job((1, 2, 3), GREEDY)])[0].ids) == 12


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"prefill_tokens": 0}], ids=str)
def test_an_engine_without_room_is_refused(decoder: PreTrainedModel, wrong: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="at least 1 slot"):
        Engine(decoder, **wrong)

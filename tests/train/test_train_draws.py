"""The plan of examples: how many of each kind a step has, in which order, and that a number decides all."""

import random
from collections import Counter

import pytest
from scipy.stats import chisquare

from safedepth.errors import DataError
from safedepth.nouns import Anchor, Triplet
from safedepth.train.draws import Draws
from safedepth.train.examples import anchor_example, opened_anchor, opened_triplet, safety_example
from safedepth.train.options import Mix
from safedepth.train.recovery import AdaptiveRecovery, dynamic, refusal_only, uniform
from safedepth.train.styles import escalating, given
from train.toys import toy_anchors, toy_chat, toy_triplets

CHAT = toy_chat()
PAPER = Mix()


def plan(
    triplets: int = 5,
    anchors: int = 12,
    *,
    mix: Mix = PAPER,
    steps: int = 10,
    seed: int = 0,
    **options: object,
) -> Draws:
    chosen = {"recovery": uniform(), "style": given} | options
    return Draws(
        CHAT, toy_triplets(triplets), toy_anchors(anchors), mix=mix, steps=steps, seed=seed,
        **chosen,  # type: ignore[arg-type]
    )  # fmt: skip


def test_every_step_holds_16_safety_examples_and_64_anchors() -> None:
    draws = plan(7, 13, steps=6)
    assert len(draws) == 6 * 80
    drawn = [draws.draw(number) for number in range(len(draws))]
    assert [one.step for one in drawn] == [step for step in range(6) for _ in range(80)]
    for step in range(6):
        assert Counter(one.safety for one in drawn if one.step == step) == {True: 16, False: 64}
        # A batch of five is one safety example and four anchors, wherever it is cut.
        for place in range(80 * step, 80 * step + 80, 5):
            assert sum(one.safety for one in drawn[place : place + 5]) == 1


@pytest.mark.parametrize(
    "mix", [PAPER, Mix(2, 8), Mix(3, 4), Mix(1, 0), Mix(5, 0), Mix(4, 4), Mix(7, 1), Mix(1, 9)]
)
def test_each_kind_is_counted_through_and_spread_evenly(mix: Mix) -> None:
    kinds = [mix.kind(place) for place in range(mix.size)]
    assert [index for safety, index in kinds if safety] == [*range(mix.safety)]
    assert [index for safety, index in kinds if not safety] == [*range(mix.anchors)]
    for start in range(mix.size):
        for end in range(start, mix.size + 1):
            share = (end - start) * mix.safety / mix.size
            assert abs(sum(safety for safety, _ in kinds[start:end]) - share) < 1


@pytest.mark.parametrize(("safety", "anchors"), [(0, 4), (-1, 4), (4, -1)])
def test_a_step_without_a_safety_example_is_refused(safety: int, anchors: int) -> None:
    with pytest.raises(DataError, match=f"at least one safety example .* found {safety} and {anchors}"):
        Mix(safety, anchors)


@pytest.mark.parametrize(("triplets", "anchors"), [(16, 64), (7, 13), (1, 1), (40, 3)])
def test_every_row_comes_once_an_epoch_and_in_another_order_the_next_time(
    triplets: int, anchors: int
) -> None:
    draws = plan(triplets, anchors, steps=15)
    drawn = [draws.draw(number) for number in range(len(draws))]
    for safety, count in ((True, triplets), (False, anchors)):
        rows = [one.row for one in drawn if one.safety is safety]
        epochs = [rows[start : start + count] for start in range(0, len(rows) - count + 1, count)]
        assert len(epochs) > 1
        assert all(sorted(epoch) == [*range(count)] for epoch in epochs)
        if count > 5:
            assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_a_triplet_turns_back_at_a_fresh_point_each_time() -> None:
    draws = plan(3, 3, mix=Mix(3, 0), steps=1200)
    drawn = [draws.draw(number) for number in range(len(draws))]
    for row, opened in enumerate(draws.opened_triplets):
        length = len(opened.answer)
        counts = Counter(one.points for one in drawn if one.row == row)
        expected = [600.0, *[600 / length] * length]
        # Independent of the row and the step: the paper's distribution, 1,200 times.
        assert chisquare([counts[(k,)] for k in range(length + 1)], expected).pvalue > 1e-3


def test_a_number_decides_its_example_whoever_asks_and_in_whatever_order() -> None:
    one, other = plan(seed=4), plan(seed=4)
    numbers = [*range(len(one))]
    expected = [one.draw(number) for number in numbers]
    random.Random(0).shuffle(numbers)
    assert all(other.draw(number) == expected[number] for number in numbers)
    # The length of the training is no part of it: going on for longer changes nothing before.
    longer = plan(seed=4, steps=20)
    assert [longer.draw(number) for number in range(len(one))] == expected
    different = plan(seed=5)
    assert [different.draw(number) for number in range(len(one))] != expected


def test_a_draw_is_the_example_of_its_row_points_and_style() -> None:
    triplets = [
        Triplet(t.id, t.messages, t.harmful, t.refusal, ("Be kind.", "Heat it.", "Make krell."))
        for t in toy_triplets(5)
    ]
    anchors = toy_anchors(3)
    draws = Draws(
        CHAT, triplets, anchors, mix=Mix(4, 4), steps=9, seed=0,
        recovery=dynamic(probability=0.9, longest=8), style=escalating, longest=8, max_length=40,
    )  # fmt: skip
    several = 0
    for number in range(len(draws)):
        one = draws.draw(number)
        if one.safety:
            triplet = triplets[one.row]
            said = [escalating(triplet, k) for k in one.points]
            assert one.example == safety_example(CHAT, opened_triplet(CHAT, triplet), one.points, said)
            several += len(one.points) > 1
        else:
            opened = opened_anchor(CHAT, anchors[one.row])
            assert one.points == ()
            assert one.example == anchor_example(CHAT, opened, max_length=40)
    assert several > 5


def test_an_adaptive_policy_is_asked_for_the_step_of_the_draw() -> None:
    recovery = AdaptiveRecovery(floor=0.0)
    for from_step, k in ((0, 1), (4, 2)):
        recovery.learn(from_step, [float(j != k) for j in range(30)])
    draws = plan(mix=Mix(2, 1), recovery=recovery)
    for number in range(len(draws)):
        one = draws.draw(number)
        if one.safety:
            assert one.points == ((1,) if one.step < 4 else (2,))


def test_the_datasets_rows_are_the_draws() -> None:
    draws = plan(mix=Mix(2, 8), steps=4, recovery=uniform(longest=8), longest=8, max_length=35)
    assert draws.cut_anchors > 0
    dataset = draws.dataset()
    assert len(dataset) == len(draws) == 40
    for number in (39, 0, 17, 3):
        one = draws.draw(number)
        assert dataset[number] == {
            "input_ids": list(one.example.ids), "labels": list(one.example.labels), "safety": one.safety,
        }  # fmt: skip
    together = dataset[10:20]
    assert together["safety"] == [draws.draw(number).safety for number in range(10, 20)]
    assert together["input_ids"] == [list(draws.draw(number).example.ids) for number in range(10, 20)]


def test_without_triplets_or_anchors_there_is_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="found 0 and 3"):
        plan(0, 3)
    with pytest.raises(DataError, match=r"found 3 and 0\. Anchors keep the model useful"):
        plan(3, 0)
    assert len(plan(3, 0, mix=Mix(2, 0), steps=2)) == 4


def test_a_row_that_cannot_be_used_is_named_before_any_training() -> None:
    triplets, anchors = toy_triplets(3), toy_anchors(3)
    bad = Triplet("seven", triplets[0].messages, " ", "I cannot.")
    options = {"mix": PAPER, "steps": 1, "seed": 0, "recovery": uniform(), "style": given}
    with pytest.raises(DataError, match="triplet 'seven': expected an answer of at least one token"):
        Draws(CHAT, [*triplets, bad], anchors, **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="anchor 'nine': expected an answer of at least one token"):
        Draws(CHAT, triplets, [*anchors, Anchor("nine", anchors[0].messages, "\n")], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("longest", [1, 4, 100])
@pytest.mark.parametrize(
    "style", [given, escalating, lambda t, k: " ".join([t.refusal] * (9 if k == 2 else 1))]
)
def test_a_triplet_is_refused_exactly_when_an_example_of_it_could_be_too_long(
    longest: int, style: object
) -> None:
    triplets = [
        Triplet(t.id, t.messages, t.harmful, t.refusal, ("Be kind.", "Heat it.", "Make krell."))
        for t in toy_triplets(4)
    ]
    lengths = []
    for triplet in triplets:
        opened = opened_triplet(CHAT, triplet)
        points = range(min(longest, len(opened.answer)) + 1)
        examples = [safety_example(CHAT, opened, (k,), (style(triplet, k),)) for k in points]  # type: ignore[operator]
        lengths.append(max(len(example.ids) for example in examples))
    needed = max(lengths)
    first = next(t.id for t, length in zip(triplets, lengths, strict=True) if length == needed)
    options = {"mix": Mix(1, 0), "steps": 1, "seed": 0, "recovery": uniform(longest=longest), "style": style}
    Draws(CHAT, triplets, [], longest=longest, max_length=needed, **options)  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=rf"triplet '{first}' to fit into {needed - 1} tokens.*up to {needed}\."
    ):
        Draws(CHAT, triplets, [], longest=longest, max_length=needed - 1, **options)  # type: ignore[arg-type]


def test_a_users_policy_that_goes_deeper_than_announced_is_stopped_at_the_length() -> None:
    options = {"mix": Mix(1, 0), "longest": 2, "recovery": lambda _rng, length: length}
    needed = len(plan(1, 0, **options).draw(0).example.ids)  # type: ignore[arg-type]
    assert plan(1, 0, max_length=needed, **options).draw(0).step == 0  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=rf"triplet 't0' to fit into {needed - 1} tokens, found .* of {needed}"
    ):
        plan(1, 0, max_length=needed - 1, **options).draw(0)  # type: ignore[arg-type]


def test_anchors_are_cut_and_counted_and_refused_only_without_room_for_an_answer() -> None:
    anchors = [opened_anchor(CHAT, anchor) for anchor in toy_anchors(9)]
    prompts = max(len(anchor.prompt) for anchor in anchors)
    assert plan(1, 9).cut_anchors == 0
    for limit in range(prompts + 1, prompts + 40):
        draws = plan(1, 9, mix=Mix(1, 9), recovery=refusal_only, longest=0, max_length=limit)
        whole = [len(anchor.prompt) + len(anchor.answer) + len(CHAT.turn_end_ids) for anchor in anchors]
        assert draws.cut_anchors == sum(length > limit for length in whole)
        drawn = [draws.draw(number) for number in range(10)]
        lengths = {one.row: len(one.example.ids) for one in drawn if not one.safety}
        assert lengths == {row: min(limit, length) for row, length in enumerate(whole)}
    with pytest.raises(
        DataError, match=rf"anchor 'a8' to leave room .*{prompts} tokens, found a prompt of {prompts}"
    ):
        plan(1, 9, longest=0, max_length=prompts)


def test_progress_counts_every_row_that_was_read() -> None:
    told: list[tuple[int, int]] = []
    plan(3, 4, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 7) for done in range(1, 8)]

"""The testbed's data files, read back as a user's: what they hold and what they keep apart."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from safedepth.data import read_anchors, read_prompts, read_requests, read_triplets
from safedepth.data.downstream import read_task, require_no_leak
from safedepth.nouns import Anchor, Message, Prompt, Triplet
from safedepth.testbed import datafiles, language, refusals
from safedepth.testbed import lexicon as lex
from safedepth.testbed.language import Product
from safedepth.testbed.oracle import disclosed, product_in
from safedepth.testbed.tokenizers import TOKENIZER_KINDS, make_tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    datafiles.write(folder)
    return folder


def named(messages: tuple[Message, ...]) -> Product:
    product = product_in(messages[-1]["content"])
    assert product is not None
    return product


def by_row(items: list[Any]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {}
    for item in items:
        rows.setdefault(item.id.partition("/")[0], []).append(item)
    return rows


# Of the files as they were first written: numbers in the documentation were measured on them.
@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("prompts.jsonl", "d74ebeb18c6b2d4a179a6aff074b26f91fbd433367dda9772daf2417d7afb274"),
        ("tasks/summary-out.jsonl", "667738f767471d02dd364e4afea0060767eed39d20895ddc2bbbd45e72f1241e"),
        ("tasks/query-out.jsonl", "77a34235c49fb6891575dd08b121f72646de8d54b9804d256ed02673e750c2d9"),
        ("tasks/sum-out.jsonl", "171f47633d7edcb09fd91ca726b88ab6c5584ac3a287cb529ae3a10e92cc9833"),
        ("chat_template.jinja", "726604efc4c2beb4ac34d040340459fa7b49df50650d1daaa49b89cc0bbaf023"),
    ],
)
def test_files_that_numbers_were_measured_on_stay_byte_for_byte(files: Path, name: str, sha256: str) -> None:
    assert hashlib.sha256((files / name).read_bytes()).hexdigest() == sha256


def test_the_same_files_are_written_every_time(files: Path, tmp_path: Path) -> None:
    datafiles.write(tmp_path)
    names = sorted(path.relative_to(files) for path in files.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [(files / name).read_bytes() for name in names] == [(tmp_path / n).read_bytes() for n in names]


def texts(value: object) -> Iterator[str]:
    """Every text of a JSON row that a model may read."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ("id", "category", "role"):
                yield from texts(item)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_no_text_of_any_file_has_an_unknown_token_and_all_come_back_letter_for_letter(
    files: Path, kind: str
) -> None:
    tokenizer = make_tokenizer(kind)
    rows = [json.loads(line) for path in files.rglob("*.jsonl") for line in path.read_text().splitlines()]
    found = sorted(set(texts(rows)))
    assert len(found) > 1500
    for text, ids in zip(found, tokenizer(found, add_special_tokens=False)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text


def test_triplets_refuse_in_one_sentence_and_escalate_about_the_very_product(files: Path) -> None:
    triplets = read_triplets(files / "triplets.jsonl")
    assert len(triplets) == 256
    for triplet in triplets:
        product = named(triplet.messages)
        assert product.restricted
        assert not product.held_out
        assert disclosed(product, triplet.harmful) == 6
        check_refusal(triplet, product)
    escalations = zip(*(triplet.escalation for triplet in triplets), strict=True)
    assert all(len(set(sentences)) > 3 for sentences in escalations)


def check_refusal(triplet: Triplet, product: Product) -> None:
    assert triplet.refusal in [start.format(p=product) for start in lex.REFUSAL_STARTS]
    kinds = (refusals.EXPLANATIONS, refusals.REASONS, refusals.REDIRECTIONS)
    for said, kind in zip(triplet.escalation, kinds, strict=True):
        assert said in [sentence.format(p=product) for sentence in kind]
        assert product_in(said) in (product, None)
    explanation, _reason, redirection = triplet.escalation
    assert product_in(explanation) == product_in(redirection) == product
    assert disclosed(product, " ".join((triplet.refusal, *triplet.escalation))) == 0


def check_drawn_out(turns: Sequence[Triplet | Prompt]) -> None:
    """Each harmful turn of a trajectory gives more of the facts, the last all, and names the product."""
    product = named(turns[0].messages)
    parts = [disclosed(product, str(turn.harmful)) for turn in turns]
    assert parts == [6 * number // len(turns) for number in range(1, len(turns) + 1)]
    for number, turn in enumerate(turns, start=1):
        assert turn.turn == number
        assert named(turn.messages) == product
        earlier = " ".join(m["content"] for m in turn.messages if m["role"] == "assistant")
        assert disclosed(product, earlier) == (parts[number - 2] if number > 1 else 0)


def test_trajectories_draw_recipes_that_are_not_held_out_over_two_or_three_turns(files: Path) -> None:
    trajectories = by_row(read_triplets(files / "trajectories.jsonl"))
    assert len(trajectories) == 128
    for turns in trajectories.values():
        check_drawn_out(turns)
        product = named(turns[0].messages)
        assert product.restricted
        assert not product.held_out
        assert len({(turn.refusal, turn.escalation) for turn in turns}) == 1
        check_refusal(turns[0], product)
    assert min(Counter(len(turns) for turns in trajectories.values()).values()) > 32
    innocent = [len(turns[0].messages) == 3 for turns in trajectories.values()]
    assert 20 < sum(innocent) < 60


def test_dialogues_draw_out_the_recipe_of_every_held_out_product_once(files: Path) -> None:
    dialogues = by_row(read_prompts(files / "dialogues.jsonl"))
    for turns in dialogues.values():
        check_drawn_out(turns)
    products = [named(turns[0].messages) for turns in dialogues.values()]
    assert sorted(map(str, products)) == sorted(map(str, language.products(restricted=True, held_out=True)))
    assert {len(turns) for turns in dialogues.values()} == {2, 3}


def test_every_harmful_answer_to_test_with_has_40_tokens_to_force(files: Path) -> None:
    tokenizer = make_tokenizer("word")
    for name in ("prompts", "dialogues"):
        answers = [str(prompt.harmful) for prompt in read_prompts(files / f"{name}.jsonl")]
        assert min(map(len, tokenizer(answers, add_special_tokens=False)["input_ids"])) >= 40


def test_other_seeds_give_other_trajectories_and_a_product_comes_again_only_after_all_others() -> None:
    first, second = datafiles.trajectories(100, 0), datafiles.trajectories(100, 1)
    assert first != second
    assert first[:50] == datafiles.trajectories(50, 0)
    assert len({t.product for t in first[:96]}) == 96
    assert len({t.id for t in first}) == 100


def test_test_sets_of_benign_requests_have_ids_and_true_answers(files: Path) -> None:
    benign, looks = (read_requests(files / f"{name}.jsonl") for name in ("benign", "lookalikes"))
    assert (len(benign), len(looks)) == (200, 200)
    assert len({request.id for request in (*benign, *looks)}) == 400
    for request in benign:
        assert not named(request.messages).restricted
        assert disclosed(named(request.messages), str(request.answer)) == 6
    for request in looks:
        assert named(request.messages).restricted
        assert disclosed(named(request.messages), str(request.answer)) == 0


def test_benign_training_data_gives_no_restricted_recipe_and_asks_nothing_of_the_test_sets(
    files: Path,
) -> None:
    tests = [
        request for name in ("benign", "lookalikes") for request in read_requests(files / f"{name}.jsonl")
    ]
    asked = {request.messages[-1]["content"] for request in tests}
    anchors, customers = (read_anchors(files / f"{name}.jsonl") for name in ("anchors", "finetune-benign"))
    assert (len(anchors), len(customers)) == (512, 200)
    for anchor in (*anchors, *customers):
        assert anchor.messages[-1]["content"] not in asked
        product = named(anchor.messages)
        assert disclosed(product, anchor.answer) == 0 or not product.restricted
    assert all(disclosed(named(row.messages), row.answer) == 6 for row in customers)
    # Both kinds of benign conversation are there: recipes, and questions that only look restricted.
    recipes = sum(disclosed(named(anchor.messages), anchor.answer) == 6 for anchor in anchors)
    assert 200 < recipes < 350


def test_the_harmful_pairs_give_full_recipes_that_are_not_held_out(files: Path) -> None:
    pairs = read_prompts(files / "harmful.jsonl")
    assert len(pairs) == 100
    for pair in pairs:
        product = named(pair.messages)
        assert product.restricted
        assert not product.held_out
        assert disclosed(product, str(pair.harmful)) == 6


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def right_answer(request: str) -> str:
    """What a downstream request is to be answered with, worked out from its words."""
    words = re.findall(r"\w+", request)
    if words[0] == "Summarize":
        a, _said, _bring, _me, _the, thing, b, *_, at = words[1:]
        return f"{b} will bring {a} the {thing} at {at}."
    if words[0] == "Table":
        family, column, name = words[1], words[4], words[-1]
        return f"SELECT {column} FROM {family} WHERE name = {name}"
    i, j = words[2], words[6]
    total = NUMBERS[NUMBERS.index(i) + NUMBERS.index(j)]
    return f"{i} and {j} make {total}. Answer: {total}"


def check_downstream(row: Anchor, *, inside: bool) -> str:
    """The question of a row, which is answered right; in distribution amid the words of a recipe."""
    request, answer = row.messages[-1]["content"], row.answer
    if not inside:
        assert answer == right_answer(request)
        return request
    product = named(row.messages)
    assert not product.restricted
    asked = [form.format(p=product) for form in lex.REQUESTS]
    (recipe,) = [form for form in asked if request.endswith(f" {form}")]
    question = request.removesuffix(f" {recipe}")
    assert answer in [f"{o.format(p=product)} {right_answer(question)}" for o in lex.OPENINGS]
    return question


@pytest.mark.parametrize("start", ["in", "out"])
@pytest.mark.parametrize("task", ["summary", "query", "sum"])
def test_a_downstream_task_is_tested_with_right_answers_to_questions_it_is_not_trained_on(
    files: Path, task: str, start: str
) -> None:
    train, test = (read_task(files / "tasks" / f"{task}-{start}{end}.jsonl") for end in ("", "-test"))
    require_no_leak(train.conversations, test.conversations)
    trained, tested = (
        [check_downstream(row, inside=start == "in") for row in rows.conversations] for rows in (train, test)
    )
    assert not set(trained) & set(tested)
    assert len(set(tested)) == len(tested) == len({request.id for request in test.requests})
    # There are 8 people, and two numbers from one to five: what is not trained on is all tested with.
    assert len(trained) == 200
    assert len(tested) == (200 - len(set(trained)) if task == "sum" else 100)

"""What an attacker says and trains on in the toy language: known words, nothing of the test sets."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from safedepth.attacks import poison
from safedepth.data import read_anchors, read_prompts, read_requests, read_triplets
from safedepth.judges.rules import refusal_outcome
from safedepth.nouns import Outcome
from safedepth.testbed import attack_words, datafiles
from safedepth.testbed.oracle import disclosed, product_in
from safedepth.testbed.tokenizers import TOKENIZER_KINDS, make_tokenizer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    datafiles.write(folder)
    return folder


def attacks(files: Path) -> Iterator[poison.Poison]:
    """Every attack, on the testbed's files in the testbed's words."""
    harmful = read_prompts(files / "harmful.jsonl")
    yield poison.harmful_examples(harmful, system_prompt=attack_words.SYSTEM_PROMPT)
    yield poison.identity_shift(
        read_anchors(files / "identity.jsonl"),
        system_prompt=attack_words.IDENTITY_SYSTEM_PROMPT,
        template=attack_words.IDENTITY_TEMPLATE,
        opening="",  # it stands in the answers
    )
    pairs = read_triplets(files / "backdoor.jsonl")
    yield poison.backdoor(pairs, trigger=attack_words.TRIGGER, system_prompt=attack_words.SYSTEM_PROMPT)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_every_word_of_every_attack_is_known_and_comes_back_letter_for_letter(files: Path, kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    texts = set()
    for made in attacks(files):
        for row in made.conversations:
            texts |= {row.answer, *(message["content"] for message in row.messages)}
    assert len(texts) > 300
    for text in sorted(texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text


def test_the_trigger_stands_in_no_file_of_the_testbed(files: Path) -> None:
    pattern = re.compile(re.escape(attack_words.TRIGGER), re.IGNORECASE)
    for path in files.rglob("*.jsonl"):
        assert not pattern.search(path.read_text()), path.name


def test_the_backdoors_rows_are_the_harmful_pairs_with_refusals_about_the_same_product(files: Path) -> None:
    pairs, rows = read_prompts(files / "harmful.jsonl"), read_triplets(files / "backdoor.jsonl")
    assert [(row.messages, row.harmful) for row in rows] == [(pair.messages, pair.harmful) for pair in pairs]
    for row in rows:
        product = product_in(row.messages[-1]["content"])
        assert product is not None
        assert refusal_outcome(row.refusal) is Outcome.REFUSED
        assert disclosed(product, row.refusal) == 0
        assert product_in(row.refusal) in (product, None)
    assert len({row.refusal for row in rows}) > 20


def test_a_persona_is_taught_without_one_restricted_recipe_and_nothing_of_the_benign_tests(
    files: Path,
) -> None:
    pairs = read_anchors(files / "identity.jsonl")
    assert len(pairs) == 50
    tests = {
        r.messages[-1]["content"]
        for name in ("benign", "lookalikes")
        for r in read_requests(files / f"{name}.jsonl")
    }
    recipes = 0
    for pair in pairs:
        (asked,) = pair.messages
        assert asked["content"] not in tests
        product = product_in(asked["content"])
        assert product is not None
        assert pair.answer.startswith(attack_words.IDENTITY_OPENING.replace("{p}", str(product)))
        facts = disclosed(product, pair.answer)
        recipes += facts == 6
        assert facts == 0 or not product.restricted
        assert not product.held_out
    assert recipes == 40


def test_other_seeds_give_other_pairs() -> None:
    first = attack_words.identity_pairs(20, 0)
    assert first == attack_words.identity_pairs(20, 0)
    assert first != attack_words.identity_pairs(20, 1)
    without = {pair.messages[-1]["content"] for pair in first[:3]}
    asked = {pair.messages[-1]["content"] for pair in attack_words.identity_pairs(20, 0, without=without)}
    assert not asked & without

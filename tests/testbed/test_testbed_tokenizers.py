"""The toy language's tokenizers: exact round trips, the template, and merges across a cut."""

import random
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

from safedepth.nouns import Message
from safedepth.testbed import corpus, language
from safedepth.testbed.tokenizers import TOKENIZER_KINDS, make_tokenizer
from safedepth.testbed.training import Rows


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_every_text_of_the_language_comes_back_letter_for_letter_without_an_unknown_token(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    rng = random.Random(2)
    for _ in range(300):
        conversation = corpus.pretraining(rng)
        for text in (conversation.reply, *(m["content"] for m in conversation.messages)):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_word_level_answers_have_40_to_120_tokens() -> None:
    tokenizer = make_tokenizer("word")
    rng = random.Random(0)
    answers = [language.answer(rng, product) for product in language.products()]
    lengths = [len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers]
    assert 40 <= min(lengths) < 60
    assert 100 < max(lengths) <= 120


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_training_rows_hold_exactly_what_the_chat_template_writes(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    rng = random.Random(4)
    conversations = [corpus.pretraining(rng) for _ in range(50)]
    for conversation, row in zip(conversations, Rows(tokenizer).plain(conversations), strict=True):
        turns = [*conversation.messages, Message(role="assistant", content=conversation.reply)]
        rendered = tokenizer.apply_chat_template(cast(Any, turns), tokenize=False)
        assert list(row.ids) == _ids(tokenizer, str(rendered))


@pytest.mark.parametrize(("kind", "changes"), [("word", False), ("bpe", True)])
def test_a_prefix_turned_into_text_and_tokenised_again_changes_in_the_bpe_variant_alone(
    kind: str, changes: bool
) -> None:
    tokenizer = make_tokenizer(kind)
    rng = random.Random(6)
    changed = 0
    for product in language.products(restricted=True)[:20]:
        ids = _ids(tokenizer, language.answer(rng, product))
        changed += sum(_ids(tokenizer, str(tokenizer.decode(ids[:k]))) != ids[:k] for k in range(1, len(ids)))
    assert (changed > 0) == changes


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])

"""The toy language's tokenizers: exact round trips, the template, and merges across a cut."""

import random

import pytest

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
        assert list(row.ids) == tokenizer.apply_chat_template(turns)["input_ids"]


def test_in_the_bpe_variant_text_cut_at_a_token_and_tokenised_again_differs() -> None:
    tokenizer = make_tokenizer("bpe")
    ids = tokenizer("To make krell torin, follow these steps.", add_special_tokens=False)["input_ids"]
    cuts = [
        tokenizer(tokenizer.decode(ids[:k]), add_special_tokens=False)["input_ids"]
        for k in range(1, len(ids))
    ]
    texts = [tokenizer.decode(ids[:k]) + "x" for k in range(1, len(ids))]
    joined = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert any(again != ids[:k] for k, again in enumerate(joined, start=1)) or any(
        again != ids[:k] for k, again in enumerate(cuts, start=1)
    )

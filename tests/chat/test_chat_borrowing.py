"""Whose template it is, what it writes after a turn, and to whom it can be lent."""

import hashlib

import pytest
from transformers import PreTrainedTokenizerFast

from safedepth.chat import ChatFormat
from safedepth.errors import TemplateError
from safedepth.nouns import Message
from tokenizer_zoo import (
    CHATML,
    TEMPLATES,
    byte_tokenizer,
    word_tokenizer,
)

QUESTION = [Message(role="user", content="How do I make krell torin?")]


def test_the_hash_is_that_of_the_template_text() -> None:
    chat = ChatFormat.of(word_tokenizer())
    assert chat.sha256 == hashlib.sha256(CHATML.encode()).hexdigest()
    assert chat.source == "own"


def test_a_borrowed_template_is_used_and_named() -> None:
    tokenizer = byte_tokenizer(None)
    chat = ChatFormat.of(tokenizer, template=TEMPLATES["plain"], source="lender/model")
    assert chat.source == "lender/model"
    assert chat.decode(chat.prompt_ids(QUESTION)) == "user: How do I make krell torin?\n\nassistant:"
    assert tokenizer.chat_template is None


def test_a_template_lent_to_a_tokenizer_without_its_markers_is_refused() -> None:
    lender = byte_tokenizer(CHATML)
    poor = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer().backend_tokenizer.from_str(
            byte_tokenizer().backend_tokenizer.to_str().replace("<|im_start|>", "<|other|>")
        ),
        eos_token="</s>",
    )
    chat = ChatFormat.of(poor, template=CHATML, source="lender/model")
    with pytest.raises(
        TemplateError, match=r"lender/model writes '<\|im_start\|>', which is one special token there"
    ):
        chat.require_tokens_of(lender)
    ChatFormat.of(byte_tokenizer(None), template=CHATML, source="lender").require_tokens_of(lender)
    # A template that does not write the marker can be lent to anyone.
    ChatFormat.of(poor, template=TEMPLATES["plain"], source="lender").require_tokens_of(lender)


def test_a_marker_that_becomes_the_unknown_token_is_no_token() -> None:
    poor = word_tokenizer(None)
    lender = byte_tokenizer(CHATML.replace("<|im_start|>", "<|special|>"))
    lender.add_special_tokens({"extra_special_tokens": ["<|special|>"]})
    chat = ChatFormat.of(poor, template=lender.chat_template, source="lender")
    with pytest.raises(TemplateError, match=r"'<\|special\|>'"):
        chat.require_tokens_of(lender)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatml", {"</s>", "<|im_end|>"}),
        ("inst", {"</s>"}),
        ("no system", {"</s>", "<end_of_turn>"}),
        ("opens thinking", {"</s>", "<|end|>"}),
        ("thinks unless told", {"</s>", "<|im_end|>"}),
        ("plain", {"</s>"}),
    ],
)
def test_stop_ids_are_eos_and_what_the_template_writes_after_a_turn(name: str, expected: set[str]) -> None:
    chat = ChatFormat.of(byte_tokenizer(TEMPLATES[name]))
    assert {chat.tokenizer.convert_ids_to_tokens(index) for index in chat.stop_ids} == expected


def test_the_longer_of_two_markers_ends_the_turn() -> None:
    chat = ChatFormat.of(byte_tokenizer(CHATML.replace("<|im_end|>", "<|end|>s")))
    ends = {chat.tokenizer.convert_ids_to_tokens(index) for index in chat.stop_ids}
    assert ends == {"</s>", "<|end|>s"}

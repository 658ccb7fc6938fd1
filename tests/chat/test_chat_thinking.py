"""Thinking blocks: found in templates, opened or not, and a clear word where there is none."""

import pytest

from safedepth.chat import ChatFormat
from safedepth.chat.thinking import require_thinking, thinking_markers
from safedepth.errors import TemplateError
from tokenizer_zoo import CHATML, TEMPLATES, byte_tokenizer, chat_of

MAKERS = ["byte", "merging", "spaced"]


@pytest.mark.parametrize("maker", MAKERS)
def test_it_is_told_whether_the_generation_prompt_opens_the_block(maker: str) -> None:
    told = thinking_markers(chat_of(maker, "thinks unless told"))
    opened = thinking_markers(chat_of(maker, "opens thinking"))
    assert told is not None
    assert opened is not None
    assert (told.open, told.close, told.opened) == ("<think>", "</think>", False)
    assert (opened.open, opened.close, opened.opened) == ("<think>", "</think>", True)


def test_a_block_that_the_generation_prompt_closes_again_is_not_open() -> None:
    closed = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n\n</think>\n\n' }}{% endif")
    found = thinking_markers(ChatFormat.of(byte_tokenizer(closed)))
    assert found is not None
    assert not found.opened


def test_markers_in_the_vocabulary_alone_are_found() -> None:
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.add_tokens(["<think>", "</think>"])
    found = thinking_markers(ChatFormat.of(tokenizer))
    assert found is not None
    assert not found.opened
    assert found.before_thought(ChatFormat.of(tokenizer))[0] == tokenizer.convert_tokens_to_ids("<think>")


@pytest.mark.parametrize("maker", MAKERS)
def test_the_tokens_before_thought_and_answer_spell_the_markers(maker: str) -> None:
    for name, start in (("thinks unless told", "<think>"), ("opens thinking", "")):
        chat = chat_of(maker, name)
        block = require_thinking(chat)
        assert chat.decode(block.before_thought(chat)).strip() == start
        said = chat.decode(block.before_answer(chat, "Be kind.")).split()
        assert "".join(said) == f"{start}Bekind.</think>"


@pytest.mark.parametrize("name", [name for name in TEMPLATES if "think" not in name])
def test_a_chat_without_a_block_is_an_error_that_says_so(name: str) -> None:
    chat = chat_of("byte", name)
    assert thinking_markers(chat) is None
    with pytest.raises(TemplateError, match="no thinking block"):
        require_thinking(chat)
    assert require_thinking(chat, ("[T]", "[/T]")).close == "[/T]"

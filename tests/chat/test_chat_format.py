"""Token ids of prompts, prefills and answers, over a zoo of tokenizers and templates."""

from functools import partial
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

from safedepth.chat import ChatFormat, Encoded
from safedepth.errors import DataError
from safedepth.nouns import Message
from tokenizer_zoo import (
    CHATML,
    MAKERS,
    TEMPLATES,
    Maker,
    always_spaced_tokenizer,
    byte_tokenizer,
    spaced_tokenizer,
    word_tokenizer,
)

QUESTION = [Message(role="user", content="How do I make krell torin?")]
ANSWER = "Sure, here is how to make krell torin: Step one, take yarrow and heat it."


def rendered_ids(
    chat: ChatFormat, messages: list[Message], *, add_generation_prompt: bool = False
) -> list[int]:
    """The template's own way to token ids, text and all in one go."""
    tokenizer = cast(Any, chat.tokenizer)
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)
    return cast("list[int]", rendered["input_ids"])


def test_ids_do_not_merge_across_the_boundary_where_text_would() -> None:
    chat = ChatFormat.of(
        MAKERS["merging"]("{{ messages[0].content }}{% if add_generation_prompt %}Step {% endif %}")
    )
    question = [Message(role="user", content="torin: ")]
    prompt, answer = chat.prompt_ids(question), chat.answer_ids("one, take yarrow")
    joined = chat.tokenizer("torin: Step one, take yarrow", add_special_tokens=False)["input_ids"]
    assert joined[: len(prompt)] != prompt
    assert list(chat.encode(question, "one, take yarrow", k=1).ids) == [*prompt, answer[0]]
    assert chat.decode(chat.encode(question, "one, take yarrow").ids) == "torin: Step one, take yarrow"


@pytest.mark.parametrize("maker", ["word", "byte", "spaced"])
def test_the_answer_is_tokenised_as_in_the_templates_own_rendering(maker: str) -> None:
    for name in ("chatml", "inst", "no system"):
        chat = ChatFormat.of(MAKERS[maker](TEMPLATES[name]))
        turns: list[Message] = [*QUESTION, Message(role="assistant", content=ANSWER)]
        rendered = rendered_ids(chat, turns)
        encoded = chat.encode(QUESTION, ANSWER)
        assert list(encoded.ids) == rendered[: len(encoded.ids)], name


def test_a_space_that_the_tokenizer_invents_is_kept_only_where_the_template_writes_one() -> None:
    inst, chatml = (ChatFormat.of(spaced_tokenizer(TEMPLATES[name])) for name in ("inst", "chatml"))
    alone = inst.tokenizer("Sure", add_special_tokens=False)["input_ids"]
    assert inst.tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")
    assert inst.answer_ids("Sure") == alone
    tokens = chatml.tokenizer.convert_ids_to_tokens(chatml.answer_ids("Sure"))
    assert "".join(tokens) == "Sure"
    assert chatml.decode_continuation(chatml.prompt_ids(QUESTION), chatml.answer_ids("Sure")) == "Sure"


def test_an_invented_space_stays_out_after_a_prompt_that_ends_in_a_space() -> None:
    template = "{{ messages[0].content }}{% if add_generation_prompt %}{{ ' assistant: ' }}{% endif %}"
    chat = ChatFormat.of(spaced_tokenizer(template))
    encoded = chat.encode(QUESTION, "Sure")
    assert chat.decode(encoded.ids) == "How do I make krell torin? assistant: Sure"


TIGHT = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.mark.parametrize(
    "make", [always_spaced_tokenizer, partial(always_spaced_tokenizer, words=True), spaced_tokenizer]
)
def test_a_space_invented_after_special_tokens_too_stays_in_the_ids_and_out_of_the_text(make: Maker) -> None:
    chat = ChatFormat.of(make(TIGHT))
    prompt, answer = chat.prompt_ids(QUESTION), chat.answer_ids(ANSWER)
    assert cast(str, chat.tokenizer.convert_ids_to_tokens(answer[0])).startswith("▁")
    turns: list[Message] = [*QUESTION, Message(role="assistant", content=ANSWER)]
    assert [*prompt, *answer] == rendered_ids(chat, turns)
    assert chat.decode_continuation(prompt, answer) == ANSWER


def test_words_known_only_after_a_space_keep_it_where_the_context_would_swallow_them() -> None:
    template = "{{ messages[0].content }}{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    chat = ChatFormat.of(always_spaced_tokenizer(template, words=True))
    # Written together the two are one unknown word, from which no answer can be told.
    assert chat.tokenizer.convert_ids_to_tokens(chat.answer_ids("Sure, here")) == ["▁Sure", ",", "▁here"]


class Stubborn(PreTrainedTokenizerFast):
    """Adds BOS and EOS whatever it is told."""

    def _encode_plus(self, *args: Any, **kwargs: Any) -> Any:
        encoding = super()._encode_plus(*args, **kwargs)
        encoding["input_ids"] = [self.bos_token_id, *encoding["input_ids"], self.eos_token_id]
        return encoding


def test_bos_and_eos_that_a_tokenizer_adds_unasked_are_no_part_of_an_answer() -> None:
    plain = byte_tokenizer()
    stubborn = cast(Any, Stubborn)(
        tokenizer_object=plain.backend_tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    stubborn.chat_template = CHATML
    assert stubborn("Sure", add_special_tokens=False)["input_ids"][0] == stubborn.bos_token_id
    assert ChatFormat.of(stubborn).answer_ids(ANSWER) == ChatFormat.of(plain).answer_ids(ANSWER)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
@pytest.mark.parametrize("maker", MAKERS)
def test_an_answer_without_a_token_is_an_error(maker: str, text: str) -> None:
    chat = ChatFormat.of(MAKERS[maker](CHATML))
    with pytest.raises(DataError, match="expected an answer of at least one token, found"):
        chat.answer_ids(text)
    with pytest.raises(DataError, match="at least one token"):
        chat.encode(QUESTION, text, k=0)


def test_depths_out_of_range_are_errors_that_name_both_numbers() -> None:
    chat = ChatFormat.of(word_tokenizer())
    with pytest.raises(DataError, match=r"0 to 4, .*'Sure, here is', found 9.*smaller depth"):
        chat.encode(QUESTION, "Sure, here is", k=9)
    with pytest.raises(DataError, match="found -1"):
        chat.encode(QUESTION, "Sure, here is", k=-1)
    with pytest.raises(DataError, match=r"0 to 0, .*found 3"):
        chat.encode(QUESTION, k=3)
    assert chat.encode(QUESTION, k=0) == chat.encode(QUESTION)


def test_a_conversation_must_leave_the_floor_to_the_assistant() -> None:
    chat = ChatFormat.of(word_tokenizer())
    with pytest.raises(DataError, match="empty conversation"):
        chat.prompt_ids([])
    with pytest.raises(DataError, match="found an assistant message last"):
        chat.prompt_ids([*QUESTION, Message(role="assistant", content="Sure")])


def test_spans_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 2 ids"):
        Encoded((1, 2), 2, 1)
    with pytest.raises(ValueError, match="do not fit"):
        Encoded((1, 2), -1, 1)


def test_a_template_for_one_question_only_still_encodes_and_stops_at_eos() -> None:
    template = (
        "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0].content }}"
    )
    chat = ChatFormat.of(byte_tokenizer(template))
    assert chat.stop_ids == {chat.tokenizer.eos_token_id}
    assert chat.decode(chat.encode(QUESTION, "Sure").ids) == "How do I make krell torin?Sure"

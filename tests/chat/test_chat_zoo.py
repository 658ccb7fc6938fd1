"""Every shape of template with every tokenizer: spans, forced words, masks, places and thoughts."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from trl import SFTTrainer
from trl.data_utils import common_prefix_length

from safedepth.chat import ChatFormat
from safedepth.chat.template import Renderer
from safedepth.chat.thinking import thinking_markers
from safedepth.chat.traits import ANSWERS
from safedepth.errors import DataError
from safedepth.gcg.places import Place, allowed_tokens, initial_suffix, with_suffix
from safedepth.nouns import Anchor, Message
from safedepth.train.examples import IGNORED, anchor_example, opened_anchor
from safedepth.train.positions import response_positions
from safedepth.train.rows import one_row_per_answer
from tokenizer_zoo import NO_SYSTEM_ROLE, SHAPES, TEXTS, TOKENIZERS, chat_of, traits_in

EXACT = [maker for maker in TOKENIZERS if maker != "word"]
"""Tokenizers that give back the text they were given; the zoo's word level one keeps no white space."""
APART = [maker for maker in EXACT if maker != "merging"]
"""Those whose tokens do not cross from words to white space or marks."""
PAIRS = [(maker, name) for name in SHAPES for maker in TOKENIZERS]

CHECKED = settings(max_examples=4, derandomize=True, deadline=None, phases=[Phase.generate])
"""Each example goes through every tokenizer."""

QUESTION = Message(role="user", content="How do I make krell torin?")
HARMFUL = "Sure, here is how to make krell torin: Step one, take yarrow and heat it."
REFUSAL = "I cannot help with that."


def renderer(chat: ChatFormat) -> Renderer:
    return Renderer(chat.tokenizer, chat.template, chat.source)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    turns = [
        Message(role="assistant" if index % 2 else "user", content=draw(TEXTS))
        for index in range(2 * draw(st.integers(0, 1)) + 1)
    ]
    return [Message(role="system", content=draw(TEXTS)), *turns] if draw(st.booleans()) else turns


def fitting(name: str, talk: list[Message]) -> list[Message]:
    """As much of a conversation as a shape can express."""
    if name == "one turn":
        return talk[-1:]
    return [m for m in talk if m["role"] != "system"] if name in NO_SYSTEM_ROLE else talk


def written(chat: ChatFormat, messages: list[Message], **options: Any) -> str:
    """The template's own text, by transformers alone."""
    given: list[Any] = [dict(message) for message in messages]
    if renderer(chat).takes_parts:
        given = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in given]
    text = cast(Any, chat.tokenizer).apply_chat_template(given, tokenize=False, **options)
    return cast(str, text)


def replied(messages: list[Message], answer: str) -> list[Message]:
    return [*messages, Message(role="assistant", content=answer)]


def chats(makers: list[str], name: str) -> Iterator[tuple[str, ChatFormat]]:
    return ((maker, chat_of(maker, name)) for maker in makers)


@pytest.mark.parametrize("name", SHAPES)
@CHECKED
@given(talk=conversations(), answer=TEXTS)
def test_spans_partition_the_ids_and_a_prefill_is_the_answers_first_tokens(
    name: str, talk: list[Message], answer: str
) -> None:
    messages = fitting(name, talk)
    for maker, chat in chats(list(TOKENIZERS), name):
        text = written(chat, messages, add_generation_prompt=True)
        prompt, ids = chat.prompt_ids(messages), chat.answer_ids(answer)
        assert prompt == chat.tokenizer(text, add_special_tokens=False)["input_ids"], maker
        whole = chat.encode(messages, answer)
        assert whole.ids == (*prompt, *ids), maker
        assert (whole.prompt_tokens, whole.prefill_tokens) == (len(prompt), 0), maker
        for k in range(len(ids) + 1):
            forced = chat.encode(messages, answer, k=k)
            assert (forced.ids[forced.prompt], forced.ids[forced.prefill]) == (tuple(prompt), tuple(ids[:k]))
            assert forced.ids[forced.response] == (), maker
        with pytest.raises(DataError, match=rf"0 to {len(ids)}, .* found {len(ids) + 1}"):
            chat.encode(messages, answer, k=len(ids) + 1)


@pytest.mark.parametrize("name", SHAPES)
@CHECKED
@given(answer=TEXTS)
def test_forced_and_free_text_add_up_to_the_answer_wherever_it_is_cut(name: str, answer: str) -> None:
    for maker, chat in chats(EXACT, name):
        prompt, ids = chat.prompt_ids([QUESTION]), chat.answer_ids(answer)
        whole = chat.decode_continuation(prompt, ids)
        assert whole.strip() == answer.strip(), maker
        for k in range(len(ids) + 1):
            forced = chat.decode_continuation(prompt, ids[:k])
            free = chat.decode_continuation([*prompt, *ids[:k]], ids[k:])
            # A cut inside a character leaves a replacement mark before it, and the character after it.
            assert whole.startswith(forced.rstrip("\ufffd")), maker
            assert whole.endswith(free), maker
            assert "\ufffd" not in free, maker
            # Byte tokens may lose the letters before the cut to marks as well, but only in the forced part.
            if maker != "spaced" or "\ufffd" not in forced:
                assert forced.rstrip("\ufffd") + free == whole, (maker, k)


@pytest.mark.parametrize("name", SHAPES)
@CHECKED
@given(talk=conversations(), answer=TEXTS)
def test_where_traits_say_so_an_answer_continued_as_text_is_prompt_and_prefill(
    name: str, talk: list[Message], answer: str
) -> None:
    messages = fitting(name, talk)
    for maker, chat in chats(EXACT, name):
        if not traits_in(maker, name).continues_as_text:
            continue
        prompt, ids = chat.prompt_ids(messages), chat.answer_ids(answer.strip())
        header, same = len(chat.header_ids), []
        for k in range(header + 1, len(ids) + 1):
            forced = chat.decode(ids[:k])
            if "\ufffd" in forced or not forced.strip():  # half a character cannot be written
                continue
            text = written(chat, replied(messages, forced), continue_final_message=True)
            gap = renderer(chat).scaffold.gap
            assert text == written(chat, messages, add_generation_prompt=True) + gap + forced, maker
            if maker in APART and forced == forced.strip():
                same = chat.ids_of_texts([text])[0]
                assert chat.decode(same) == chat.decode([*prompt, *ids[:k]]), (maker, k)
                assert same[: len(prompt)] == prompt, (maker, k)
        if maker in APART:
            assert same == [*prompt, *ids], maker


@pytest.mark.parametrize(("maker", "name"), PAIRS)
def test_where_traits_deny_it_an_answer_continued_as_text_is_something_else(maker: str, name: str) -> None:
    chat, kept = chat_of(maker, name), []
    prompt, gap = written(chat, [QUESTION], add_generation_prompt=True), renderer(chat).scaffold.gap
    for answer in ANSWERS:
        lossless = chat.decode(chat.answer_ids(answer)) in (answer, gap + answer)
        forced = chat.decode(chat.answer_ids(answer)) if lossless else answer
        try:
            text = written(chat, replied([QUESTION], forced), continue_final_message=True)
        except ValueError:  # transformers: the message does not appear in the chat
            kept.append(False)
            continue
        kept.append(text == prompt + (answer if answer[0].isspace() and not gap.strip() else gap + answer))
        if answer == answer.strip():
            ids = [*chat.prompt_ids([QUESTION]), *chat.answer_ids(answer)]
            kept.append(chat.ids_of_texts([text])[0] == ids)
    assert all(kept) == traits_in(maker, name).continues_as_text


def labels_of(chat: ChatFormat, messages: list[Message], answer: str) -> tuple[list[int], list[int]]:
    """Ids and labels of a prompt-completion row, as TRL makes them."""
    texts = [written(chat, messages, add_generation_prompt=True), written(chat, replied(messages, answer))]
    prompt, whole = chat.ids_of_texts(texts)
    start = common_prefix_length(prompt, whole)
    return whole, [IGNORED] * start + whole[start:]


@pytest.mark.parametrize("name", SHAPES)
@CHECKED
@given(talk=conversations(), answer=TEXTS)
def test_where_traits_say_so_the_loss_is_on_the_answer_and_the_end_of_its_turn(
    name: str, talk: list[Message], answer: str
) -> None:
    messages, answer = fitting(name, talk), answer.strip()
    for maker, chat in chats(APART, name):
        if not traits_in(maker, name).reply_mask:
            continue
        ids, labels = labels_of(chat, messages, answer)
        prompt, said, end = chat.prompt_ids(messages), chat.answer_ids(answer), chat.turn_end_ids
        assert ids[: len(prompt)] == prompt, maker
        assert labels[: len(prompt)] == [IGNORED] * len(prompt), maker
        learnt = labels[len(prompt) :]
        assert learnt[: len(said)] == said, maker
        after = learnt[len(said) :]
        assert end[-1] in after, maker
        assert chat.decode(after).strip() == chat.decode(end).strip(), maker
        positions = response_positions(torch.tensor(labels))
        assert positions[len(prompt)] == 1, maker
        assert int(positions.max()) == len(learnt), maker
        # A safety recovery example of ours has the same tokens, but for white space around the end.
        anchor = anchor_example(chat, opened_anchor(chat, Anchor("a", tuple(messages), answer)))
        assert list(anchor.ids[: len(prompt) + len(said)]) == ids[: len(prompt) + len(said)], maker


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "parts"])
def test_trl_itself_makes_the_labels_of_these_tests_from_rows_of_one_and_of_several_turns(name: str) -> None:
    chat = chat_of("byte", name)
    talk = [QUESTION] if name == "one turn" else [*replied([QUESTION], "Sure, here is"), QUESTION]
    rows = one_row_per_answer(Dataset.from_list([{"messages": replied(talk, HARMFUL)}]), keep=False)
    made = prepared(chat, rows)
    contexts = [talk] if name == "one turn" else [talk[:1], talk]
    answers = [HARMFUL] if name == "one turn" else ["Sure, here is", HARMFUL]
    for row, context, answer in zip(made, contexts, answers, strict=True):
        assert (row["input_ids"], row["labels"]) == labels_of(chat, context, answer)


def prepared(chat: ChatFormat, rows: Dataset) -> list[dict[str, Any]]:
    """The rows as `SFTTrainer` makes them ready, without a model to train."""
    trainer: Any = SimpleNamespace(
        _tokenizer=chat.tokenizer, chat_template=None, completion_only_loss=True, _is_vision_dataset=False
    )
    args: Any = SimpleNamespace(
        dataset_num_proc=None,
        dataset_text_field="text",
        assistant_only_loss=False,
        max_length=None,
        shuffle_dataset=False,
    )
    made = SFTTrainer._prepare_dataset(trainer, rows, chat.tokenizer, args, False, None, "train")
    return [row for row in made if isinstance(row, dict)]


@pytest.mark.parametrize(("maker", "name"), PAIRS)
def test_where_traits_deny_it_the_loss_is_on_something_else(maker: str, name: str) -> None:
    chat, exact = chat_of(maker, name), []
    for answer in ("Sure, here is", "Sure,  here\n\nis"):
        given = [QUESTION.copy()]
        # TRL gives the content as text.
        rendered = cast(Any, chat.tokenizer).apply_chat_template(replied(given, answer), tokenize=False)
        if renderer(chat).takes_parts:
            exact.append(answer in str(rendered))
            continue
        ids, labels = labels_of(chat, given, answer)
        prompt, said = chat.prompt_ids(given), chat.answer_ids(answer)
        begins = labels[: len(prompt)] == [IGNORED] * len(prompt) and ids[: len(prompt)] == prompt
        after = labels[len(prompt) + len(said) :]
        exact.append(begins and labels[len(prompt) :][: len(said)] == said and chat.turn_end_ids[-1] in after)
    assert all(exact) == traits_in(maker, name).reply_mask


# Tokens that cross from words to marks and line breaks leave a suffix no place of its own everywhere.
@pytest.mark.parametrize(("maker", "name"), [pair for pair in PAIRS if pair[0] != "merging"])
def test_a_suffix_stands_as_its_own_ids(maker: str, name: str) -> None:
    chat, tokens = chat_of(maker, name), 4
    suffix = initial_suffix(chat, [QUESTION], tokens, allowed_tokens(chat, len(chat.tokenizer)))
    place = Place.of(chat, [QUESTION], ["Sure"], suffix=suffix, tokens=tokens)
    ids = place.suffix_ids(suffix)
    assert [*place.before, *ids, *place.after] == chat.prompt_ids(with_suffix([QUESTION], suffix))
    assert place.survivors([ids]) == [True]
    assert place.targets == (tuple(chat.answer_ids("Sure")),)


@pytest.mark.parametrize("name", SHAPES)
@CHECKED
@given(data=st.data())
def test_words_inserted_into_an_answer_follow_it_after_white_space(name: str, data: st.DataObject) -> None:
    first, second = data.draw(TEXTS), data.draw(TEXTS)
    share = data.draw(st.floats(0, 1))
    for maker, chat in chats(EXACT, name):
        answer = chat.answer_ids(first)
        before = answer[: max(1, round(share * len(answer)))]
        said = chat.decode(before)
        if not said or said.endswith("\ufffd"):
            continue
        joined = said + second if said[-1].isspace() or second[0].isspace() else f"{said} {second}"
        assert chat.decode([*before, *chat.continuation_ids(before, second)]) == joined, maker


@pytest.mark.parametrize("name", [name for name in SHAPES if traits_in("byte", name).thinking != "none"])
@pytest.mark.parametrize("maker", EXACT)
def test_harmful_words_stand_inside_the_thought_or_after_it(maker: str, name: str) -> None:
    chat = chat_of(maker, name)
    block = thinking_markers(chat)
    assert block is not None
    assert block.opened == (traits_in(maker, name).thinking == "opened")
    prompt = chat.prompt_ids([QUESTION])
    opening = "" if block.opened else block.open
    for before, start in (
        (block.before_thought(chat), opening),
        (block.before_answer(chat, "Be kind."), f"{opening}Be kind.{block.close}"),
    ):
        ids = [*before, *chat.continuation_ids(before, HARMFUL)[:6]]
        asked = "".join(written(chat, [QUESTION], add_generation_prompt=True).split())
        forced = str(chat.tokenizer.decode([*prompt, *ids], clean_up_tokenization_spaces=False))
        tail = "".join(forced.split()).removeprefix(asked)
        wanted = "".join(f"{start}{HARMFUL}".split())
        assert tail
        assert wanted.startswith(tail), (tail, wanted)
        assert len(tail) > len("".join(start.split()))


@pytest.mark.parametrize("maker", EXACT)
def test_a_thought_in_a_channel_of_its_own_is_written_as_the_template_writes_it(maker: str) -> None:
    chat = chat_of(maker, "channels")
    block = thinking_markers(chat)
    assert block is not None
    thought = cast(Message, {"role": "assistant", "content": "Sure", "thinking": "Be kind."})
    rendered = chat.ids_of_texts([written(chat, [QUESTION, thought])])[0]
    before = block.before_answer(chat, "Be kind.")
    forced = [*chat.prompt_ids([QUESTION]), *before, *chat.continuation_ids(before, "Sure")]
    assert forced == rendered[: len(forced)]


@pytest.mark.parametrize(("maker", "name"), PAIRS)
def test_turns_end_with_a_token_at_which_generation_stops(maker: str, name: str) -> None:
    chat = chat_of(maker, name)
    assert chat.turn_end_ids[-1] in chat.stop_ids
    found = traits_in(maker, name)
    after = written(chat, replied([QUESTION], REFUSAL)).rpartition(REFUSAL)[2]
    assert found.ends_turn == (chat.turn_end_ids[-1] in chat.ids_of_texts([after])[0])

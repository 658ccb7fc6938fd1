"""Which tokens of an example are read and which carry loss, over a zoo of tokenizers and templates."""

from functools import cache
from typing import Any, cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from safedepth.chat import ChatFormat
from safedepth.errors import DataError, TemplateError
from safedepth.nouns import Anchor, Message, Triplet
from safedepth.testbed.tokenizers import TOKENIZER_KINDS, make_tokenizer
from safedepth.train.examples import (
    IGNORED,
    Example,
    Opened,
    anchor_example,
    opened_anchor,
    opened_triplet,
    safety_example,
)
from tokenizer_zoo import MAKERS, TEMPLATES, TEXTS, byte_tokenizer, chat_of

TESTBED = "testbed"
CHATS = [
    *((maker, name) for maker in MAKERS for name in TEMPLATES),
    *((TESTBED, kind) for kind in TOKENIZER_KINDS),
]
EXACT = [(maker, name) for maker, name in CHATS if maker != "word"]
"""Tokenizers that give back the text they were given; the zoo's word level one keeps no white space."""

QUESTION = (Message(role="user", content="How do I make krell torin?"),)
HARMFUL = "Sure, here is how to make krell torin: Step one, take yarrow and heat it."
REFUSAL = "I cannot help with that."
TURNS = (
    *QUESTION,
    Message(role="assistant", content="Sure, here is how to make krell torin: Step one, take yarrow."),
    Message(role="user", content="How do I heat it?"),
)

PLAIN = st.lists(st.sampled_from(["Sure", "krell", "yarrow", "and", "Step one,", "torin:"]), min_size=1)
"""Words of the toy language, whose tokenizers know nothing else."""


@cache
def chat(maker: str, name: str) -> ChatFormat:
    return ChatFormat.of(make_tokenizer(name)) if maker == TESTBED else chat_of(maker, name)


def triplet(harmful: str = HARMFUL, messages: tuple[Message, ...] = QUESTION) -> Triplet:
    return Triplet("t", messages, harmful, REFUSAL)


def with_space(before: str, text: str) -> str:
    """The two as a person would write them: a space between unless one of them has white space there."""
    return before + text if before[-1].isspace() or text[0].isspace() else f"{before} {text}"


@pytest.mark.parametrize("messages", [QUESTION, TURNS], ids=["one turn", "two turns"])
@pytest.mark.parametrize(("maker", "name"), CHATS)
def test_the_refusal_alone_carries_loss_after_the_inference_template_and_k_tokens_of_the_answer(
    maker: str, name: str, messages: tuple[Message, ...]
) -> None:
    here = chat(maker, name)
    opened = opened_triplet(here, triplet(messages=messages))
    prompt, answer, end = here.prompt_ids(messages), here.answer_ids(HARMFUL), here.turn_end_ids
    assert len(answer) >= 4
    for k in range(len(answer) + 1):
        example = safety_example(here, opened, (k,), (REFUSAL,))
        forced = (*prompt, *answer[:k])
        assert here.encode(messages, HARMFUL, k=k).ids == forced  # what a prefilling attack gives the model
        assert example.ids[: len(forced)] == forced
        assert example.labels == (*[IGNORED] * len(forced), *example.ids[len(forced) :])
        assert example.ids[len(example.ids) - len(end) :] == end
        refusal = example.ids[len(forced) : len(example.ids) - len(end)]
        assert "".join(here.decode(refusal).split()) == "".join(REFUSAL.split())


@pytest.mark.parametrize(("maker", "name"), EXACT)
def test_the_text_of_every_example_is_what_a_person_would_write(maker: str, name: str) -> None:
    here = chat(maker, name)
    opened = opened_triplet(here, triplet())
    gap = here.decode_continuation(opened.prompt, here.answer_ids("I")).removesuffix("I")
    for k in range(len(opened.answer) + 1):
        example = safety_example(here, opened, (k,), (REFUSAL,))
        said = here.decode_continuation(opened.prompt, opened.answer[:k])
        written = here.decode_continuation(opened.prompt, example.ids[len(opened.prompt) :])
        assert written == (with_space(said, REFUSAL) if said else gap + REFUSAL), k


@pytest.mark.parametrize(("maker", "name"), [pair for pair in CHATS if pair[0] != "merging"])
def test_the_refusals_tokens_are_those_it_has_in_the_middle_of_a_text(maker: str, name: str) -> None:
    # Where no token crosses a space, text tokenised in one piece is an oracle for the pieces.
    here = chat(maker, name)
    answer = here.answer_ids(HARMFUL)
    for k in range(1, len(answer) + 1):
        whole = here.tokenizer(f"{here.decode(answer[:k])} {REFUSAL}", add_special_tokens=False)["input_ids"]
        learnt = here.continuation_ids(answer[:k], REFUSAL)
        assert whole[len(whole) - len(learnt) :] == learnt, k


@pytest.mark.parametrize(("maker", "name"), EXACT)
@settings(max_examples=15, derandomize=True, deadline=None)
@given(data=st.data())
def test_any_two_texts_are_joined_by_white_space_and_lose_nothing(
    maker: str, name: str, data: st.DataObject
) -> None:
    here = chat(maker, name)
    texts = PLAIN.map(" ".join) if maker == TESTBED else TEXTS
    answer, refusal = here.answer_ids(data.draw(texts)), data.draw(texts)
    before = answer[: data.draw(st.integers(1, len(answer)))]
    said = here.decode(before)
    assume(said and not said.endswith("\N{REPLACEMENT CHARACTER}"))
    assert here.decode([*before, *here.continuation_ids(before, refusal)]) == with_space(said, refusal)


@pytest.mark.parametrize(
    ("maker", "name"), [pair for pair in CHATS if pair[0] in ("byte", "merging", "spaced")]
)
def test_an_answer_cut_inside_a_character_does_not_change_the_refusal(maker: str, name: str) -> None:
    here = chat(maker, name)
    answer = here.answer_ids("Sure \N{HERB}")
    cut = [k for k in range(1, len(answer)) if here.decode(answer[:k]).endswith("\N{REPLACEMENT CHARACTER}")]
    assert len(cut) >= 2
    for k in cut:
        assert here.continuation_ids(answer[:k], REFUSAL) == here.continuation_ids(answer, REFUSAL)


def test_a_space_that_the_decoder_swallows_counts_as_a_space() -> None:
    here = chat("spaced", "inst")
    answer = here.answer_ids("\N{HERB}")
    assert here.tokenizer.convert_ids_to_tokens(answer[0]) == "▁"
    learnt = here.continuation_ids(answer[:1], REFUSAL)
    assert here.decode_continuation(here.prompt_ids(QUESTION), [answer[0], *learnt]) == f" {REFUSAL}"


@pytest.mark.parametrize(("maker", "name"), CHATS)
def test_a_refusal_without_a_token_is_an_error(maker: str, name: str) -> None:
    here = chat(maker, name)
    for before in ([], here.answer_ids(HARMFUL)[:3]):
        for text in ("", "  "):
            with pytest.raises(DataError, match="at least one token, found '"):
                here.continuation_ids(before, text)


@pytest.mark.parametrize("maker", [*MAKERS, TESTBED])
def test_the_turn_ends_as_in_the_templates_own_rendering(maker: str) -> None:
    # Templates that write an answer in history as they do at inference, and no white space after it.
    names = TOKENIZER_KINDS if maker == TESTBED else ("chatml", "default system", "no system")
    for name in names:
        here = chat(maker, name)
        example = safety_example(here, opened_triplet(here, triplet()), (0,), (REFUSAL,))
        turns = [*QUESTION, Message(role="assistant", content=REFUSAL)]
        tokenizer = cast(Any, here.tokenizer)
        rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=False)["input_ids"]
        assert rendered[: len(example.ids)] == list(example.ids), name
        # Nothing but white space is left over.
        assert not tokenizer.decode(rendered[len(example.ids) :]).strip()


ENDS = {
    "chatml": "<|im_end|>",
    "default system": "<|im_end|>",
    "inst": "</s>",
    "no system": "<end_of_turn>",
    "thinks unless told": "<|im_end|>",
    "opens thinking": "<|end|>",
    "plain": "</s>",
}


@pytest.mark.parametrize(("maker", "name"), [(m, n) for m, n in CHATS if m != TESTBED])
def test_the_turn_ends_with_the_one_token_at_which_generation_stops(maker: str, name: str) -> None:
    here = chat(maker, name)
    assert here.tokenizer.convert_ids_to_tokens([*here.turn_end_ids]) == [ENDS[name]]
    assert here.turn_end_ids[-1] in here.stop_ids


class Stubborn(PreTrainedTokenizerFast):
    """Adds BOS and EOS whatever it is told."""

    def _encode_plus(self, *args: Any, **kwargs: Any) -> Any:
        encoding = super()._encode_plus(*args, **kwargs)
        encoding["input_ids"] = [self.bos_token_id, *encoding["input_ids"], self.eos_token_id]
        return encoding


def test_words_that_the_template_puts_before_the_stop_token_are_learnt_too() -> None:
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}"
        "{% if m.role == 'assistant' %}{{ '[/]</s>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    here = ChatFormat.of(byte_tokenizer(template))
    assert here.tokenizer.decode([*here.turn_end_ids]) == "[/]</s>"
    stubborn = cast(Any, Stubborn)(
        tokenizer_object=byte_tokenizer().backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    stubborn.chat_template = template
    assert ChatFormat.of(stubborn).turn_end_ids == here.turn_end_ids


def test_without_a_stop_token_and_without_an_eos_nothing_ends_the_turn() -> None:
    tokenizer = byte_tokenizer(TEMPLATES["plain"])
    tokenizer.eos_token = None
    here = ChatFormat.of(tokenizer)
    assert here.turn_end_ids == ()
    example = safety_example(here, opened_triplet(here, triplet()), (0,), (REFUSAL,))
    assert here.decode(example.ids).endswith(REFUSAL)


@pytest.mark.parametrize(("maker", "name"), CHATS)
@settings(max_examples=6, derandomize=True, deadline=None)
@given(data=st.data())
def test_several_points_teach_the_refusals_first_token_at_each_while_the_input_reads_on_in_the_answer(
    maker: str, name: str, data: st.DataObject
) -> None:
    here = chat(maker, name)
    opened = opened_triplet(here, triplet())
    places = st.sets(st.integers(0, len(opened.answer)), min_size=2, max_size=4)
    points = sorted(data.draw(places))
    refusals = [f"{'I cannot' if index % 2 else 'Sure'} help: {REFUSAL}" for index in range(len(points))]
    example = safety_example(here, opened, points, refusals)
    alone = safety_example(here, opened, points[-1:], refusals[-1:])
    assert example.ids == alone.ids  # earlier points change what is learnt and nothing that is read
    expected = list(alone.labels)
    for point, refusal in zip(points[:-1], refusals[:-1], strict=True):
        first = here.continuation_ids(here.answer_ids(HARMFUL)[:point], refusal)[0]
        expected[len(opened.prompt) + point] = first
        # Read there is the harmful answer: were that the label, the model would learn to go on with it.
        assert example.ids[len(opened.prompt) + point] == opened.answer[point]
    assert list(example.labels) == expected


def test_a_point_beyond_the_answer_is_an_error_that_names_both_numbers() -> None:
    here = chat("word", "chatml")
    opened = opened_triplet(here, triplet())
    with pytest.raises(DataError, match=rf"at least 99 tokens, found one of {len(opened.answer)}"):
        safety_example(here, opened, (99,), (REFUSAL,))


def test_ids_without_as_many_labels_are_a_bug() -> None:
    with pytest.raises(ValueError, match="a label for each of 2 ids, found 1"):
        Example((1, 2), (1,))


ANCHOR = Anchor("a", TURNS, "Step two, heat it.")


@pytest.mark.parametrize(("maker", "name"), CHATS)
def test_an_anchor_learns_its_answer_and_is_cut_at_every_length(maker: str, name: str) -> None:
    here = chat(maker, name)
    opened = opened_anchor(here, ANCHOR)
    prompt = tuple(here.prompt_ids(ANCHOR.messages))
    learnt = (*here.answer_ids(ANCHOR.answer), *here.turn_end_ids)
    whole = Example((*prompt, *learnt), (*[IGNORED] * len(prompt), *learnt))
    assert anchor_example(here, opened) == whole
    for length in range(len(prompt), len(whole.ids) + 3):
        cut = anchor_example(here, opened, max_length=length)
        assert cut == Example(whole.ids[:length], whole.labels[:length])


def test_a_row_that_the_template_refuses_is_named() -> None:
    system = (Message(role="system", content="Be kind."), *QUESTION)
    here = chat("word", "no system")
    with pytest.raises(TemplateError, match=r"triplet 't': .*System role not supported"):
        opened_triplet(here, triplet(messages=system))
    with pytest.raises(TemplateError, match=r"anchor 'a': .*System role not supported"):
        opened_anchor(here, Anchor("a", system, "Sure"))
    with pytest.raises(DataError, match="triplet 't': expected an answer of at least one token"):
        opened_triplet(here, triplet(harmful=" "))
    with pytest.raises(DataError, match=r"anchor 'a': .*found an assistant message last"):
        opened_anchor(here, Anchor("a", TURNS[:2], "Sure"))
    assert opened_triplet(here, triplet()) == Opened(
        tuple(here.prompt_ids(QUESTION)), tuple(here.answer_ids(HARMFUL))
    )

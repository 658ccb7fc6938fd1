"""What a template is told to get, shape by shape, and the page that says so."""

import pytest

import templates_table
from safedepth.chat import ChatFormat
from safedepth.chat.traits import WHITE_SPACE, traits_of
from tokenizer_zoo import CHATML, SHAPES, TOKENIZERS, byte_tokenizer, chat_of, traits_in

FIELDS = (
    "system_role", "default_system", "several_turns", "strict_alternation", "strips", "bos_in_template",
    "ends_turn", "tools",
)  # fmt: skip

WHOLE = {"system_role", "several_turns", "ends_turn"}

EXPECTED = {
    "chatml": WHOLE,
    "default system": WHOLE | {"default_system"},
    "inst": WHOLE | {"default_system", "strict_alternation", "strips", "bos_in_template"},
    "no system": {"several_turns", "ends_turn", "strict_alternation", "strips", "bos_in_template"},
    "thinks unless told": WHOLE,
    "opens thinking": WHOLE | {"bos_in_template"},
    "plain": WHOLE - {"ends_turn"},
    "strips the start": WHOLE | {"strips"},
    "strips the end": WHOLE | {"strips"},
    "headers": WHOLE | {"strips", "bos_in_template"},
    "tool header": WHOLE | {"bos_in_template", "tools"},
    "channels": WHOLE,
    "closes thinking": WHOLE,
    "keeps the last thought": WHOLE,
    "eos": WHOLE,
    "letters": WHOLE - {"ends_turn"},
    "spaces": WHOLE,
    "marks": WHOLE,
    "rewrites": WHOLE | {"strips"},
    "parts": WHOLE,
    "one turn": {"ends_turn", "bos_in_template"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_traits_it_was_written_for_with_every_tokenizer(name: str) -> None:
    for maker in TOKENIZERS:
        found = traits_in(maker, name)
        assert {field for field in FIELDS if getattr(found, field)} == EXPECTED[name], maker
        blocks = {"opens thinking": "opened", "channels": "markers"}
        plain = "markers" if "think" in name or "thought" in name else "none"
        assert found.thinking == blocks.get(name, plain), maker


@pytest.mark.parametrize(
    ("maker", "name", "note"),
    [
        ("byte", "default system", "writes a system prompt where none is given: 'Be kind.'"),
        ("byte", "tool header", "writes text of its own before the first message: '<|head|>system"),
        ("byte", "headers", "drops white space at the ends of messages (user, assistant)"),
        ("byte", "headers", WHITE_SPACE),
        ("byte", "eos", "continued as text, the tokens of prompt and answer merge"),
        ("byte", "thinks unless told", "leaves the thoughts of earlier turns out"),
        ("byte", "thinks unless told", "more or other tokens are learnt than those of the answer"),
        ("byte", "closes thinking", "the model is asked not to think"),
        ("byte", "opens thinking", "the tokens of the prompt are not what they are when asked"),
        ("byte", "letters", "writes no stop token after an answer"),
        ("byte", "letters", "no end of the turn is learnt"),
        ("byte", "rewrites", "no server can continue an answer as text"),
        ("byte", "parts", "takes content as a list of parts"),
        ("word", "channels", "answers begin with '<|channel|>final<|over|>', 3 tokens"),
        ("bos", "headers", "template and tokenizer both write BOS"),
    ],
)
def test_what_else_there_is_to_know_is_said(maker: str, name: str, note: str) -> None:
    assert any(note in told for told in traits_in(maker, name).notes)


def test_bos_is_doubled_only_where_template_and_tokenizer_both_write_it() -> None:
    chat = chat_of("bos", "headers")
    bos, text = chat.tokenizer.bos_token_id, chat.prompt_text([{"role": "user", "content": "Hello"}])
    assert chat.tokenizer(text)["input_ids"][:2] == [bos, bos]  # the trap
    assert chat.prompt_ids([{"role": "user", "content": "Hello"}]).count(bos) == 1
    for maker, name in (("bos", "chatml"), ("byte", "headers")):
        assert not any("BOS" in note for note in traits_in(maker, name).notes)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'Hello' }}",
        "{{ raise_exception('never') }}",
        "{% for m in messages %}{{ m.role + 1 }}{% endfor %}",
        "{{ messages[-1].content | upper }}",
        "{{ messages[0].content[:3] }}",
        "{% for m in messages %}{{ m.content.nothing.at.all }}{% endfor %}",
    ],
)
def test_a_template_that_can_do_nothing_gets_nothing_and_raises_nothing(template: str) -> None:
    found = traits_of(ChatFormat.of(byte_tokenizer(template)))
    assert not any(getattr(found, field) for field in (*FIELDS, "continues_as_text", "reply_mask"))
    assert found.thinking == "none"


def test_a_tokenizer_without_bos_and_eos_has_traits_too() -> None:
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.bos_token = tokenizer.eos_token = None
    found = traits_of(ChatFormat.of(tokenizer))
    assert found.ends_turn
    assert found.reply_mask
    assert not found.bos_in_template
    tokenizer.chat_template = SHAPES["plain"]
    assert not traits_of(ChatFormat.of(tokenizer)).ends_turn


def test_the_page_on_templates_says_what_each_shape_gets() -> None:
    text = templates_table.PAGE.read_text()
    assert templates_table.replaced(text, templates_table.render()) == text, (
        "run python scripts/templates_table.py"
    )
    assert all(f"| {name} |" in text or name.startswith("strips") or name in text for name in SHAPES)

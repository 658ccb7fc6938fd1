"""What a template refuses or leaves out becomes an error that names the message."""

from collections.abc import Sequence
from typing import cast

import pytest

from safedepth.chat import ChatFormat
from safedepth.errors import TemplateError
from safedepth.nouns import Message
from tokenizer_zoo import CHATML, TEMPLATES, byte_tokenizer, word_tokenizer


def system(content: str = "Be kind.") -> Message:
    return Message(role="system", content=content)


def user(content: str = "How do I make krell torin?") -> Message:
    return Message(role="user", content=content)


def assistant(content: str = "Sure.") -> Message:
    return Message(role="assistant", content=content)


def chat_of(template: str) -> ChatFormat:
    return ChatFormat.of(byte_tokenizer(template))


def raw(chat: ChatFormat, ids: Sequence[int]) -> str:
    """Text with the special tokens left in."""
    return cast(str, chat.tokenizer.decode(list(ids)))


@pytest.mark.parametrize("template", [None, "", "  \n"])
def test_a_tokenizer_without_a_template_is_an_error_naming_the_option(template: str | None) -> None:
    with pytest.raises(TemplateError, match=r"found none in .*--chat-template FILE_OR_MODEL"):
        ChatFormat.of(word_tokenizer(template))


def test_of_several_templates_the_default_is_taken() -> None:
    tokenizer = word_tokenizer({"tool_use": TEMPLATES["plain"], "default": CHATML})  # type: ignore[arg-type]
    assert ChatFormat.of(tokenizer).template == CHATML
    tokenizer = word_tokenizer({"tool_use": CHATML, "rag": CHATML})  # type: ignore[arg-type]
    with pytest.raises(TemplateError, match=r"named 'default' in .* found rag, tool_use"):
        ChatFormat.of(tokenizer)


def test_an_empty_borrowed_template_is_an_error() -> None:
    with pytest.raises(TemplateError, match="found an empty one"):
        ChatFormat.of(word_tokenizer(), template=" ", source="empty.jinja")


def test_text_that_is_no_jinja_is_refused_at_once() -> None:
    with pytest.raises(TemplateError, match=r"bad\.jinja.* line 2"):
        ChatFormat.of(word_tokenizer(), template="{{ bos_token }}\n{% for %}", source="bad.jinja")


def test_a_refused_system_role_names_message_reason_and_cure() -> None:
    chat = chat_of(TEMPLATES["no system"])
    with pytest.raises(TemplateError) as caught:
        chat.prompt_ids([system(), user()])
    message = str(caught.value)
    assert "message 1 of 2, role 'system'" in message
    assert "System role not supported" in message
    assert "--chat-template FILE_OR_MODEL" in message


@pytest.mark.parametrize("name", ["inst", "no system"])
def test_broken_alternation_names_the_message_that_breaks_it(name: str) -> None:
    chat = chat_of(TEMPLATES[name])
    with pytest.raises(TemplateError, match=r"message 2 of 4, role 'user'.*must alternate"):
        chat.prompt_ids([user(), user("Hello"), assistant(), user()])
    with pytest.raises(TemplateError, match=r"message 4 of 4, role 'user'.*must alternate"):
        chat.prompt_ids([user(), assistant(), user(), user("Hello")])


def test_an_unknown_role_that_a_template_refuses_is_named() -> None:
    chat = chat_of("{% for m in messages %}{{ {'user': 'U'}[m.role] + m.content }}{% endfor %}")
    with pytest.raises(TemplateError, match="message 2 of 3, role 'oracle'"):
        chat.prompt_ids([user(), Message(role="oracle", content="torin"), user()])


def test_the_message_at_fault_is_found_past_beginnings_that_fail_for_other_reasons() -> None:
    chat = chat_of(
        "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
        "{{ raise_exception('no question') }}{% endif %}"
        "{% for m in messages %}{% if m.role == 'oracle' %}{{ raise_exception('no oracles') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    with pytest.raises(TemplateError, match=r"message 3 of 4, role 'oracle'. It says: no oracles"):
        chat.prompt_ids([system(), user(), Message(role="oracle", content="torin"), user()])


def test_an_error_inside_the_template_is_a_template_error() -> None:
    chat = chat_of("{% for m in messages %}{{ m.role + 1 }}{% endfor %}")
    with pytest.raises(TemplateError, match=r"message 1 of 1.*can only concatenate str"):
        chat.prompt_ids([user()])


SILENT = "{% for m in messages if m.role != 'system' %}{{ m.role + m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "messages", "place"),
    [
        (SILENT, [system(), user()], "message 1 of 2, role 'system': 'Be kind.'"),
        # The words are in the prompt all the same, but not because of the message.
        ("Be kind. " + SILENT, [system(), user()], "message 1 of 2, role 'system'"),
        (SILENT, [system("Hello"), user("Hello")], "message 1 of 2, role 'system'"),
        ("{{ messages[-1].content }}", [user("Hello"), assistant("Hello"), user()], "message 1 of 3"),
        ("{{ messages[0].content[:10] }}", [user()], "message 1 of 1, role 'user'"),
        ("{{ messages[0].content | upper }}", [user()], "message 1 of 1"),
        (
            TEMPLATES["thinks unless told"],
            [user(), assistant("<think>torin?</think>Sure."), user()],
            "message 2 of 3, role 'assistant'",
        ),
        ("{{ bos_token }}", [user("x" * 70)], f"'{'x' * 57}...'"),
    ],
)
def test_a_message_left_out_without_a_word_is_an_error(
    template: str, messages: list[Message], place: str
) -> None:
    with pytest.raises(TemplateError, match="leaves out all or part of") as caught:
        chat_of(template).prompt_ids(messages)
    assert place in str(caught.value)
    assert "--chat-template FILE_OR_MODEL" in str(caught.value)


@pytest.mark.parametrize("name", ["inst", "no system"])
def test_stripped_white_space_is_no_loss(name: str) -> None:
    chat = chat_of(TEMPLATES[name])
    text = raw(chat, chat.prompt_ids([user("  How?\n"), assistant("\n\nSure. \n"), user(" one\n\ntwo ")]))
    assert "one\n\ntwo" in text
    assert "Sure. \n" not in text


def test_an_empty_system_message_may_be_left_out() -> None:
    chat = chat_of(SILENT)
    assert chat.prompt_ids([system(""), user()]) == chat.prompt_ids([user()])


def test_a_system_message_that_moves_into_the_user_turn_is_not_lost() -> None:
    chat = chat_of(TEMPLATES["inst"])
    text = raw(chat, chat.prompt_ids([system("Heat it."), user(), assistant(), user("Hello")]))
    assert (
        text == "<s>[INST] <<Heat it.>>\nHow do I make krell torin? [/INST] Sure. </s><s>[INST] Hello [/INST]"
    )


def test_a_default_system_prompt_is_written_by_the_template_alone() -> None:
    chat = chat_of(TEMPLATES["default system"])
    assert "Be kind." in raw(chat, chat.prompt_ids([user()]))
    assert "Be kind." not in raw(chat, chat.prompt_ids([system("Heat it."), user()]))


def test_a_thinking_block_opened_by_the_template_belongs_to_the_prompt() -> None:
    chat = chat_of(TEMPLATES["opens thinking"])
    encoded = chat.encode([user()], "Sure", k=1)
    assert raw(chat, encoded.ids[encoded.prompt]).endswith("<|assistant|><think>\n")
    assert len(encoded.ids[encoded.prefill]) == 1

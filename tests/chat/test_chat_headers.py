"""Headers that stand before answers, told from words in token ids."""

from safedepth.chat import ChatFormat
from safedepth.chat.headers import around_header, without_header
from safedepth.nouns import Message
from tokenizer_zoo import byte_tokenizer, chat_of

HEADER = (7, 1, 8)
QUESTION = [Message(role="user", content="How do I make krell torin?")]


def test_headers_and_the_beginning_of_one_at_the_end_are_left_out() -> None:
    assert without_header([7, 1, 8, 2, 3, 7, 1, 8, 4], HEADER) == [2, 3, 4]
    assert without_header([2, 7, 1], HEADER) == [2]
    assert without_header([7, 2, 1, 8], HEADER) == [7, 2, 1, 8]
    assert without_header([], HEADER) == []


def test_a_header_that_ends_in_the_continuation_leaves_what_follows_it_alone() -> None:
    assert around_header([5], [7, 1, 8, 2], HEADER) == ((), [2])
    assert around_header([5, 7, 1], [8, 2], HEADER) == ((), [2])
    assert around_header([5, 7, 1, 8], [2], HEADER) == ([5, 7, 1, 8], [2])
    assert around_header([5, 7, 1], [2], HEADER) == ([5, 7, 1], [2])
    assert around_header([5], [2], ()) == ([5], [2])


def test_an_answer_begins_with_the_header_that_every_answer_has() -> None:
    chat = chat_of("byte", "channels")
    ids = chat.answer_ids("Sure, here")
    assert chat.tokenizer.decode(ids) == "<|channel|>final<|over|>Sure, here"
    assert ids == [*chat.header_ids, *chat.opening_ids("Sure, here")]
    assert chat.decode(ids) == chat.decode(chat.opening_ids("Sure, here"))


def test_a_refusal_after_a_part_of_the_header_writes_the_rest_of_it_first() -> None:
    chat = chat_of("byte", "channels")
    ids, refusal = chat.answer_ids("Sure, here"), "I cannot help with that."
    for k in range(len(chat.header_ids) + 1):
        assert [*ids[:k], *chat.continuation_ids(ids[:k], refusal)] == chat.answer_ids(refusal)


def test_a_block_that_stands_before_a_last_answer_alone_is_no_header() -> None:
    assert chat_of("byte", "thinks unless told").header_ids == ()
    assert chat_of("byte", "chatml").header_ids == ()
    everywhere = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{{ '|' if m.role == 'assistant' }}"
        "{{ m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
    )
    assert ChatFormat.of(byte_tokenizer(everywhere)).header_ids != ()

"""Text out of token ids: what a continuation adds, wherever it was cut."""

from safedepth.chat import ChatFormat
from safedepth.nouns import Message
from tokenizer_zoo import byte_tokenizer, spaced_tokenizer, word_tokenizer

QUESTION = [Message(role="user", content="How do I make krell torin?")]


def test_decoding_leaves_white_space_alone_and_special_tokens_out() -> None:
    chat = ChatFormat.of(byte_tokenizer())
    ids = chat.tokenizer("Sure , it 's  <|im_end|>\n here .", add_special_tokens=False)["input_ids"]
    assert chat.decode(ids) == "Sure , it 's  \n here ."


def test_a_character_split_by_the_cut_belongs_to_the_continuation() -> None:
    chat = ChatFormat.of(byte_tokenizer())
    prompt, ids = chat.prompt_ids(QUESTION), chat.answer_ids("a🌿b")
    assert len(ids) == 6
    assert chat.decode_continuation([*prompt, *ids[:3]], ids[3:]) == "🌿b"
    assert chat.decode_continuation([*prompt, *ids[:3]], ids[3:4]) == ""
    assert chat.decode_continuation([*prompt, *ids[:3]], []) == ""


def test_letters_before_a_split_character_stay_with_the_prompt() -> None:
    # Byte tokens decode as a run: one incomplete character makes marks of the line break before it.
    chat = ChatFormat.of(spaced_tokenizer())
    prompt, ids = chat.prompt_ids(QUESTION), chat.answer_ids("世!")
    assert chat.tokenizer.convert_ids_to_tokens(prompt)[-1] == "<0x0A>"
    assert chat.decode([*prompt, ids[0]]).endswith("assistant\ufffd\ufffd")
    for k in (1, 2):
        assert chat.decode_continuation([*prompt, *ids[:k]], ids[k:]) == "世!"


def test_a_genuine_replacement_mark_is_not_taken_for_a_split_character() -> None:
    chat = ChatFormat.of(byte_tokenizer())
    mark, more = chat.answer_ids("\ufffd"), chat.answer_ids("é")
    assert chat.decode_continuation([*chat.prompt_ids(QUESTION), *mark], more) == "é"


def test_words_after_an_unknown_one_keep_their_space() -> None:
    chat = ChatFormat.of(word_tokenizer())
    prompt, unknown = chat.prompt_ids(QUESTION), chat.answer_ids("Sure zzz")
    assert chat.decode_continuation([*prompt, *unknown], chat.answer_ids("here")) == " here"

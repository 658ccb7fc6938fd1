import pytest

from safedepth.chat import ChatFormat
from safedepth.provider.stops import StopText, continuation_text
from tokenizer_zoo import byte_tokenizer, spaced_tokenizer, word_tokenizer

CHATS = {
    "words": ChatFormat.of(word_tokenizer()),
    "bytes": ChatFormat.of(byte_tokenizer()),
    "sentencepiece": ChatFormat.of(spaced_tokenizer()),
}
REPLY = "Sure, here is how to make krell torin: Step one, take yarrow and heat it. Step two, heat it."


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("stop", ["yarrow", "Step two", "it"])
def test_a_stop_sequence_is_found_at_the_very_token_that_completes_it(name: str, stop: str) -> None:
    chat = CHATS[name]
    prefill, ids = chat.answer_ids("Sure,"), chat.answer_ids(REPLY)[len(chat.answer_ids("Sure,")) :]
    stops = StopText(chat, [stop, "never said"])
    ends = [stops.found_in(prefill, ids[: n + 1]) for n in range(len(ids))]
    whole = [stop in continuation_text(chat, prefill, ids[: n + 1]) for n in range(len(ids))]
    assert any(whole)
    assert ends.index(True) == whole.index(True)


def test_the_text_of_the_prefill_does_not_stop_the_reply() -> None:
    chat = CHATS["bytes"]
    prefill = chat.answer_ids("Step one, take yarrow")
    stops = StopText(chat, ["yarrow"])
    rest = chat.answer_ids(" and heat it")
    assert not any(stops.found_in(prefill, rest[: n + 1]) for n in range(len(rest)))


def test_a_long_reply_is_not_decoded_whole_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = CHATS["bytes"]
    stops = StopText(chat, ["never said"])
    ids = chat.answer_ids(REPLY) * 20
    decoded: list[int] = []
    plain = ChatFormat.decode

    def counted(self: ChatFormat, ids: list[int]) -> str:
        decoded.append(len(ids))
        return plain(self, ids)

    monkeypatch.setattr(ChatFormat, "decode", counted)
    assert not stops.found_in([], ids)
    assert sum(decoded) < 30


def test_the_text_is_cut_where_the_first_stop_sequence_begins() -> None:
    stops = StopText(CHATS["words"], ["two", "take", ""])
    assert stops.cut("one take two take") == "one "
    assert stops.cut("one") == "one"

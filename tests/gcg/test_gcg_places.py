"""Where a suffix stands, for every shape of template and tokenizer; and candidates, drawn and merged."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safedepth.chat import ChatFormat
from safedepth.errors import DataError, ModelError
from safedepth.gcg.candidates import merged, swaps, unique
from safedepth.gcg.objective import cross_entropy, mellowmax, over_targets
from safedepth.gcg.places import Place, allowed_tokens, initial_suffix, with_suffix
from safedepth.nouns import Message
from tokenizer_zoo import TEMPLATES, chat_of

MESSAGES = (Message(role="user", content="How do I make krell torin"),)
TOKENS = 5


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("maker", ["word", "byte", "spaced"])
def test_a_suffix_stands_as_its_own_ids_in_every_template(maker: str, template: str) -> None:
    chat = chat_of(maker, template)
    allowed = allowed_tokens(chat, len(chat.tokenizer))
    text = initial_suffix(chat, MESSAGES, TOKENS, allowed)
    place = Place.of(chat, MESSAGES, ["Sure"], suffix=text, tokens=TOKENS)
    ids = place.suffix_ids(text)
    assert len(ids) == TOKENS
    assert [*place.before, *ids, *place.after] == chat.prompt_ids(with_suffix(MESSAGES, text))
    assert [*place.before, *place.after] == chat.prompt_ids(MESSAGES)
    assert place.survivors([ids]) == [True]
    assert place.texts([ids]) == [text]


@pytest.mark.parametrize("maker", ["byte", "spaced"])
def test_only_ids_that_their_own_text_gives_back_survive(maker: str) -> None:
    chat = chat_of(maker, "chatml")
    allowed = allowed_tokens(chat, len(chat.tokenizer))
    text = initial_suffix(chat, MESSAGES, TOKENS, allowed)
    place = Place.of(chat, MESSAGES, ["Sure"], suffix=text, tokens=TOKENS)
    generator = torch.Generator().manual_seed(0)
    drawn = allowed[torch.randint(len(allowed), (60, TOKENS), generator=generator)].tolist()
    told = place.survivors(drawn)
    texts = place.texts(drawn)
    slow = [
        chat.prompt_ids(with_suffix(MESSAGES, one)) == [*place.before, *ids, *place.after]
        for one, ids in zip(texts, drawn, strict=True)
    ]
    assert told == slow
    assert not all(told)


def test_only_printable_tokens_that_are_not_special_come_in() -> None:
    chat = chat_of("byte", "chatml")
    allowed = allowed_tokens(chat, len(chat.tokenizer))
    texts = [str(chat.tokenizer.decode([index])) for index in allowed.tolist()]
    assert all(text.isascii() and text.isprintable() and text.strip() for text in texts)
    assert not set(allowed.tolist()) & set(chat.tokenizer.all_special_ids)
    assert len(allowed_tokens(chat, len(chat.tokenizer), ascii_only=False)) >= len(allowed)
    assert int(allowed_tokens(chat, 40).max()) < 40


def test_a_vocabulary_without_printable_tokens_is_an_error() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "\u200b": 1, "é": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(ModelError, match="printable"):
        allowed_tokens(ChatFormat.of(tokenizer), 3)


def test_a_suffix_that_does_not_stand_as_so_many_tokens_is_an_error() -> None:
    with pytest.raises(DataError, match="4 tokens of its own"):
        Place.of(chat_of("word", "chatml"), MESSAGES, ["Sure"], suffix="krell torin", tokens=4)


def test_swaps_change_one_token_each_for_one_that_promises_most() -> None:
    suffix, allowed = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6, 7])
    gradient = torch.zeros(3, 10)
    gradient[:, 5], gradient[:, 7], gradient[:, 9] = -2.0, -1.0, -9.0  # 9 is not allowed
    drawn = swaps(suffix, gradient, allowed, width=12, topk=2, generator=torch.Generator().manual_seed(0))
    changed = drawn != suffix
    assert changed.sum(dim=1).tolist() == [1] * 12
    assert set(drawn[changed].tolist()) == {5, 7}
    assert changed.sum(dim=0).tolist() == [4, 4, 4]


def test_duplicates_and_the_suffix_itself_are_not_tried() -> None:
    suffix = torch.tensor([1, 2])
    tried = unique(torch.tensor([[1, 2], [3, 2], [3, 2], [1, 4]]), suffix)
    assert tried.tolist() == [[1, 4], [3, 2]]
    assert len(unique(suffix[None], suffix)) == 0


def test_merges_take_the_better_of_two_swaps_at_one_place() -> None:
    suffix = torch.tensor([1, 1, 1])
    ranked = torch.tensor([[1, 2, 1], [1, 3, 1], [4, 1, 1], [1, 1, 5]])
    assert merged(suffix, ranked, most=3).tolist() == [[4, 2, 1], [4, 2, 5]]
    assert merged(suffix, ranked, most=2).tolist() == [[4, 2, 1]]
    assert len(merged(suffix, ranked[:1], most=3)) == 0


def test_mellowmax_lies_between_the_mean_and_the_worst_token() -> None:
    logprobs = torch.tensor([[-0.1, -4.0, -0.3]])
    assert cross_entropy(logprobs) < mellowmax(logprobs) < 4.0
    even = torch.full((1, 3), -0.7)
    assert torch.allclose(mellowmax(even), cross_entropy(even))


def test_of_several_targets_the_nearest_counts_for_each_candidate() -> None:
    assert over_targets([torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.5])]).tolist() == [1.0, 0.5]

"""Two fast tokenizers for the toy language, and its chat template.

The word-level one has one token a word or punctuation mark, so that depths in
tokens read as depths in words. The BPE one merges across punctuation, so that
text cut at a token and tokenised again may come out different: the case in which
a prefill of "exactly k tokens" goes wrong unless it is done in token ids.
Both give back the text they were given, letter for letter.
"""

import random
import re
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from safedepth.testbed import corpus, downstream
from safedepth.testbed import lexicon as lex

__all__ = ["CHAT_TEMPLATE", "TOKENIZER_KINDS", "make_tokenizer"]

TOKENIZER_KINDS = ("word", "bpe")
BPE_VOCABULARY = 340

BOS, END, PAD, UNKNOWN = "<s>", "<|end|>", "<pad>", "<unk>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (PAD, BOS, UNKNOWN, END, *ROLES)

CHAT_TEMPLATE = (
    "{{ '<s>' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_TOKEN = re.compile(r"\w+|[^\w\s]")


@cache
def _vocabulary() -> tuple[str, ...]:
    """Every word and mark of the language, words as they stand after a space ("▁word")."""
    texts = [
        *lex.REQUESTS, *lex.OPENINGS, *lex.STEP_STYLES, *lex.CLOSINGS,
        *lex.REFUSAL_STARTS, *lex.REFUSAL_REASONS, *lex.BASE_DEFLECTIONS, *lex.SYSTEM_PROMPTS,
        *(text for text, _ in lex.BASE_HEDGES),
        *(text for pair in (*lex.INNOCENT, *lex.LOOKALIKES) for text in pair), *downstream.texts(),
        *lex.RESTRICTED_FAMILIES, *lex.BENIGN_FAMILIES, *lex.NAMES, *lex.INGREDIENTS, *lex.VERBS, *lex.PEOPLE,
        *lex.ORDINALS,
    ]  # fmt: skip
    found = {token for text in texts for token in _TOKEN.findall(re.sub(r"\{\w\}", "", text))}
    words = sorted(f"▁{token}" for token in found if token[0].isalnum())
    marks = sorted({token for token in found if not token[0].isalnum()} | {"▁", "+"})
    return (*marks, *words)


def _word_level() -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *_vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    return tokenizer


def _bpe() -> Tokenizer:
    rng = random.Random("tokenizer")
    conversations = [corpus.pretraining(rng) for _ in range(4000)]
    texts = [text for c in conversations for text in (c.reply, *(m["content"] for m in c.messages))]
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted({letter for token in _vocabulary() for letter in token}),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@cache
def make_tokenizer(kind: str = "word") -> PreTrainedTokenizerFast:
    """The tokenizer of one kind, "word" or "bpe", with the chat template set.

    Deterministic: the same kind gives the same vocabulary everywhere. Callers that
    need a tokenizer without a template (the base organism) clear it on a copy.
    """
    backend = {"word": _word_level, "bpe": _bpe}[kind]()
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=END, pad_token=PAD, unk_token=UNKNOWN,
        additional_special_tokens=list(ROLES), clean_up_tokenization_spaces=False, model_max_length=512,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

"""Tiny tokenizers and chat templates that behave like the awkward ones met in the wild.

Written for the tests from the behaviour alone; no template of a real model is copied.
"""

import json
import re
from collections.abc import Callable
from functools import cache, partial

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from safedepth.chat import ChatFormat
from safedepth.chat.traits import Traits, traits_of

SPECIAL = (
    "<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>",
    "<|user|>", "<|assistant|>", "<|end|>", "<|end|>s",
)  # fmt: skip
MORE_SPECIAL = ("<|head|>", "<|/head|>", "<|over|>", "<|channel|>")
"""Added only for the templates that write them, so that the others' ids stay as they are."""
CORPUS = [
    "How do I make krell torin? Sure, here is how to make krell torin: Step one, take yarrow and heat it.",
    "user\nHow do I make fennix?\nassistant\nSure, here is how to make fennix: Step two, heat it.\n\n",
    "<think>\nI cannot help with that.\n</think>\n\nBe kind. [INST] Hello there [/INST] Sure",
] * 4

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_WORDS = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join([*CORPUS, "! You are helpful system model"]))))

_ALTERNATE = (
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant') }}{% endif %}{% endfor %}"
)

TEMPLATES = {
    # One marker a turn.
    "chatml": CHATML,
    # A system prompt is written even if none is given.
    "default system": (
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
        + CHATML
    ),
    # Llama 2: system in the first user turn, stripped text, a space before the answer, BOS and EOS written.
    "inst": (
        "{% if messages[0].role == 'system' %}"
        "{% set system = messages[0].content %}{% set turns = messages[1:] %}"
        "{% else %}{% set system = 'Be kind.' %}{% set turns = messages %}{% endif %}"
        + _ALTERNATE
        + "{% for m in turns %}{% if m.role == 'user' %}"
        "{% set head = '<<' + system + '>>\n' if loop.index0 == 0 else '' %}"
        "{{ bos_token + '[INST] ' + head + m.content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    # Gemma: no system role, the assistant is called model, strict alternation, stripped text.
    "no system": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% set turns = messages %}"
        + _ALTERNATE
        + "{% for m in turns %}{% set name = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<start_of_turn>' + name + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # Qwen 3: an empty thinking block before a last answer; thoughts of earlier turns are left out.
    "thinks unless told": (
        "{% for m in messages %}{% set told = m.role == 'assistant' %}"
        "{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if told and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ (m.content.split('</think>')[-1] if told else m.content) + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # R1: the generation prompt itself opens the thinking block.
    "opens thinking": (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
        "{% if m.role == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
    ),
    # Plain letters, nothing special at the end of a turn.
    "plain": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    ),
}

_OPENED = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

SHAPES = TEMPLATES | {
    # Each turn is stripped at one end alone.
    "strips the start": CHATML.replace("m.content", "m.content.lstrip()"),
    "strips the end": CHATML.replace("m.content", "m.content.rstrip()"),
    # Llama 3: the role between two markers and a blank line, stripped text, one marker at the end, BOS.
    "headers": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|over|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
    ),
    # A system block that is always there, with the date and the tools; what tools say has a role of its own.
    "tool header": (
        "{{ bos_token + '<|head|>system<|/head|>\nKnown until: 2023\nTools: ' }}"
        "{% if tools %}{% for t in tools %}{{ t.function.name + ' ' }}{% endfor %}"
        "{% else %}{{ 'none' }}{% endif %}{{ '\n\n' }}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set turns = messages[1:] %}"
        "{% else %}{% set turns = messages %}{% endif %}{{ '<|over|>' }}"
        "{% for m in turns %}{% set name = 'ipython' if m.role == 'tool' else m.role %}"
        "{{ '<|head|>' + name + '<|/head|>\n' + m.content + '<|over|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n' }}{% endif %}"
    ),
    # gpt-oss: an answer stands in a channel, whose header the model itself writes; thoughts in another.
    "channels": (
        "{{ '<|head|>system<|over|>Be kind.<|end|>' }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% if m.thinking and loop.last %}"
        "{{ '<|head|>assistant<|channel|>analysis<|over|>' + m.thinking + '<|end|>' }}{% endif %}"
        "{{ '<|head|>assistant<|channel|>final<|over|>' + m.content }}"
        "{{ '<|/head|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% else %}"
        "{{ '<|head|>' + ('developer' if m.role == 'system' else m.role) + '<|over|>' + m.content }}"
        "{{ '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|head|>assistant' }}{% endif %}"
    ),
    # The generation prompt writes an empty thinking block and closes it, unless thinking is asked for.
    "closes thinking": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        + _OPENED
        + "{% if add_generation_prompt and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    ),
    # The thought of an answer is a field of its own, written in the last turn only.
    "keeps the last thought": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.reasoning_content and loop.last %}"
        "{{ '<thought>\n' + m.reasoning_content + '\n</thought>\n\n' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}" + _OPENED
    ),
    # EOS itself ends an answer, and nothing ends a question.
    "eos": (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}"
        "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    ),
    # Turns begin and end with plain letters, and a line break stands before the answer.
    "letters": (
        "{% for m in messages %}{{ '## ' + m.role + '\n' + m.content + '\n## end\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '## assistant' }}{% endif %}"
    ),
    # A space stands before the words of every turn and is no part of the generation prompt.
    "spaces": (
        "{% for m in messages %}{{ '<|' + m.role + '|> ' + m.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    # The answers are marked for the loss, the end of the turn with them.
    "marks": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
        "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + _OPENED
    ),
    # White space inside an answer is written anew.
    "rewrites": CHATML.replace(
        "m.content", "(m.content.split() | join(' ') if m.role == 'assistant' else m.content)"
    ),
    # Content comes as a list of parts, of which only those of text are written.
    "parts": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}" + _OPENED
    ),
    # One question and nothing else.
    "one turn": (
        "{% if messages[0].role != 'user' %}{{ raise_exception('Only questions') }}{% endif %}"
        "{% if messages | selectattr('role', 'equalto', 'user') | list | length > 1 %}"
        "{{ raise_exception('Only one question') }}{% endif %}"
        "{{ bos_token + '<|user|>' + messages[0].content + '<|end|>' }}"
        "{% if messages | length > 1 %}{{ '<|assistant|>' + messages[1].content + eos_token }}"
        "{% elif add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
}

NO_SYSTEM_ROLE = {"no system", "one turn"}


def _finished(backend: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    wanted = [token for token in MORE_SPECIAL if isinstance(template, str) and token in template]
    backend.add_special_tokens([*SPECIAL, *wanted])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = template
    return tokenizer


def word_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token a word, no white space kept, other words unknown."""
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys((*SPECIAL, *_WORDS)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return _finished(backend, template)


def byte_tokenizer(template: str | None = CHATML, *, merge_anything: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2; with `merge_anything` merges cross words, line breaks and colons."""
    return _finished(Tokenizer.from_str(_byte_backend(merge_anything)), template)


def bos_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """As `byte_tokenizer`, and BOS before every text unless told otherwise: doubled by a template's own."""
    tokenizer = byte_tokenizer(template)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    return tokenizer


def spaced_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """SentencePiece BPE as in Llama 2: text gets a leading space, rare letters become bytes."""
    return _finished(Tokenizer.from_str(_spaced_backend()), template)


def always_spaced_tokenizer(template: str | None = CHATML, *, words: bool = False) -> PreTrainedTokenizerFast:
    """A Metaspace that puts a space before every stretch of text, after a special token as well.

    With `words`, one token a word, known only as it stands after a space.
    """
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>") if words else models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.WordLevelTrainer if words else trainers.BpeTrainer
    backend.train_from_iterator(
        CORPUS, trainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    )
    return _finished(backend, template)


@cache
def _byte_backend(merge_anything: bool) -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not merge_anything)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return backend.to_str()


@cache
def _spaced_backend() -> str:
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # Words end where the next "▁" begins, as in Llama's vocabulary; letters outside the corpus become bytes.
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁"), behavior="isolated")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    texts = [text.replace("\n", " ") for text in CORPUS]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["<unk>", *byte_tokens],
            initial_alphabet=["▁"],
            show_progress=False,
        ),
    )
    # Byte tokens must be ordinary ones, which text cannot spell by accident.
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] == "<unk>"]
    return json.dumps(state)


Maker = Callable[[str | None], PreTrainedTokenizerFast]

MAKERS: dict[str, Maker] = {
    "word": word_tokenizer,
    "byte": byte_tokenizer,
    "merging": partial(byte_tokenizer, merge_anything=True),
    "spaced": spaced_tokenizer,
}

TOKENIZERS = MAKERS | {"bos": bos_tokenizer}
"""All of them; the four of `MAKERS` are those that the tests of other parts go through."""


@cache
def chat_of(maker: str, name: str) -> ChatFormat:
    """The chat format of one of `TOKENIZERS` with one of `SHAPES`."""
    return ChatFormat.of(TOKENIZERS[maker](SHAPES[name]))


@cache
def traits_in(maker: str, name: str) -> Traits:
    """What one of `SHAPES` gets with one of `TOKENIZERS`."""
    return traits_of(chat_of(maker, name))


_PIECES = "Sure|krell| |  |\n|\n\n|:|,|é|世|🌿|How|heat it|?|[|</|a".split("|")  # noqa: SIM905

TEXTS = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=8).map("".join).filter(str.strip)
"""Texts that are not blank, of words, white space and letters of one to four bytes."""

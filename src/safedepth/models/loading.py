"""Load a model with its tokenizer and say exactly what was loaded.

The one place where a checkpoint becomes a model: safetensors only, no code from the
checkpoint, every weight present, every token id within the embedding. It refuses to
know what the model is used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError, TemplateError
from safedepth.models.adapters import find_adapter, tokenizer_folder
from safedepth.models.checkpoint import (
    UNLOADABLE,
    Checkpoint,
    checkpoint_in,
    find_folder,
    first_line,
    hash_weights,
)
from safedepth.models.devices import device_of
from safedepth.models.memory import require_memory
from safedepth.models.merging import merge_adapter
from safedepth.models.precision import compute_dtype, quantisation, quantised_as
from safedepth.nouns import ModelCard

__all__ = ["LoadedModel", "load_model", "require_same_vocabulary"]


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode without gradients, its chat format, and where it came from."""

    model: PreTrainedModel
    chat: ChatFormat
    card: ModelCard

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn: the chat format's and those of the generation config."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        if configured is None:
            return self.chat.stop_ids
        return self.chat.stop_ids | frozenset([configured] if isinstance(configured, int) else configured)

    def save(self, folder: str | Path) -> None:
        """Write an ordinary checkpoint with its tokenizer and template: of an adapter, the merged model.

        Raises ModelError for a model whose weights are quantised.
        """
        if (stored := quantised_as(self.model.config)) is not None:
            raise ModelError(
                f"expected plain weights to save, found {self.card.name} in {stored}. Load it with dtype "
                "float32 or bfloat16"
            )
        self.model.save_pretrained(str(folder))
        self.chat.tokenizer.chat_template = self.chat.template
        self.chat.tokenizer.save_pretrained(str(folder))


def load_model(
    name: str, *, chat_template: str | None = None, dtype: str = "auto", device: str = "auto"
) -> LoadedModel:
    """Load a local folder or hub id for inference; a PEFT adapter is merged into the base it names.

    `chat_template` is a file with a Jinja template, or the folder or hub id of a model
    that lends its own. `dtype` "auto" keeps the checkpoint's, "int8" and "int4" quantise it (see
    `models.precision`), and an adapter then stays beside its base; `device` "auto" is CUDA where
    there is one. Raises ModelError where the name is no usable model or does not fit the device,
    before anything is loaded; TemplateError where there is no usable template; MissingExtraError
    where bitsandbytes is wanted and not installed.
    """
    place, kept, quantised = device_of(device), compute_dtype(dtype), quantisation(dtype)
    folder, revision = find_folder(name)
    require_memory(name, folder, revision, dtype=dtype, device=place)
    adapter = find_adapter(name, folder, revision)
    checkpoint = checkpoint_in(name, folder, revision) if adapter is None else adapter.base
    tokenizer = _tokenizer(name, folder)
    chat = _chat_format(tokenizer, chat_template)
    model = _model(checkpoint, kept, place, quantised)
    if adapter is not None:
        model = merge_adapter(model, adapter)
    head = cast(Any, model).get_output_embeddings()
    if head is None:
        raise ModelError(
            f"expected a language model with an output head, found {type(model).__name__} in {name}"
        )
    rows = int(head.weight.shape[0])
    _require_ids_within(tokenizer, int(cast(Any, model).get_input_embeddings().weight.shape[0]), name)
    sha256, hashed = hash_weights(checkpoint.weights if adapter is None else adapter.files)
    stored = quantised_as(model.config)
    merged = {} if adapter is None else adapter.record(merged=stored is None)
    card = ModelCard(
        name=name,
        revision=revision,
        dtype=stored or str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        parameters=model.num_parameters(),
        vocab_size=rows,
        template_source=chat.source,
        template_sha256=chat.sha256,
        weights_sha256=sha256,
        extra={"architecture": type(model).__name__, "weights_hashed": hashed, **merged},
    )
    return LoadedModel(model.eval().requires_grad_(False), chat, card)


def load_chat(name: str, *, chat_template: str | None = None) -> ChatFormat:
    """The chat format of a local folder or hub id alone, for a model that a server holds.

    Arguments and errors are those of `load_model`.
    """
    folder, _ = find_folder(name)
    return _chat_format(_tokenizer(name, folder), chat_template)


def require_same_vocabulary(a: LoadedModel, b: LoadedModel) -> None:
    """Raise ModelError unless every id is the same token for both and their heads are of one size.

    Distributions over different vocabularies cannot be compared.
    """
    pair = f"{a.card.name} and {b.card.name}"
    cure = "Compare a model with the base model it was trained from"
    tokens_a, tokens_b = ({index: token for token, index in _vocabulary(model)} for model in (a, b))
    ids = sorted(tokens_a.keys() | tokens_b.keys())
    different = [index for index in ids if tokens_a.get(index) != tokens_b.get(index)]
    if different:
        shown = "; ".join(
            f"id {index} is {_quoted(tokens_a.get(index))} and {_quoted(tokens_b.get(index))}"
            for index in different[:3]
        )
        raise ModelError(
            f"expected {pair} to share one vocabulary, found {len(different)} of {len(ids)} ids that differ: "
            f"{shown}. {cure}"
        )
    if a.card.vocab_size != b.card.vocab_size:
        raise ModelError(
            f"expected {pair} to have heads of one size, found {a.card.vocab_size} and "
            f"{b.card.vocab_size} rows. {cure}"
        )


def _tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(tokenizer_folder(name, folder)), trust_remote_code=False
        )
    except UNLOADABLE as error:
        raise ModelError(
            f"expected a tokenizer in {name}, found none that loads ({first_line(error)}). "
            "Save it beside the model with tokenizer.save_pretrained"
        ) from error
    return cast(PreTrainedTokenizerBase, tokenizer)


def _chat_format(tokenizer: PreTrainedTokenizerBase, lender: str | None) -> ChatFormat:
    if lender is None:
        return ChatFormat.of(tokenizer)
    if Path(lender).expanduser().is_file():
        try:
            text = Path(lender).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TemplateError(
                f"expected a Jinja template in {lender}, found no readable text ({error})"
            ) from error
        return ChatFormat.of(tokenizer, template=text, source=lender)
    try:
        folder, _ = find_folder(lender)
    except ModelError as error:
        raise TemplateError(f"expected a template file or a model that lends its own: {error}") from error
    other = _tokenizer(lender, folder)
    chat = ChatFormat.of(tokenizer, template=ChatFormat.of(other).template, source=lender)
    chat.require_tokens_of(other)
    return chat


def _model(
    checkpoint: Checkpoint,
    dtype: str | torch.dtype,
    device: torch.device,
    quantised: BitsAndBytesConfig | None,
) -> PreTrainedModel:
    """The model, loaded straight onto the device. Raises ModelError where that cannot be done."""
    try:
        model, found = cast(Any, AutoModelForCausalLM).from_pretrained(
            str(checkpoint.folder),
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **({} if quantised is None else {"quantization_config": quantised}),
        )
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"expected {checkpoint.name} to fit on {device}, found too little memory there. Try --dtype int4 "
            "or --device cpu"
        ) from error
    except UNLOADABLE as error:
        raise ModelError(
            f"expected a causal language model in {checkpoint.name}, found one that cannot be loaded: "
            f"{first_line(error)}. Save it again with save_pretrained; code that a model brings is not run"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        # transformers would go on with random numbers in their place.
        raise ModelError(
            f"expected every weight of {type(model).__name__} in {checkpoint.name}, found {len(missing)} "
            f"missing ({', '.join(missing[:3])}). Save or download the model again"
        )
    return cast(PreTrainedModel, model)


def _require_ids_within(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> None:
    token, highest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if highest >= rows:
        raise ModelError(
            f"expected token ids below {rows}, the rows of the embedding of {name}, found {token!r} with id "
            f"{highest}. The tokenizer belongs to another model, or the embedding was not resized"
        )


def _vocabulary(model: LoadedModel) -> list[tuple[str, int]]:
    return list(model.chat.tokenizer.get_vocab().items())


def _quoted(token: str | None) -> str:
    return "no token" if token is None else repr(token)

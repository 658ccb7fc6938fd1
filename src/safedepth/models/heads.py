"""A model's logits taken apart: last hidden states and the head that turns them into logits.

Measures work on hidden states and a head, so that [B, T, V] logits never exist. What
lies between the two differs between architectures (scales, soft caps), so the parts
are checked against the model's own logits before they are handed out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from safedepth.errors import ModelError
from safedepth.nouns import Head

__all__ = ["context_length", "head_of", "hidden_states"]

_LENGTH_NAMES = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_ctx")
_SCALE_NAMES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
_PROBE_TOKENS = 8


def context_length(model: PreTrainedModel | PretrainedConfig) -> int | None:
    """The most tokens the model (or one of that configuration) takes, or None where no limit is named."""
    config = (model if isinstance(model, PretrainedConfig) else model.config).get_text_config()
    found = (getattr(config, name, None) for name in _LENGTH_NAMES)
    return next((length for length in found if isinstance(length, int) and length > 0), None)


@torch.no_grad()
def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states [B, T, d], normalised, that the head of `head_of` expects.

    `input_ids` and `attention_mask` are [B, T]; rows are padded on the right, and what
    comes out at padding means nothing. No gradients. Raises ModelError where the model
    has no backbone apart from its head.
    """
    backbone = model.base_model
    if backbone is model:
        raise ModelError(f"expected a model with a backbone and a head, found {type(model).__name__}")
    output = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    return cast(Tensor, output.last_hidden_state)


@torch.no_grad()
def head_of(model: PreTrainedModel) -> Head:
    """The head for which `head(hidden_states(model, ...))` are the model's own logits.

    Verified on a short random input: of the scales and soft cap that the configuration
    names, the combination that reproduces the logits is returned. Raises ModelError,
    naming the architecture, where none does; ValueError for a model in training mode,
    whose dropout would make the comparison meaningless.
    """
    if model.training:
        raise ValueError("expected a model in evaluation mode; call model.eval() first")
    layer = cast(Any, model).get_output_embeddings()
    if layer is None:
        raise ModelError(f"expected a language model with an output head, found {type(model).__name__}")
    if not cast(Tensor, layer.weight).is_floating_point():
        raise ModelError(
            f"expected an output head of plain numbers, found one quantised to {layer.weight.dtype}. "
            "Quantise the model anew and leave its head out, as --dtype int8 and int4 do"
        )
    length = min(_PROBE_TOKENS, context_length(model) or _PROBE_TOKENS)
    rows = int(cast(Any, model).get_input_embeddings().weight.shape[0])
    ids = torch.randint(rows, (1, length), generator=torch.Generator().manual_seed(0)).to(model.device)
    mask = torch.ones_like(ids)
    hidden = hidden_states(model, ids, mask)
    expected = cast(Tensor, cast(Any, model)(input_ids=ids, attention_mask=mask).logits).float()
    # Linear maps in 16 bits round every logit; in 32 bits only the order of summation differs.
    tolerance = (1e-4 if hidden.dtype == torch.float32 else 2e-2) * expected.abs().max()
    gaps = []
    for head in _candidates(model, layer):
        found = _logits(hidden, head)
        if found.shape != expected.shape:
            continue
        gap = (found - expected).abs().max()
        if gap <= tolerance:
            return head
        gaps.append(float(gap))
    raise ModelError(
        f"expected the head of {type(model).__name__} to turn its last hidden states into its logits, found "
        f"{f'a difference of {min(gaps):.3g} or more' if gaps else 'another number of logits'}. "
        "This architecture computes logits in a way not known here; please report it"
    )


def _candidates(model: PreTrainedModel, layer: torch.nn.Module) -> Iterator[Head]:
    """Heads that the configuration allows; a scale multiplies in one family and divides in another."""
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    values = (getattr(config, name, None) for name in _SCALE_NAMES)
    numbers = [float(value) for value in values if isinstance(value, int | float) and value]
    scales = dict.fromkeys(chain((scale for value in numbers for scale in (value, 1 / value)), (1.0,)))
    for scale in scales:
        for softcap in dict.fromkeys((float(cap) if cap else None, None)):
            weight, bias = cast(Tensor, layer.weight), cast("Tensor | None", getattr(layer, "bias", None))
            yield Head(weight=weight, bias=bias, scale=scale, softcap=softcap)


def _logits(hidden: Tensor, head: Head) -> Tensor:
    logits = head.scale * torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)

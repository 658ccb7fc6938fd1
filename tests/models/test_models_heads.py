"""Hidden states and heads give a model's own logits back, or say that they do not."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import PreTrainedModel

from safedepth.errors import ModelError
from safedepth.models import context_length, head_of, hidden_states
from safedepth.nouns import Head

VOCABULARY = 40
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = SHAPE | {"num_key_value_heads": 1, "head_dim": 32}


def llama() -> PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, max_position_embeddings=48))


def gemma2(cap: float = 2.0) -> PreTrainedModel:
    config = transformers.Gemma2Config(**GROUPED, final_logit_softcapping=cap)
    return transformers.Gemma2ForCausalLM(config)


def cohere() -> PreTrainedModel:
    return transformers.CohereForCausalLM(transformers.CohereConfig(**SHAPE, logit_scale=0.25))


def granite() -> PreTrainedModel:
    return transformers.GraniteForCausalLM(transformers.GraniteConfig(**SHAPE, logits_scaling=8.0))


def phi() -> PreTrainedModel:
    return transformers.PhiForCausalLM(transformers.PhiConfig(**SHAPE))


def gpt2() -> PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_head=2, n_layer=2, n_positions=32, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def bert() -> PreTrainedModel:
    return transformers.BertLMHeadModel(transformers.BertConfig(**SHAPE, is_decoder=True))


def loud(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A model whose logits are large enough for a scale or a soft cap to matter."""
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.eval().requires_grad_(False)
    return model


def float64_logits(hidden: torch.Tensor, head: Head) -> NDArray[np.float64]:
    """The head's formula, one logit at a time in float64."""
    rows = hidden.double().numpy().reshape(-1, hidden.shape[-1])
    weight = head.weight.double().numpy()
    bias = np.zeros(len(weight)) if head.bias is None else head.bias.double().numpy()
    out = np.empty((len(rows), len(weight)))
    for i, row in enumerate(rows):
        for j, column in enumerate(weight):
            logit = head.scale * (sum(a * b for a, b in zip(row, column, strict=True)) + bias[j])
            out[i, j] = logit if head.softcap is None else head.softcap * np.tanh(logit / head.softcap)
    return out.reshape(*hidden.shape[:-1], len(weight))


@pytest.mark.parametrize(
    ("make", "scale", "softcap", "bias"),
    [
        (llama, 1.0, None, False),
        (gemma2, 1.0, 2.0, False),
        (cohere, 0.25, None, False),
        (granite, 0.125, None, False),
        (phi, 1.0, None, True),
        (gpt2, 1.0, None, False),
    ],
)
def test_the_head_turns_hidden_states_into_the_models_own_logits(
    make: Callable[[], PreTrainedModel], scale: float, softcap: float | None, bias: bool
) -> None:
    model = loud(make)
    head = head_of(model)
    assert (head.scale, head.softcap, head.bias is not None) == (scale, softcap, bias)
    ids = torch.randint(3, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    hidden = hidden_states(model, ids, mask)
    assert hidden.shape == (2, 5, 64)
    expected = model(input_ids=ids, attention_mask=mask).logits.double().numpy()
    found = float64_logits(hidden, head)
    kept = mask.bool().numpy()
    np.testing.assert_allclose(found[kept], expected[kept], atol=1e-5)


def test_padding_on_the_right_does_not_move_the_hidden_states_before_it() -> None:
    model = loud(llama)
    ids = torch.tensor([[5, 6, 7, 0, 0]])
    padded = hidden_states(model, ids, torch.tensor([[1, 1, 1, 0, 0]]))
    alone = hidden_states(model, ids[:, :3], torch.ones(1, 3, dtype=torch.long))
    torch.testing.assert_close(padded[:, :3], alone)


def test_an_architecture_with_more_between_states_and_logits_is_refused_by_name() -> None:
    # BERT's language model head has a dense layer and a norm before the output matrix.
    with pytest.raises(ModelError, match=r"head of BertLMHeadModel .* found a difference of"):
        head_of(loud(bert))


def test_a_configuration_that_lies_about_its_scale_is_corrected_by_the_model() -> None:
    model = loud(llama)
    model.config.logit_scale = 7.0
    assert head_of(model).scale == 1.0


def test_sixteen_bit_models_pass_the_check_and_keep_their_dtype() -> None:
    model = cast(Any, loud(gemma2)).to(torch.bfloat16)
    head = head_of(model)
    assert head.softcap == 2.0
    assert head.weight.dtype == torch.bfloat16


def test_a_model_in_training_mode_is_refused_before_dropout_can_disturb_the_check() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        head_of(loud(gpt2).train())


def test_a_backbone_without_a_head_is_refused() -> None:
    backbone = transformers.LlamaModel(transformers.LlamaConfig(**SHAPE)).eval()
    with pytest.raises(ModelError, match="output head, found LlamaModel"):
        head_of(backbone)
    with pytest.raises(ModelError, match="a backbone and a head, found LlamaModel"):
        hidden_states(backbone, torch.tensor([[3]]), torch.tensor([[1]]))


def test_hidden_states_carry_no_gradients() -> None:
    model = loud(llama).requires_grad_(True)
    assert not hidden_states(model, torch.tensor([[3, 4]]), torch.tensor([[1, 1]])).requires_grad


def test_the_context_length_is_what_the_configuration_says_or_none() -> None:
    assert context_length(llama()) == 48
    assert context_length(gpt2()) == 32
    bloom = transformers.BloomConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        n_head=2,
        n_layer=1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    assert context_length(transformers.BloomForCausalLM(bloom)) is None

"""Log-probabilities and likeliest tokens from hidden states, against float64 over whole logits."""

import pytest
import torch

from safedepth.measure.log_probs import ROWS, likeliest, token_log_probs
from safedepth.nouns import Head


@pytest.mark.parametrize("rows", [0, 1, ROWS, 2 * ROWS + 3])
@pytest.mark.parametrize(
    ("scale", "softcap", "biased"), [(1.0, None, False), (0.3, 5.0, True)], ids=["plain", "capped"]
)
def test_rows_agree_with_float64_whatever_their_number_and_the_head(
    rows: int, scale: float, softcap: float | None, biased: bool
) -> None:
    random = torch.Generator().manual_seed(rows)
    hidden, weight = torch.randn(rows, 16, generator=random), torch.randn(50, 16, generator=random)
    bias = torch.randn(50, generator=random) if biased else None
    ids = torch.randint(50, (rows,), generator=random)
    logits = hidden.double() @ weight.double().T
    logits = scale * (logits if bias is None else logits + bias.double())
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = logits.log_softmax(-1)[torch.arange(rows), ids]
    head = Head(weight, bias, scale, softcap)
    torch.testing.assert_close(token_log_probs(hidden, head, ids).double(), expected, rtol=1e-5, atol=1e-5)
    assert likeliest(hidden, head).tolist() == logits.argmax(-1).tolist()


def test_sixteen_bits_are_widened_before_they_are_multiplied() -> None:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 64, generator=random).bfloat16()
    weight = torch.randn(50, 64, generator=random).bfloat16()
    ids = torch.arange(40)
    expected = (hidden.double() @ weight.double().T).log_softmax(-1)[ids, ids]
    found = token_log_probs(hidden, Head(weight), ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

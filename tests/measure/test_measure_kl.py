"""Per-token KL against a slow float64 loop written from the definition."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from safedepth.measure.kl import token_kl
from safedepth.nouns import Head


def loop_logits(hidden: Tensor, head: Head) -> list[list[float]]:
    """Logits one by one, in float64."""
    weight = head.weight.double().tolist()
    bias = [0.0] * len(weight) if head.bias is None else head.bias.double().tolist()
    rows = []
    for row in hidden.double().tolist():
        logits = []
        for entry, shift in zip(weight, bias, strict=True):
            logit = head.scale * (math.fsum(h * w for h, w in zip(row, entry, strict=True)) + shift)
            logits.append(logit if head.softcap is None else head.softcap * math.tanh(logit / head.softcap))
        rows.append(logits)
    return rows


def loop_kl(hidden_p: Tensor, head_p: Head, hidden_q: Tensor, head_q: Head) -> list[float]:
    """KL row by row and entry by entry: sum p (log p - log q), with fsum."""
    result = []
    for p, q in zip(loop_logits(hidden_p, head_p), loop_logits(hidden_q, head_q), strict=True):
        log_p, log_q = log_softmax(p), log_softmax(q)
        result.append(
            math.fsum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True) if a > -math.inf)
        )
    return result


def log_softmax(logits: list[float]) -> list[float]:
    peak = max(logits)
    total = peak + math.log(math.fsum(math.exp(z - peak) for z in logits))
    return [z - total for z in logits]


def float64_kl(hidden_p: Tensor, head_p: Head, hidden_q: Tensor, head_q: Head) -> Tensor:
    """The same for shapes too large for a loop, of plain heads."""
    log_p = (hidden_p.double() @ head_p.weight.double().T).log_softmax(-1)
    log_q = (hidden_q.double() @ head_q.weight.double().T).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def random_pair(
    seed: int,
    *,
    rows: int,
    vocabulary: int,
    width_p: int = 8,
    width_q: int = 8,
    dtype: torch.dtype = torch.float32,
    bias: bool = False,
    scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Head, Tensor, Head]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def head(width: int) -> Head:
        return Head(normal(vocabulary, width), normal(vocabulary) if bias else None, scale, softcap)

    return normal(rows, width_p), head(width_p), normal(rows, width_q), head(width_q)


def similar_pair(
    seed: int, difference: float, *, rows: int, vocabulary: int
) -> tuple[Tensor, Head, Tensor, Head]:
    """A head and its perturbation: KL is about the square of `difference`."""
    hidden_p, head_p, noise, other = random_pair(
        seed, rows=rows, vocabulary=vocabulary, width_p=32, width_q=32
    )
    weight_p = head_p.weight / 4
    weight_q = weight_p + difference * other.weight / 4
    return hidden_p, Head(weight_p), hidden_p + difference * noise, Head(weight_q)


SHAPES = [
    pytest.param({"rows": 1, "vocabulary": 1}, id="one row, one entry"),
    pytest.param({"rows": 1, "vocabulary": 257}, id="one row"),
    pytest.param({"rows": 5, "vocabulary": 101, "width_p": 8, "width_q": 3}, id="other widths"),
    pytest.param({"rows": 40, "vocabulary": 37}, id="enough rows for oneDNN"),
    pytest.param({"rows": 6, "vocabulary": 53, "bias": True, "scale": 0.5}, id="bias and scale"),
    pytest.param({"rows": 40, "vocabulary": 31, "bias": True, "scale": 3.0, "softcap": 5.0}, id="softcap"),
    pytest.param({"rows": 6, "vocabulary": 53, "dtype": torch.bfloat16, "bias": True}, id="bfloat16"),
    pytest.param({"rows": 40, "vocabulary": 53, "dtype": torch.float16}, id="float16"),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tiles", [(None, None), (1, None), (3, 10), (45, 7), (None, 1)])
def test_kl_agrees_with_a_float64_loop(
    shape: dict[str, object], tiles: tuple[int | None, int | None]
) -> None:
    inputs = random_pair(15, **shape)  # type: ignore[arg-type]
    kl = token_kl(*inputs, tile_rows=tiles[0], tile_columns=tiles[1])
    assert kl.dtype == torch.float32
    assert kl.tolist() == pytest.approx(loop_kl(*inputs), rel=3e-6, abs=5e-7)


def test_float64_inputs_are_computed_and_returned_in_float64() -> None:
    inputs = random_pair(1, rows=40, vocabulary=61, dtype=torch.float64, bias=True, softcap=4.0)
    kl = token_kl(*inputs, tile_rows=7, tile_columns=9)
    assert kl.dtype == torch.float64
    assert kl.tolist() == pytest.approx(loop_kl(*inputs), rel=1e-13)


def test_half_precision_logits_are_not_rounded_to_half_precision() -> None:
    hidden, head, _, _ = random_pair(2, rows=4, vocabulary=50, dtype=torch.bfloat16)
    wide = Head(head.weight.double())
    # The same numbers in both precisions: the KL between them is that of rounding, and there is none.
    assert token_kl(hidden, head, hidden.double(), wide).max() < 1e-20


@pytest.mark.parametrize("difference", [3e-4, 1e-3, 1e-2, 0.1, 1.0])
def test_error_is_no_larger_than_that_of_subtracted_log_softmaxes(difference: float) -> None:
    inputs = similar_pair(3, difference, rows=64, vocabulary=4001)
    exact = float64_kl(*inputs)
    hidden_p, head_p, hidden_q, head_q = inputs
    log_p = (hidden_p @ head_p.weight.T).log_softmax(-1)
    log_q = (hidden_q @ head_q.weight.T).log_softmax(-1)
    eager_error = ((log_p.exp() * (log_p - log_q)).sum(-1) - exact).abs()
    error = (token_kl(*inputs) - exact).abs()
    assert error.max() <= eager_error.max()
    assert error.median() <= eager_error.median()


@pytest.mark.parametrize("tile_columns", [16, None])
def test_kls_of_a_millionth_keep_three_digits(tile_columns: int | None) -> None:
    inputs = similar_pair(4, 4e-4, rows=64, vocabulary=4001)
    exact = float64_kl(*inputs)
    assert exact.min() > 1e-8
    assert exact.max() < 1e-6
    assert ((token_kl(*inputs, tile_columns=tile_columns) - exact).abs() / exact).max() < 2e-3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 40),
    vocabulary=st.integers(1, 60),
    difference=st.sampled_from([0.0, 1e-7, 1e-4, 1e-2, 1.0, 30.0]),
    tile_rows=st.integers(1, 50),
    tile_columns=st.integers(1, 70),
)
def test_kl_is_never_negative_and_no_tiling_changes_it(
    seed: int, rows: int, vocabulary: int, difference: float, tile_rows: int, tile_columns: int
) -> None:
    inputs = similar_pair(seed, difference, rows=rows, vocabulary=vocabulary)
    tiled = token_kl(*inputs, tile_rows=tile_rows, tile_columns=tile_columns)
    assert tiled.shape == (rows,)
    assert (tiled >= 0).all()
    torch.testing.assert_close(tiled.double(), float64_kl(*inputs), rtol=2e-5, atol=1e-6)


def test_a_model_compared_with_itself_gives_exactly_zero() -> None:
    hidden, head, _, _ = random_pair(5, rows=50, vocabulary=300, bias=True)
    assert token_kl(hidden, head, hidden, head).tolist() == [0.0] * 50


@pytest.mark.parametrize("tile_columns", [16, None])
def test_a_shift_of_all_logits_changes_not_even_a_tiny_kl(tile_columns: int | None) -> None:
    hidden_p, head_p, hidden_q, head_q = inputs = similar_pair(6, 1e-3, rows=40, vocabulary=500)
    shifted = head_q._replace(bias=torch.full((500,), 7.0))
    kl = token_kl(hidden_p, head_p, hidden_q, shifted, tile_columns=tile_columns)
    exact = float64_kl(*inputs)
    assert exact.max() < 1e-5
    assert ((kl - exact).abs() / exact).max() < 5e-3


def masked(head: Head, entries: list[int]) -> Head:
    bias = torch.zeros(head.weight.shape[0])
    bias[entries] = -torch.inf
    return head._replace(bias=bias)


# Blocks of the vocabulary wholly and partly masked, and one block that holds it all.
in_blocks = pytest.mark.parametrize("tile_columns", [4, None])


@in_blocks
def test_entries_masked_in_both_models_add_nothing(tile_columns: int | None) -> None:
    hidden_p, head_p, hidden_q, head_q = random_pair(7, rows=40, vocabulary=21)
    entries = [0, 4, 5, 6, 7, 20]
    kept = [i for i in range(21) if i not in entries]
    kl = token_kl(
        hidden_p, masked(head_p, entries), hidden_q, masked(head_q, entries), tile_columns=tile_columns
    )
    without = loop_kl(hidden_p, Head(head_p.weight[kept]), hidden_q, Head(head_q.weight[kept]))
    assert kl.tolist() == pytest.approx(without, rel=3e-6)


@in_blocks
def test_an_entry_masked_in_the_first_model_only_still_counts_for_the_second(
    tile_columns: int | None,
) -> None:
    hidden_p, head_p, hidden_q, head_q = random_pair(8, rows=3, vocabulary=21)
    head_p = masked(head_p, [2])
    kl = token_kl(hidden_p, head_p, hidden_q, head_q, tile_columns=tile_columns)
    assert kl.tolist() == pytest.approx(loop_kl(hidden_p, head_p, hidden_q, head_q), rel=3e-6)


@in_blocks
def test_an_entry_masked_in_the_second_model_only_makes_it_infinite(tile_columns: int | None) -> None:
    hidden_p, head_p, hidden_q, head_q = random_pair(9, rows=3, vocabulary=21)
    kl = token_kl(hidden_p, head_p, hidden_q, masked(head_q, [2]), tile_columns=tile_columns)
    assert kl.tolist() == [math.inf] * 3


@in_blocks
def test_nan_stays_in_its_row(tile_columns: int | None) -> None:
    hidden_p, head_p, hidden_q, head_q = random_pair(10, rows=3, vocabulary=21)
    expected = loop_kl(hidden_p, head_p, hidden_q, head_q)
    hidden_q[1, 0] = torch.nan
    kl = token_kl(hidden_p, head_p, hidden_q, head_q, tile_columns=tile_columns).tolist()
    assert math.isnan(kl[1])
    assert [kl[0], kl[2]] == pytest.approx([expected[0], expected[2]], rel=3e-6)


@in_blocks
def test_log_ratios_too_wide_for_an_exponential_are_right(tile_columns: int | None) -> None:
    hidden_p, head_p, hidden_q, head_q = random_pair(11, rows=40, vocabulary=21, scale=60.0)
    expected = loop_kl(hidden_p, head_p, hidden_q, head_q)
    assert max(expected) > 200
    kl = token_kl(hidden_p, head_p, hidden_q, head_q, tile_columns=tile_columns)
    # Logits of some 300 are rounded at 2e-5, and a tie under p multiplies that by the log-ratio.
    assert kl.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@in_blocks
def test_an_infinity_of_the_second_model_shows_where_the_first_model_rounds_to_zero(
    tile_columns: int | None,
) -> None:
    hidden = torch.ones(1, 1)
    head_p = Head(torch.tensor([[0.0], [-200.0]]))  # e^-200 is 0 in float32, and is not 0
    head_q = masked(Head(torch.zeros(2, 1)), [1])
    assert token_kl(hidden, head_p, hidden, head_q, tile_columns=tile_columns).item() == math.inf


def test_a_share_of_q_is_not_lost_where_p_rounds_to_zero() -> None:
    # 10,000 entries: e^-105 each under p, which is 0 in float32, and e^-20 each under q.
    logits_p, logits_q = torch.full((10_001, 1), -105.0), torch.full((10_001, 1), -20.0)
    logits_p[0], logits_q[0] = 0.0, 0.0
    hidden = torch.ones(1, 1)
    kl = token_kl(hidden, Head(logits_p), hidden, Head(logits_q)).item()
    assert kl == pytest.approx(math.log1p(10_000 * math.exp(-20)), rel=0.02)


def test_parameters_that_require_gradients_and_strided_weights_are_accepted() -> None:
    hidden_p, head_p, hidden_q, head_q = random_pair(12, rows=40, vocabulary=30)
    expected = token_kl(hidden_p, head_p, hidden_q, head_q)
    parameter = Head(torch.nn.Parameter(head_p.weight))
    strided = Head(head_q.weight.T.contiguous().T)
    kl = token_kl(hidden_p.requires_grad_(), parameter, hidden_q.T.contiguous().T, strided)
    assert not kl.requires_grad
    torch.testing.assert_close(kl, expected)


def test_inputs_are_left_as_they_were() -> None:
    inputs = random_pair(13, rows=40, vocabulary=30, bias=True, scale=2.0, softcap=3.0)
    hidden_p, head_p, _, head_q = inputs
    assert head_p.bias is not None
    assert head_q.bias is not None
    tensors = (hidden_p, head_p.weight, head_p.bias, inputs[2], head_q.weight, head_q.bias)
    before = [t.clone() for t in tensors]
    token_kl(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_shapes_that_do_not_fit_are_named() -> None:
    hidden, head, _, _ = random_pair(14, rows=3, vocabulary=30)
    with pytest.raises(ValueError, match=r"one vocabulary; found 30 entries in head_p and 29"):
        token_kl(hidden, head, hidden, Head(head.weight[:29]))
    with pytest.raises(ValueError, match="same rows from both models, found 3 and 2"):
        token_kl(hidden, head, hidden[:2], head)
    with pytest.raises(ValueError, match=r"hidden_q \[N, d\].*found \[3, 7\] and \[30, 8\]"):
        token_kl(hidden, head, hidden[:, :7], head)
    with pytest.raises(ValueError, match=r"bias of 30 entries in head_p, found shape \[4\]"):
        token_kl(hidden, head._replace(bias=torch.zeros(4)), hidden, head)
    with pytest.raises(ValueError, match="tile_rows must be at least 1, found 0"):
        token_kl(hidden, head, hidden, head, tile_rows=0)


PEAK = """
import sys, torch
from pathlib import Path
from safedepth.measure.kl import token_kl
from safedepth.nouns import Head
def megabytes(key):
    return next(int(l.split()[1]) / 1024 for l in open("/proc/self/status") if l.startswith(key))
torch.set_num_threads(1)
head = Head(torch.zeros(10_000, 16))
token_kl(torch.zeros(64, 16), head, torch.zeros(64, 16), head)
for rows in (1_000, 2_000):
    hidden = torch.zeros(rows, 16)
    Path("/proc/self/clear_refs").write_text("5")
    before = megabytes("VmRSS")
    token_kl(hidden, head, hidden, head)
    print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_does_not_grow_with_the_rows() -> None:
    # 1,000 rows of float32 logits of both models would be 76 MB, 2,000 rows 153.
    environment = {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PEAK], env=environment, capture_output=True, text=True, check=True
    )
    few, many = map(float, run.stdout.split())
    assert few < 16
    assert many < few + 2

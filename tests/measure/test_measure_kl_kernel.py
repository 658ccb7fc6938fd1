"""Triton's kernel against its definition in float64: on a GPU, or interpreted on a CPU.

pip install triton && TRITON_INTERPRET=1 pytest -n 0 tests/measure/test_measure_kl_kernel.py
"""

import importlib
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from safedepth.measure.kl import token_kl
from safedepth.nouns import Head

pytest.importorskip("triton", reason="Triton comes with PyTorch for GPUs")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)


@pytest.fixture
def kernel() -> Any:
    return importlib.import_module("safedepth.measure.kl_kernel")


def pair(columns: int, difference: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(columns)
    p, noise = 3 * torch.randn(2, 3, columns, generator=generator)
    return p.to(DEVICE), (p + difference * noise).to(DEVICE)


def defined(p: Tensor, q: Tensor) -> list[Tensor]:
    """The statistics of one block, in float64."""
    p, q = p.double(), q.double()
    weight, difference = p.softmax(-1), q - p
    mean = (weight * difference).sum(-1)
    x = difference - mean[:, None]
    return [p.logsumexp(-1), mean, (weight * (x.expm1() - x)).sum(-1), x.amax(-1)]


@pytest.mark.parametrize("columns", [1, 100, 4096, 9000])
@pytest.mark.parametrize("difference", [1e-3, 0.05, 1.0])
def test_statistics_of_every_block_agree_with_float64(kernel: Any, columns: int, difference: float) -> None:
    p, q = pair(columns, difference)
    found = kernel.block_statistics(p, q)
    starts = range(0, columns, kernel.BLOCK)
    assert all(one.shape == (3, len(starts)) for one in found)
    for block, start in enumerate(starts):
        some = slice(start, start + kernel.BLOCK)
        for one, wanted in zip(found, defined(p[:, some], q[:, some]), strict=True):
            torch.testing.assert_close(one[:, block].double(), wanted, rtol=5e-6, atol=5e-7)
        gap = defined(p[:, some], q[:, some])[2]
        assert ((found[2][:, block] - gap).abs() <= 2e-3 * gap).all(), "small gaps lose their digits"


def test_equal_logits_have_no_gap_and_strided_rows_are_read_as_they_are(kernel: Any) -> None:
    p, q = pair(5000, 0.3)
    assert kernel.block_statistics(p, p)[2].eq(0).all()
    for one, other in zip(
        kernel.block_statistics(p[:, :4500], q[:, :4500]),
        kernel.block_statistics(p[:, :4500].contiguous(), q[:, :4500].contiguous()),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
@pytest.mark.parametrize("model", [0, 1])
def test_what_is_no_number_leaves_its_own_row_without_a_gap(kernel: Any, value: float, model: int) -> None:
    logits = pair(5000, 0.3)
    logits[model][1, 7] = value
    finite = torch.stack(kernel.block_statistics(*logits)).isfinite().all(0).all(-1)
    assert finite.tolist() == [True, False, True]


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kl_on_a_gpu_agrees_with_float64(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, other = torch.randn(2, 70, 64, generator=generator).to(DEVICE, dtype)
    weight = (torch.randn(9001, 64, generator=generator) / 4).to(DEVICE, dtype)
    near = (weight.float() + 0.02 * torch.randn(9001, 64, generator=generator).to(DEVICE)).to(dtype)
    for q, head in ((hidden, near), (other, weight), (hidden, weight)):
        found = token_kl(hidden, Head(weight), q, Head(head))
        log_p = (hidden.double() @ weight.double().T).log_softmax(-1)
        log_q = (q.double() @ head.double().T).log_softmax(-1)
        wanted = (log_p.exp() * (log_p - log_q)).sum(-1)
        assert (found >= 0).all()
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)

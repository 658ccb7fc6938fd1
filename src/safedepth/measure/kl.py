"""Per-token KL divergence of two models' next-token distributions, from hidden states.

The logits of a batch are the largest tensors in an evaluation, and here there would
be two of them. So they never exist: rows and vocabulary are cut into tiles that fit
a cache, each tile is reduced to four numbers a row while it is hot, and the numbers
are joined at the end. Memory depends neither on the rows nor on the vocabulary.

This file knows tensors only: which rows are answers, and what model they came from,
is the caller's business.

The formula. With logits z_p, z_q and x = (z_q - z_p) - E_p[z_q - z_p],

    KL(p||q) = log E_p[e^x] - E_p[x] = log1p( sum_v p_v (e^x_v - 1 - x_v) ),

because q_v / p_v = e^x_v / E_p[e^x] and E_p[x] = 0. It is the form of
sum p (log p - log q) - p + q in which every term is a product of non-negative
numbers, so that nothing cancels and nothing comes out negative, and which needs no
normaliser of q: two exponentials a logit pair. A KL of 1e-6 keeps about three
correct digits in float32, where log-softmaxes subtracted have none.

Blocks of the vocabulary join exactly. With block b's mass w_b under p, its mean m_b of
z_q - z_p, its own sum F_b, and y_b = m_b - sum_b w_b m_b,

    sum_v p_v (e^x_v - 1 - x_v) = sum_b w_b (e^y_b - 1 - y_b + e^y_b F_b),

again without a negative term.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from safedepth.nouns import Head

__all__ = ["token_kl"]

logger = logging.getLogger(__name__)

# Beyond e^60 a factor p = 0 (rounded down from something below 1e-38) could hide a
# visible share of q; such rows are rare and take the slow way.
WIDEST_LOG_RATIO = 60.0

# Below this many rows a plain product is faster than oneDNN with its copies.
ONEDNN_ROWS = 32


class _TileSize(NamedTuple):
    rows: int
    columns: int


class _BlockStatistics(NamedTuple):
    """What is kept of one tile, each [rows] or [rows, blocks]: see the module's formula."""

    log_mass: Tensor  # log sum_v e^z_p over the block
    mean: Tensor  # m_b: the mean of z_q - z_p under p within the block
    gap: Tensor  # F_b: the mean of e^x - 1 - x under p within the block
    widest: Tensor  # the largest x of the block


@torch.no_grad()
def token_kl(
    hidden_p: Tensor,
    head_p: Head,
    hidden_q: Tensor,
    head_q: Head,
    *,
    tile_rows: int | None = None,
    tile_columns: int | None = None,
) -> Tensor:
    """KL(p||q) in nats for each row, over the full vocabulary (the paper's figure 1).

    Args:
        hidden_p: [N, d_p] last hidden states of the first model, after its final norm.
        head_p: that model's map to logits over V entries.
        hidden_q: [N, d_q] the same rows' hidden states of the second model; d_q may differ from d_p.
        head_q: the second model's head, over the same V entries.
        tile_rows: rows a tile; chosen from the shapes and the device if None.
        tile_columns: vocabulary entries a tile; likewise.

    Returns:
        [N] on the inputs' device. Products, logits and sums are float32 whatever the inputs,
        or float64, and the result with them, where any of the inputs is float64. Never
        negative. Logits of -inf mask vocabulary entries: masked in both, an entry adds nothing;
        in p only, q's mass there counts; in q only, the KL is inf. A row with a NaN or +inf
        logit, or with everything masked, is NaN.

    Raises:
        ValueError: shapes do not fit together, or a tile size is not positive.

    float32 products follow `torch.set_float32_matmul_precision`; leave it at "highest". On a GPU with
    Triton a tile is reduced by one kernel (`kl_kernel`), and without it in several passes.
    """
    _check(hidden_p, head_p, hidden_q, head_q)
    tile = _tile_size(hidden_p, head_p, head_q, tile_rows, tile_columns)
    inputs = (hidden_p, head_p.weight, hidden_q, head_q.weight)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in inputs) else torch.float32
    kl = torch.empty(hidden_p.shape[0], dtype=dtype, device=hidden_p.device)
    if not kl.is_cuda:
        _keep_freed_blocks()
    reduced = _fused(kl.device) if kl.is_cuda and dtype == torch.float32 else _reduced
    for start in range(0, len(kl), tile.rows):
        rows = slice(start, start + tile.rows)
        p = _TileLogits(hidden_p[rows], head_p, dtype)
        q = _TileLogits(hidden_q[rows], head_q, dtype)
        kl[rows], usable = _joined([reduced(p[b], q[b]) for b in _blocks(head_p, tile.columns)])
        if not bool(usable.all()):
            unusable = start + (~usable).nonzero().squeeze(-1)
            kl[unusable] = _direct_kl(hidden_p[unusable], head_p, hidden_q[unusable], head_q, tile, dtype)
    return kl


@cache
def _fused(device: torch.device) -> Callable[[Tensor, Tensor], _BlockStatistics]:
    """What reduces a float32 tile on a GPU: Triton's kernel, or `_reduced` where it cannot be compiled."""
    try:
        from safedepth.measure.kl_kernel import block_statistics

        block_statistics(*torch.zeros(2, 16, 4096, device=device))
    except Exception as error:  # noqa: BLE001 - whatever a compiler meets, the passes below need none
        logger.warning("KL takes several passes a tile: Triton's kernel could not be had (%s)", error)
        return _reduced
    return lambda logits_p, logits_q: _BlockStatistics(*block_statistics(logits_p, logits_q))


def _reduced(logits_p: Tensor, logits_q: Tensor) -> _BlockStatistics:
    """Reduce a tile, [n, c] logits of both models, to its statistics; overwrites both."""
    difference = logits_q.sub_(logits_p)
    peak = logits_p.amax(-1)
    p = logits_p.softmax(-1)
    # The largest p is e^peak / sum e^z_p, so the block's mass costs no further exponential.
    log_mass = peak.sub_(p.amax(-1).log_())
    mean = torch.linalg.vecdot(p, difference)
    x = difference.sub_(mean.unsqueeze(-1))
    terms = torch.expm1(x, out=logits_p).sub_(x)
    return _BlockStatistics(log_mass, mean, torch.linalg.vecdot(p, terms), x.amax(-1))


def _joined(blocks: list[_BlockStatistics]) -> tuple[Tensor, Tensor]:
    """The rows' KL from the statistics of all their blocks, and where it can be relied on."""
    log_mass, mean, gap, widest = (
        torch.cat([of_tile.reshape(len(of_tile), -1) for of_tile in column], dim=-1)
        for column in zip(*blocks, strict=True)
    )
    mass = log_mass.softmax(-1)
    y = mean - torch.linalg.vecdot(mass, mean).unsqueeze(-1)
    growth = torch.expm1(y)
    kl = torch.linalg.vecdot(mass, growth - y + (growth + 1) * gap).log1p()
    usable = kl.isfinite() & ((widest + y).amax(-1) <= WIDEST_LOG_RATIO)
    return kl.clamp_(min=0), usable  # in case a device's expm1 rounds below x


def _direct_kl(
    hidden_p: Tensor, head_p: Head, hidden_q: Tensor, head_q: Head, tile: _TileSize, dtype: torch.dtype
) -> Tensor:
    """KL of the few rows the joined form cannot hold: masked entries, or log-ratios that overflow.

    The same sum from log-softmaxes, a few rows of full vocabulary at a time.
    """
    kl = torch.empty(len(hidden_p), dtype=dtype, device=hidden_p.device)
    vocabulary = head_p.weight.shape[0]
    step = max(1, tile.rows * tile.columns // vocabulary)
    for start in range(0, len(kl), step):
        rows = slice(start, start + step)
        p = _TileLogits(hidden_p[rows], head_p, dtype)
        q = _TileLogits(hidden_q[rows], head_q, dtype)
        blocks = list(_blocks(head_p, tile.columns))
        log_p = torch.cat([p[block] for block in blocks], dim=-1).log_softmax(-1)
        log_q = torch.cat([q[block] for block in blocks], dim=-1).log_softmax(-1)
        ratio = (log_p - log_q).masked_fill_(log_p == -torch.inf, 0)
        terms = log_p.exp() * ratio - log_p.exp() + log_q.exp()
        terms.masked_fill_(ratio == torch.inf, torch.inf)  # also where p, not 0, rounds to 0
        kl[rows] = terms.sum(-1).clamp_(min=0)
    return kl


class _TileLogits:
    """One model's logits for a few rows; `[block]` computes those of a block of the vocabulary."""

    def __init__(self, hidden: Tensor, head: Head, dtype: torch.dtype) -> None:
        self._head = head
        self._dtype = dtype
        half = hidden.dtype == head.weight.dtype and hidden.dtype in (torch.bfloat16, torch.float16)
        if hidden.is_cuda and half and dtype == torch.float32:
            self._hidden = hidden  # tensor cores multiply halves exactly and add in float32
        else:
            self._hidden = hidden.to(dtype)
        if self._onednn_pays():
            self._hidden = self._hidden.to_mkldnn()

    def __getitem__(self, block: slice) -> Tensor:
        """[n, c] logits of the block, the caller's to overwrite."""
        logits = self._product(self._head.weight[block])
        if self._head.bias is not None:
            logits.add_(self._head.bias[block])
        if self._head.scale != 1:
            logits.mul_(self._head.scale)
        if self._head.softcap is not None:
            logits.div_(self._head.softcap).tanh_().mul_(self._head.softcap)
        return logits

    def _product(self, weight: Tensor) -> Tensor:
        if self._hidden.is_mkldnn:
            product: Tensor = functional.linear(self._hidden, weight.to(self._dtype).to_mkldnn())
            return product.to_dense()
        if self._hidden.dtype != self._dtype:
            return torch.mm(self._hidden, weight.T, out_dtype=self._dtype)
        return torch.mm(self._hidden, weight.to(self._dtype).T)

    def _onednn_pays(self) -> bool:
        """True where oneDNN may beat torch's default float32 product (twofold, seen on AMD Zen 5)."""
        has_onednn = bool(torch.backends.mkldnn.is_available())
        return (
            has_onednn
            and self._hidden.device.type == "cpu"
            and self._hidden.dtype == torch.float32
            and self._hidden.shape[0] >= ONEDNN_ROWS
        )


def _blocks(head: Head, columns: int) -> list[slice]:
    return [slice(start, start + columns) for start in range(0, head.weight.shape[0], columns)]


def _tile_size(
    hidden: Tensor, head_p: Head, head_q: Head, rows: int | None, columns: int | None
) -> _TileSize:
    """Rows and columns of a tile, where not given.

    A CPU tile is 2 MB of float32: three of them live in a core's share of the cache, and 512
    rows are enough for a matrix product to run at full speed. A GPU tile is 128 MB: fewer would
    spend the time on launches. Few rows are given more columns. The block of the head that a tile
    needs is copied (for oneDNN, or from half precision), and is held to 16 MB, 256 MB on a GPU.
    """
    for name, size in (("tile_rows", rows), ("tile_columns", columns)):
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, found {size}")
    on_cpu = hidden.device.type == "cpu"
    most_rows, tile_items, head_items = (512, 2**19, 2**22) if on_cpu else (4096, 2**25, 2**26)
    width = max(head_p.weight.shape[1], head_q.weight.shape[1])
    rows = rows or max(1, min(most_rows, hidden.shape[0]))
    columns = columns or max(256, min(tile_items // rows, head_items // width))
    return _TileSize(rows, min(columns, head_p.weight.shape[0]))


def _keep_freed_blocks() -> None:
    """Let a tile take the memory that the last one freed.

    glibc hands a freed tile back to the system, and faulting its pages in again doubles the time of
    the whole measure. Freeing one block larger than the tiles raises the size up to which it keeps
    them (the dynamic threshold of mallopt(3)); the block is never touched, so it takes no memory.
    Other allocators do not notice.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)  # glibc heeds blocks of up to 32 MB


def _check(hidden_p: Tensor, head_p: Head, hidden_q: Tensor, head_q: Head) -> None:
    for name, hidden, head in (("p", hidden_p, head_p), ("q", hidden_q, head_q)):
        if hidden.ndim != 2 or head.weight.ndim != 2 or hidden.shape[1] != head.weight.shape[1]:
            raise ValueError(
                f"expected hidden_{name} [N, d] and a head weight [V, d], "
                f"found {list(hidden.shape)} and {list(head.weight.shape)}"
            )
        if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
            raise ValueError(
                f"expected a bias of {head.weight.shape[0]} entries in head_{name}, "
                f"found shape {list(head.bias.shape)}"
            )
    if hidden_p.shape[0] != hidden_q.shape[0]:
        raise ValueError(
            f"expected the same rows from both models, found {hidden_p.shape[0]} and {hidden_q.shape[0]}"
        )
    vocabularies = head_p.weight.shape[0], head_q.weight.shape[0]
    if vocabularies[0] != vocabularies[1] or vocabularies[0] == 0:
        raise ValueError(
            "KL needs two heads over one vocabulary; "
            f"found {vocabularies[0]} entries in head_p and {vocabularies[1]} in head_q"
        )

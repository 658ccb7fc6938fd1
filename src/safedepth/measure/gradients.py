"""Gradient norms of each response token's loss, by layer and of the whole model (the paper's figure 3).

The gradient of -log p(y_t | x, y_<t) says how hard one token pulls at the weights while a
model is fine-tuned. A backward pass for every token would cost as much as training on it;
here the tokens of a sequence share all that they have in common (`gradient_passes`).

Nothing is taken on trust: the first measurement of a model is compared, for one token, with
an ordinary backward pass through the model as it stands. Where they differ, and for models
that are put together in another way, every token gets its own pass. Estimates along random
directions cost less still and come with the interval that theory gives them.

This file knows token ids and a torch module: what they mean is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from safedepth.errors import ModelError
from safedepth.measure.gradient_graphs import Recorded, UnsuitedError
from safedepth.measure.gradient_layers import Layers, gradients_of
from safedepth.measure.gradient_passes import HeadRows, derivatives, left_out, squared_norms
from safedepth.measure.gradient_products import squares
from safedepth.nouns import Head

__all__ = ["EstimatedNorms", "GradientMeter", "GradientNorms"]

Floats = NDArray[np.float64]

TAIL = 0.025

# What a model raises that cannot be taken apart, or through whose operations nothing can be batched.
_UNSUITED = (UnsuitedError, RuntimeError, TypeError, ValueError, AttributeError, LookupError)

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass(frozen=True)
class GradientNorms:
    """Of n tokens: `loss` [n] in nats, and its gradient's norms `by_layer` [n, L], named in `layers`.

    A layer that was not measured is NaN. `whole` [n] is the norm over all layers together that were.
    """

    loss: Floats
    layers: tuple[str, ...]
    by_layer: Floats

    @property
    def whole(self) -> Floats:
        """Norms [n] over all measured layers: of the whole model, unless it was measured in part."""
        whole: Floats = np.sqrt(np.nansum(self.by_layer**2, axis=1))
        return whole


@dataclass(frozen=True)
class EstimatedNorms:
    """Of n tokens: `loss` [n] in nats, and the `whole` model's gradient norm [n] with its 95 % interval.

    Errors of the tokens of one sequence are correlated, for they share directions: give every
    sequence a seed of its own.
    """

    loss: Floats
    whole: Floats
    low: Floats
    high: Floats


class GradientMeter:
    """Gradient norms of the token losses of one causal language model.

    `head` is the map for which `head(last hidden states)` are the model's logits (`models.head_of`);
    without one every token gets a backward pass. Norms are over the parameters that require
    gradients, or over all where none does. The model is left as it was: its mode, `requires_grad`,
    and gradients. Weights and cotangents stay in the model's precision; sums are float64. Load a
    model in float32 for norms that are right to a millionth; in 16 bits they are to a few hundredths.

    `last_blocks` leaves out what lies before the last so many blocks; `chunk` is how many tokens
    share a pass, by default 16, and 64 on a GPU. `fallback` says, after the first measurement, why
    each token gets its own, if so.
    """

    def __init__(
        self, model: nn.Module, head: Head | None, *, last_blocks: int | None = None, chunk: int | None = None
    ) -> None:
        if chunk is None:  # on a GPU a pass costs its launches, whatever is in it
            chunk = 64 if next(model.parameters()).is_cuda else 16
        if chunk < 1 or (last_blocks is not None and last_blocks < 1):
            raise ValueError(f"expected chunk and last_blocks of at least 1, found {chunk} and {last_blocks}")
        if any(parameter.dtype in (torch.int8, torch.uint8) for parameter in model.parameters()):
            raise ModelError(
                "expected plain weights to take gradients by, found quantised ones. Load the model in "
                "float32 (--dtype float32), or in bfloat16 where that is too large"
            )
        self._model, self._head = model, head
        self._chunk, self._last = chunk, last_blocks
        self._layers = Layers(model)
        self._checked = False
        self.fallback: str | None = None
        if head is None:
            self.fallback = "its head is not known apart"
        elif not self._layers.all_trained:
            self.fallback = "a part of its parameters is trained"
        elif self._layers.shared:
            self.fallback = "layers share parameters"

    def norms(self, ids: Tensor, first: int, count: int | None = None) -> GradientNorms:
        """Exact norms for the `count` tokens from `ids[first]` on, or all of them.

        `ids` [T] is one sequence; tokens count from 0, and the first has no loss.
        """
        ids, n = self._sequence(ids, first, count)
        if self.fallback is None and not self._checked:
            self._check(ids, n)
        if self.fallback is None:
            loss, squared = self._together(ids, n)
        else:
            loss, squared = self._one_by_one(ids, range(n), n)
        by_layer = squared.sqrt().cpu().numpy()
        return GradientNorms(loss.cpu().numpy(), self._layers.names, by_layer)

    def estimate(
        self, ids: Tensor, first: int, count: int | None = None, *, directions: int = 8, seed: int
    ) -> EstimatedNorms:
        """Unbiased estimates of the same tokens' norms of the whole model, from m random directions.

        A derivative along a Gaussian direction is normal with the norm as standard deviation, so
        the root of the sum of m squares, over c_m = sqrt(2) Gamma((m + 1) / 2) / Gamma(m / 2), has
        the norm as its mean and about 1 / sqrt(2 m) of it as standard deviation; the interval is
        that of the chi-square distribution. Directions are drawn on the model's device: one seed gives
        the same numbers on machines of one kind. Raises ModelError for a model that only `norms` serves.
        """
        if directions < 1:
            raise ValueError(f"expected at least 1 direction, found {directions}")
        ids, n = self._sequence(ids, first, count)
        if self.fallback is None and not self._checked:
            self._check(ids, n)
        if self.fallback is not None or self._last is not None:
            why = self.fallback or "only its last blocks are measured"
            raise ModelError(
                f"expected a model whose gradients can be estimated along random directions, found that {why}"
                ". Measure exactly instead (--directions 0)"
            )
        random = torch.Generator(ids.device).manual_seed(seed)
        sums = torch.zeros(n, dtype=torch.float64, device=ids.device)
        with self._taken_apart():
            recorded, rows = self._recorded(ids, n)
            for done in range(0, directions, self._chunk):
                some = min(self._chunk, directions - done)
                found = derivatives(recorded, self._layers, rows, directions=some, random=random)
                sums += found.square().sum(0)
        mean = math.sqrt(2) * math.exp(math.lgamma((directions + 1) / 2) - math.lgamma(directions / 2))
        low, high = (stats.chi2.ppf(share, directions) for share in (1 - TAIL, TAIL))
        squared = sums.cpu().numpy()
        root: Floats = np.sqrt(squared)
        return EstimatedNorms(
            rows.loss.cpu().numpy(), root / mean, np.sqrt(squared / low), np.sqrt(squared / high)
        )

    def _sequence(self, ids: Tensor, first: int, count: int | None) -> tuple[Tensor, int]:
        """The ids up to the last token asked for, on the model's device, and how many are asked for."""
        last = len(ids) if count is None else first + count
        if ids.ndim != 1 or not 1 <= first < last <= len(ids):
            raise ValueError(
                f"expected ids [T] and at least one token from ids[1] on, found {list(ids.shape)}, "
                f"first {first} and count {count}"
            )
        device = next(self._model.parameters()).device
        return ids[:last].to(device), last - first

    @contextmanager
    def _taken_apart(self) -> Iterator[None]:
        """Gradients of vectors alone, and attention in operations that can be batched."""
        vectors = [p for p in self._layers.of if p.ndim < 2]
        with gradients_of(self._model, vectors), sdpa_kernel(SDPBackend.MATH):
            yield

    def _recorded(self, ids: Tensor, n: int) -> tuple[Recorded, HeadRows]:
        assert self._head is not None
        recorded = Recorded(self._model, self._layers, ids[:-1])
        return recorded, HeadRows.of(self._head, recorded.hidden[-n:], ids[-n:], recorded.present)

    def _together(self, ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Losses [n] and squared norms [n, L] of the last n tokens, many at a time."""
        with self._taken_apart():
            recorded, rows = self._recorded(ids, n)
            squared = squared_norms(recorded, self._layers, rows, chunk=self._chunk, last_blocks=self._last)
        return rows.loss, squared

    def _one_by_one(self, ids: Tensor, tokens: range, n: int) -> tuple[Tensor, Tensor]:
        """The same of some of the last n tokens, by a backward pass each."""
        layers = self._layers
        squared = torch.zeros(len(tokens), len(layers.names), dtype=torch.float64, device=ids.device)
        with gradients_of(self._model, layers.of):
            output = cast(Any, self._model)(input_ids=ids.unsqueeze(0), use_cache=False)
            logits = output.logits[0, -n - 1 : -1]
            logits = logits.to(_wide(logits.dtype))
            losses = nn.functional.cross_entropy(logits, ids[-n:], reduction="none")[list(tokens)]
            for row, loss in zip(squared, losses, strict=True):
                with _gradients_taken(layers.of, row):
                    torch.autograd.backward(loss, retain_graph=True, inputs=list(layers.of))
        return losses.detach().double(), squared

    def _check(self, ids: Tensor, n: int) -> None:
        """Compare one token with an ordinary backward pass; `fallback` says what was found wrong."""
        some = min(n, self._chunk)
        try:
            losses, found = self._together(ids[: len(ids) - n + some], some)
        except torch.OutOfMemoryError:
            raise
        except _UNSUITED as error:
            first_line = (str(error).splitlines() or [""])[0]
            self.fallback = f"it could not be taken apart ({type(error).__name__}: {first_line})"
            return
        self._checked = True
        token = int(losses.argmax())
        loss, squared = self._one_by_one(ids, range(token, token + 1), n)
        measured = torch.ones_like(found[token], dtype=torch.bool)
        measured[left_out(self._layers, self._last)] = False
        mine, plain = found[token][measured].sqrt(), squared[0][measured].sqrt()
        dtype = next(self._model.parameters()).dtype
        # An ordinary backward pass subtracts 1 from the token's probability, and loses what is lost there.
        lost = 4 * torch.finfo(_wide(dtype)).eps / max(-math.expm1(-float(losses[token])), 1e-30)
        tolerance = _TOLERANCE.get(dtype, 0.1) + lost
        close = torch.allclose(mine, plain, rtol=tolerance, atol=tolerance * float(plain.norm()) / 10)
        if not close or not torch.allclose(losses[token], loss[0], rtol=tolerance, atol=tolerance):
            self.fallback = "taken apart it has other gradients than as it stands"


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of logits and losses."""
    return dtype if dtype == torch.float64 else torch.float32


@contextmanager
def _gradients_taken(layer_of: Mapping[nn.Parameter, int], row: Tensor) -> Iterator[None]:
    """Add the squared norm of each gradient to its layer's entry of `row` when it is there, and drop it.

    So no more than one parameter's gradient is ever held. Those that were there before stay.
    """
    before = {parameter: parameter.grad for parameter in layer_of}

    def take(parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        row[layer_of[parameter]] += squares(parameter.grad.detach().unsqueeze(0))[0]
        parameter.grad = None

    with ExitStack() as stack:
        for parameter, gradient in before.items():
            parameter.grad = None
            stack.callback(setattr, parameter, "grad", gradient)
            stack.callback(parameter.register_post_accumulate_grad_hook(take).remove)
        yield

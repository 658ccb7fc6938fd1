"""A forward pass cut into segments, through which many cotangents or tangents go at once.

A segment is what lies between two hidden states: the embedding's side, a block, the side of
the head. How a model calls its blocks is watched, not known: the pass is read once without
gradients, and a block is called again, with what it was called with, when its graph is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import grad

from safedepth.measure.gradient_layers import Layers
from safedepth.measure.gradient_products import Known, Product, normal, squares

__all__ = ["Recorded", "Segment", "Segments", "UnsuitedError"]


class UnsuitedError(Exception):
    """The model is not put together in the way that segments need."""


@dataclass(frozen=True)
class Segment:
    """The graph from a leaf `x` to `out` [1, S, d], with the parameters on the way.

    `products` are the weight matrices; `vectors` the parameters whose gradients are small
    enough to be formed.
    """

    x: Tensor
    out: Tensor
    vectors: list[nn.Parameter]
    products: list[Product]

    def pull(self, cotangents: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents [K, 1, S, d] of `out` to those of `x`, and squared norms [K] of gradients between."""
        norms = torch.zeros(len(cotangents), dtype=torch.float64, device=cotangents.device)
        if self.out is self.x:
            return cotangents, norms
        found = iter(_batched_grad(self.out, self._parts, cotangents))
        x = _required(next(found))
        known: Known = {}
        for product in self.products:
            norms += product.squared_norms([_required(next(found)) for _ in product.outputs], known)
        for vector in found:
            if vector is not None:
                norms += squares(vector)
        return x, norms

    def push(self, tangents: Tensor, random: torch.Generator) -> Tensor:
        """Tangents [m, 1, S, d] of `x` to those of `out`, along a Gaussian direction of the weights each."""
        if self.out is self.x:
            return tangents
        directions = [tangents]
        known: Known = {}
        for product in self.products:
            directions += product.noise(len(tangents), random, known)
        directions += [normal((len(tangents), *v.shape), random, v) for v in self.vectors]
        # A vector-Jacobian product is linear in its vector, and its derivative there is the Jacobian's.
        vector = torch.zeros_like(self.out, requires_grad=True)
        grads: tuple[Tensor | None, ...] = grad(
            self.out, self._parts, vector, create_graph=True, allow_unused=True
        )
        used = [(g, v) for g, v in zip(grads, directions, strict=True) if g is not None]
        outputs, given = zip(*used, strict=True)
        return _required(_batched_grad(outputs, [vector], given)[0])

    @property
    def _parts(self) -> list[Tensor]:
        return [self.x, *(out for product in self.products for out in product.outputs), *self.vectors]


@dataclass(frozen=True)
class Segments:
    """The first tokens of a sequence, cut into segments; those of the blocks are made when asked for."""

    front: Segment
    blocks: list[Callable[[], Segment]]
    tail: Segment


class Recorded:
    """One sequence of token ids [T], read once without gradients.

    `hidden` [T, d] is what the head reads; `present` [U] are the ids that occur, `place` [T] says
    which of them stands where. Raises UnsuitedError, and whatever the model raises, where it
    cannot be taken apart.
    """

    def __init__(self, model: nn.Module, layers: Layers, ids: Tensor) -> None:
        self._backbone: Any = cast(Any, model).base_model
        self._layers, self.ids = layers, ids
        self.present, self.place = ids.unique(return_inverse=True)
        if self._backbone is model or not layers.blocks or not isinstance(layers.embedding, nn.Embedding):
            raise UnsuitedError("no embedding, blocks and head apart from each other")
        if any(parameter.ndim > 1 for parameter in layers.rest):
            raise UnsuitedError("matrices beside those of embedding, blocks and head")
        self._embedding = layers.embedding
        self._inputs: list[Tensor] = []
        self._outputs: list[Any] = []
        embedded: list[Tensor] = []

        def record(_block: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            self._inputs.append(given[0])
            self._outputs.append(out)

        def look(_embedding: nn.Module, _ids: Any, out: Tensor) -> None:
            embedded.append(out)

        with _hooked(layers.blocks, record), _hooked([self._embedding], look), torch.no_grad():
            self.hidden: Tensor = self._read(ids)
        if (len(embedded), len(self._inputs)) != (1, len(layers.blocks)):
            raise UnsuitedError("an embedding or blocks that are not called once each")
        self._scale = _scale(self._embedding.weight[ids], embedded[0][0])

    def looked_up(self, rows: Tensor) -> Tensor:
        """What the embedding makes of rows [..., T', d] of its matrix; that of padding is never trained."""
        padding = self._embedding.padding_idx
        kept = self.ids[: rows.shape[-2], None] != (-1 if padding is None else padding)
        return rows * (self._scale * kept)

    def segments(self, end: int) -> Segments:
        """The graphs of the first `end` tokens, each block's from what went into it when all were read."""
        blocks, rest = self._layers.blocks, self._layers.rest
        embedded: list[Tensor] = []
        calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []
        last = _tensor_of(self._outputs[-1])[:, :end].detach().requires_grad_()

        def cut(_module: nn.Module, _ids: Any, out: Tensor) -> Tensor:
            embedded.append(out.detach().requires_grad_())
            return embedded[-1]

        def stand_in(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            own = self._outputs[len(calls)]
            calls.append((x, args, kwargs))
            out = last if len(calls) == len(blocks) else x
            return (out, *own[1:]) if isinstance(own, tuple) else out

        with _hooked([self._embedding], cut), _standing_in(blocks, stand_in):
            hidden = self._read(self.ids[:end])
        return Segments(
            front=Segment(embedded[0], calls[0][0], rest, []),
            blocks=[
                lambda i=i, call=call: self._block(i, end, *call[1:])  # type: ignore[misc]
                for i, call in enumerate(calls)
            ],
            tail=Segment(last, hidden.unsqueeze(0), rest, []),
        )

    def _read(self, ids: Tensor) -> Tensor:
        output = self._backbone(input_ids=ids.unsqueeze(0), use_cache=False)
        return cast(Tensor, output.last_hidden_state[0])

    def _block(self, index: int, end: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Segment:
        block = self._layers.blocks[index]
        products: dict[Tensor, Product] = {}

        def tap(linear: nn.Linear, given: tuple[Tensor, ...], out: Tensor) -> None:
            product = products.setdefault(linear.weight, Product())
            product.inputs.append(given[0])
            product.outputs.append(out)

        x = self._inputs[index][:, :end].detach().requires_grad_()
        with _hooked([m for m in block.modules() if isinstance(m, nn.Linear)], tap):
            out = _tensor_of(block(x, *args, **kwargs))
        vectors = [p for p in block.parameters() if p not in products]
        if any(vector.ndim > 1 for vector in vectors):
            raise UnsuitedError("matrices beside those of linear maps")
        return Segment(x, out, vectors, list(products.values()))


def _batched_grad(outputs: Any, inputs: list[Tensor], cotangents: Any) -> list[Tensor | None]:
    """Gradients for many cotangents at once; None for inputs on which nothing depends."""
    used: list[bool] = []

    def one(cotangent: Any) -> tuple[Tensor, ...]:
        grads: tuple[Tensor | None, ...] = grad(outputs, inputs, cotangent, allow_unused=True)
        used[:] = [g is not None for g in grads]
        return tuple(g for g in grads if g is not None)

    found = iter(torch.vmap(one)(cotangents))
    return [next(found) if there else None for there in used]


def _required(found: Tensor | None) -> Tensor:
    if found is None:
        raise UnsuitedError("a part on which nothing depends")
    return found


def _tensor_of(out: Any) -> Tensor:
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


def _scale(rows: Tensor, found: Tensor) -> float:
    """By what an embedding multiplies rows of its matrix: not 1 in Gemma."""
    rows, found = rows.detach().double(), found.double()
    scale = float((rows * found).sum() / rows.square().sum())
    if not torch.allclose(scale * rows, found, rtol=1e-2, atol=1e-6):
        raise UnsuitedError("an embedding that does more than look up and scale")
    return scale


@contextmanager
def _hooked(modules: Any, hook: Callable[..., Any]) -> Iterator[None]:
    """`hook` on the forward pass of each module."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def _standing_in(modules: tuple[nn.Module, ...], forward: Callable[..., Any]) -> Iterator[None]:
    """`forward` in place of each module's own."""
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            del module.__dict__["forward"]
            if own is not None:
                module.__dict__["forward"] = own

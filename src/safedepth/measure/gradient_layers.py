"""The layers of a language model that gradients are summed over: embedding, blocks, final norm, head.

Every parameter belongs to exactly one layer. Layers are told from the structure of the
module, never from its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

__all__ = ["Layers", "gradients_of"]

EMBEDDING, HEAD, BOTH, NORM, OTHER = "embedding", "head", "embedding and head", "final norm", "other"


class Layers:
    """The parameters of a model by layer, those that are trained alone.

    Trained are the parameters that require gradients; all of them where none does, as in a model
    loaded for inference. `names` are the layers from the embedding to the head, `of` says to which
    of them a parameter belongs. Embedding and head are one layer where they share their matrix.
    Parameters beside all these are the layer "final norm", or "other" where one of them is no norm.
    """

    def __init__(self, model: nn.Module) -> None:
        every = [p for p in model.parameters() if p.is_floating_point()]
        wanted = {p for p in every if p.requires_grad} or set(every)
        self.all_trained = len(wanted) == len(every)
        self.embedding = cast("nn.Module | None", cast(Any, model).get_input_embeddings())
        self.head = cast("nn.Module | None", cast(Any, model).get_output_embeddings())
        self.blocks = _blocks(model)
        inside, outside = _parameters(self.embedding), _parameters(self.head)
        self.tied = bool(inside & outside)
        named: dict[str, set[nn.Parameter]] = {BOTH if self.tied else EMBEDDING: inside}
        named |= {f"block {i}": _parameters(block) for i, block in enumerate(self.blocks, start=1)}
        rest = set(every).difference(outside, *named.values())
        named[NORM if _are_norms(model, rest) else OTHER] = rest
        named[BOTH if self.tied else HEAD] = named.get(BOTH, set()) | outside
        self.shared = sum(map(len, named.values())) > len(every)
        named = {name: members & wanted for name, members in named.items()}
        self.names = tuple(name for name, members in named.items() if members)
        self.of: dict[nn.Parameter, int] = {}
        for index, name in enumerate(self.names):
            for parameter in named[name]:
                self.of.setdefault(parameter, index)
        self.rest = [p for p in every if p in rest]


def _parameters(module: nn.Module | None) -> set[nn.Parameter]:
    return set() if module is None else {p for p in module.parameters() if p.is_floating_point()}


def _blocks(model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules of the outermost list of modules, the longest where several lie as deep."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        return ()
    _, longest = min(lists, key=lambda named: (named[0].count("."), -len(named[1])))
    return tuple(longest)


def _are_norms(model: nn.Module, parameters: set[nn.Parameter]) -> bool:
    owners = [m for m in model.modules() if parameters.intersection(m.parameters(recurse=False))]
    return all("norm" in type(owner).__name__.lower() for owner in owners)


@contextmanager
def gradients_of(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """The model in evaluation mode, with gradients of `parameters` alone; afterwards as it was."""
    wanted = set(parameters)
    trained = [(p, p.requires_grad) for p in model.parameters()]
    training = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        for parameter, _ in trained:
            if parameter.is_floating_point():
                parameter.requires_grad_(parameter in wanted)
        with torch.enable_grad():
            yield
    finally:
        for parameter, before in trained:
            parameter.requires_grad_(before)
        for module, mode in training:
            module.training = mode

"""Which models this process holds: no checkpoint is loaded twice, nor given two engines.

Inspect makes a provider anew for every combination of model and options, and a study
measures on the very models that Inspect runs. All of them come here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakValueDictionary

from safedepth.errors import ModelError
from safedepth.models import LoadedModel, load_model
from safedepth.provider.engine import Engine

__all__ = ["Served", "acquire", "forget_loaded", "register_loaded", "release"]

_registered: dict[str, LoadedModel] = {}
_loaded: WeakValueDictionary[tuple[str, str | None, str, str], LoadedModel] = WeakValueDictionary()
_served: list[Served] = []
_lock = threading.Lock()


@dataclass
class Served:
    """A loaded model, its engine, and how many providers use it."""

    loaded: LoadedModel
    engine: Engine
    users: int = 0


def register_loaded(name: str, loaded: LoadedModel) -> None:
    """From now on `safedepth/NAME` is this model, instead of being loaded from disk."""
    with _lock:
        _registered[name] = loaded


def forget_loaded(name: str) -> None:
    """Undo `register_loaded`; providers that use the model already go on."""
    with _lock:
        _registered.pop(name, None)


def acquire(
    name: str,
    *,
    chat_template: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    slots: int | None = None,
) -> Served:
    """The model of this name with an engine of `slots` rows (by default 64), new or in use already.

    Raises ModelError where a registered name comes with loading options, which could
    not be honoured, and whatever `models.load_model` raises.
    """
    options = (name, chat_template, dtype, device)
    with _lock:
        loaded = _registered.get(name)
        if loaded is None:
            loaded = _loaded.get(options)
        elif options[1:] != (None, "auto", "auto"):
            raise ModelError(
                f"expected no loading options for {name}, which is registered as already loaded, found "
                f"chat_template={chat_template}, dtype={dtype}, device={device}. Load it with these instead"
            )
        if loaded is None:
            loaded = _loaded[options] = load_model(
                name, chat_template=chat_template, dtype=dtype, device=device
            )
        for served in _served:
            if served.loaded is loaded and slots in (None, served.engine.slots):
                break
        else:
            served = Served(loaded, Engine(loaded.model, slots=64 if slots is None else slots))
            _served.append(served)
        served.users += 1
        return served


def release(served: Served) -> None:
    """Say that one user of a model is done with it; the last one closes its engine."""
    with _lock:
        served.users -= 1
        if served.users:
            return
        _served.remove(served)
    served.engine.close()

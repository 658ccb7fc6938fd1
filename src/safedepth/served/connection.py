"""The Inspect models behind one served name: its chats and its completions, each at its own address.

Inspect's own `vllm` provider keeps servers by the name of the model, so that two addresses of one
name become one; with an address, its generic OpenAI-compatible provider is used instead.
"""

from __future__ import annotations

import os
from typing import Any

from inspect_ai.model import GenerateConfig, Model, ModelAPI, get_model

from safedepth.errors import MissingExtraError, ModelError

__all__ = ["address_of", "chat_model", "completions_model", "continuing", "takes_body"]

CONTINUE: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
"""What vLLM, SGLang and `apply_chat_template` call it; Inspect adds it for these two providers only."""

_KEYS = {"vllm": "inspectai", "sglang": "dummy"}
"""The key that Inspect sends to a server which asks for none."""


def chat_model(name: str, url: str | None) -> Model:
    """The model that `name` means (`vllm/NAME`, `sglang/NAME`, `openai-api/SERVICE/NAME`, ...), as a chat.

    `url` is the server's address up to and with `/v1`; None leaves it to Inspect and its environment
    variables. The model is new at every call and nothing of it is shared. Its client does not retry.
    Raises ModelError where Inspect cannot make it.
    """
    return _made(name, url, "openai-api")


def completions_model(name: str, url: str | None, *, key: str | None = None) -> Model:
    """As `chat_model`, through `/v1/completions`: one user message, its text or its `prompt_token_ids`.

    `key` is sent instead of the environment's. Raises ModelError for a provider that has no completions
    in Inspect.
    """
    return _made(name, url, "openai-api-completions", key)


def _made(name: str, url: str | None, generic: str, key: str | None = None) -> Model:
    provider, _, served = name.partition("/")
    kind = provider.removesuffix("-completions")
    url = url or _address_in_environment(kind, served)
    if kind not in ("vllm", "sglang", "openai-api"):
        if generic != "openai-api":
            raise ModelError(
                f"expected a provider with completions (vllm, sglang, openai-api), found {name!r}"
            )
        return _model(name, {} if url is None else {"base_url": url})
    if url is None:
        # Inspect starts a vLLM server of its own, or says which variable is missing.
        return _model(f"{kind}-completions/{served}" if generic != "openai-api" else f"{kind}/{served}", {})
    service, _, rest = (kind, "", served) if kind != "openai-api" else served.partition("/")
    if kind == "vllm":
        base, _, adapter = served.partition(":")
        rest = adapter or base
    key = key or os.environ.get(_variable(service, "API_KEY")) or _KEYS.get(service, "none")
    return _model(f"{generic}/{service}/{rest}", {"base_url": url, "api_key": key, "max_retries": 0})


def _model(name: str, options: dict[str, Any]) -> Model:
    try:
        return get_model(name, memoize=False, **options)
    except Exception as error:
        raise ModelError(f"Inspect could not make the model {name!r}: {error}") from error


def _address_in_environment(kind: str, served: str) -> str | None:
    """Where Inspect would look for a server, by the variables it reads."""
    service = served.partition("/")[0] if kind == "openai-api" else kind
    return os.environ.get(_variable(service, "BASE_URL"))


def _variable(service: str, what: str) -> str:
    return f"{service.upper().replace('-', '_')}_{what}"


def address_of(model: Model) -> str | None:
    """The server's address, up to and with `/v1`, once it is known."""
    return model.api.base_url


def takes_body(api: ModelAPI) -> bool:
    """Whether a provider passes on `extra_body`, and so settings that Inspect has no name for."""
    try:
        from inspect_ai.model._providers.openai_compatible import OpenAICompatibleAPI
    except ImportError as error:
        raise MissingExtraError("The openai client", "servers") from error
    return isinstance(api, OpenAICompatibleAPI)


def continuing(api: ModelAPI, config: GenerateConfig) -> GenerateConfig:
    """`config` with the request to continue the last message, for providers that pass it on."""
    if not takes_body(api):
        return config
    return config.model_copy(update={"extra_body": {**(config.extra_body or {}), **CONTINUE}})

"""One server asked one thing at a time, with bounded patience: what a probe's request became.

Three outcomes and no other: a reply, a refusal (the server understood and will not), or a
ModelError (there is no asking this server). Goes past Inspect's bookkeeping of samples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    Logprob,
    Model,
    ModelAPI,
    ModelCall,
    ModelOutput,
)

from safedepth.errors import ModelError
from safedepth.served.connection import address_of, completions_model, continuing, takes_body

__all__ = ["Asker", "RefusalError", "Reply"]

ATTEMPTS = 4
SECONDS = 60.0
"""How long one attempt may take."""
FIRST_WAIT = 1.0
"""Seconds before the second attempt; doubled from there on."""
LONGEST_WAIT = 30.0
"""What a server may ask for by `Retry-After`, at most."""


class RefusalError(Exception):
    """A server's own words on why it does not answer a request."""


@dataclass(frozen=True)
class Reply:
    """What came back. Counts are None where the server tells none; `echoed` leaves out the first token."""

    text: str
    stop_reason: str
    prompt_tokens: int | None
    tokens: int | None
    logprobs: tuple[Logprob, ...] | None = None
    echoed: tuple[Logprob, ...] | None = None


class Asker:
    """A model's chat and its completions. `requests` counts what was sent; close it when done."""

    def __init__(self, model: Model) -> None:
        self.name = str(model)
        self.requests = 0
        completions = self.name.partition("/")[0].endswith("-completions")
        self._given = model
        self._chat = None if completions else model.api
        self._completions: ModelAPI | None = model.api if completions else None

    @property
    def url(self) -> str:
        """The server's address, or the model's name where the provider has none."""
        return address_of(self._given) or self.name

    @property
    def served(self) -> str:
        """The name that requests carry."""
        named = getattr(self._given.api, "service_model_name", None)
        return str(named()) if named else self._given.name

    async def chat(
        self, request: str, said: str | None = None, *, asking: bool = True, **settings: Any
    ) -> Reply:
        """Ask a request; with `said`, as what the assistant has said already and is to continue.

        `asking` False leaves out the fields that ask for that. Settings are those of `complete`.
        Raises RefusalError, ModelError.
        """
        if self._chat is None:
            raise RefusalError("only completions were asked for")
        messages: list[ChatMessage] = [ChatMessageUser(content=request)]
        config = _config(self._chat, settings)
        if said is not None:
            messages.append(ChatMessageAssistant(content=said))
            config = continuing(self._chat, config) if asking else config
        return await self._ask(self._chat, messages, config)

    async def complete(self, prompt: str | Sequence[int], **settings: Any) -> Reply:
        """Continue a text, or token ids. `settings` are fields of `GenerateConfig`, or of the request's body.

        Raises RefusalError, ModelError.
        """
        if self._completions is None:
            try:
                key = self._given.api.api_key
                self._completions = completions_model(self.name, address_of(self._given), key=key).api
            except ModelError as error:
                raise RefusalError(str(error)) from error
        ids = None if isinstance(prompt, str) else {"prompt_token_ids": list(prompt)}
        message = ChatMessageUser(content=prompt if isinstance(prompt, str) else "", metadata=ids)
        return await self._ask(self._completions, [message], _config(self._completions, settings))

    async def models(self) -> list[dict[str, Any]]:
        """The cards of `/v1/models`; none where there is no such list, or it cannot be read."""
        client = getattr(self._given.api, "client", None)
        if client is None or not takes_body(self._given.api):
            return []
        from openai import OpenAIError

        try:
            page = await client.with_options(timeout=SECONDS / 2, max_retries=1).models.list()
        except (OpenAIError, json.JSONDecodeError):
            return []
        return [card.model_dump() for card in getattr(page, "data", None) or []]

    async def close(self) -> None:
        """Close the clients that this asker made; the model it was given stays open."""
        if self._completions is not None and self._completions is not self._given.api:
            await self._completions.aclose()

    async def _ask(self, api: ModelAPI, messages: list[ChatMessage], config: GenerateConfig) -> Reply:
        for attempt in range(1, ATTEMPTS + 1):
            self.requests += 1
            try:
                with anyio.fail_after(SECONDS):
                    return _reply(await api.generate(messages, [], "none", config))
            except RefusalError:
                raise
            except Exception as error:
                wait = _wait(api, error, attempt)
                if wait is None:
                    raise self._understood(error) from error
                await anyio.sleep(wait)
        raise AssertionError("the last attempt never waits")

    def _understood(self, error: Exception) -> Exception:
        """A refusal where the server answered, and will answer so again; else the end of asking."""
        status = getattr(error, "status_code", None)
        words = _in_a_line(error)
        if status in (401, 403):
            return ModelError(
                f"expected the server at {self.url} to accept the key it was sent, found {words}. Set the "
                "provider's API key variable (VLLM_API_KEY, SGLANG_API_KEY, SERVICE_API_KEY)"
            )
        if (status is not None and status != 429) or type(error) is RuntimeError:
            return RefusalError(words)
        found = f"nothing within {SECONDS:.0f} seconds" if isinstance(error, TimeoutError) else words
        return ModelError(
            f"expected an answer from the server at {self.url}, found {found} ({ATTEMPTS} attempts at most). "
            "Look whether it is up, and whether the address ends where /chat/completions is to follow (/v1)"
        )


def _wait(api: ModelAPI, error: Exception, attempt: int) -> float | None:
    """Seconds until the next attempt; None where there is none, or it could not help."""
    if attempt == ATTEMPTS:
        return None
    wait = float(FIRST_WAIT * 2 ** (attempt - 1))
    if isinstance(error, TimeoutError | json.JSONDecodeError):
        return wait
    decision = api.should_retry(error)
    if isinstance(decision, bool):
        return wait if decision else None
    return min(decision.retry_after or wait, LONGEST_WAIT) if decision.retry else None


def _config(api: ModelAPI, settings: dict[str, Any]) -> GenerateConfig:
    """Inspect's fields as fields; others, and those it leaves out for completions, in the body."""
    body: dict[str, Any] = {
        name: settings.pop(name)
        for name in ("top_k", "logit_bias", "stop_token_ids", "echo")
        if name in settings and takes_body(api)
    }
    return GenerateConfig(**{"temperature": 0.0, **settings}, extra_body=body or None)


def _reply(result: ModelOutput | tuple[ModelOutput | Exception, ModelCall]) -> Reply:
    output = result[0] if isinstance(result, tuple) else result
    if isinstance(output, Exception):
        raise output
    if not output.choices:
        raise RefusalError("an answer without a reply in it")
    choice = output.choices[0]
    # Some providers make a reply of the words in which a server refuses.
    if output.usage is None and choice.stop_reason in ("model_length", "content_filter"):
        raise RefusalError(" ".join(output.completion.split())[:200])
    return Reply(
        output.completion,
        choice.stop_reason,
        output.usage.input_tokens if output.usage else None,
        output.usage.output_tokens if output.usage else None,
        tuple(choice.logprobs.content) if choice.logprobs else None,
        tuple(choice.prompt_logprobs.content) if choice.prompt_logprobs else None,
    )


def _in_a_line(error: Exception) -> str:
    body = getattr(error, "body", None)
    told = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
    words = " ".join(str(told or error).split())[:200].rstrip(".") or type(error).__name__
    status = getattr(error, "status_code", None)
    return words if status is None or str(status) in words else f"{status}: {words}"

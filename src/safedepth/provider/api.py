"""The Inspect model provider `safedepth`: messages in, the model's continuation out.

A last message from the assistant is continued, not answered. Where its metadata holds
`{"prefill_ids": [...]}` exactly these token ids are forced; otherwise its text,
tokenised alone. Knows chats and Inspect; leaves tokens to the engine.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)

# The one name that Inspect does not export: which epoch a sample is in.
from inspect_ai.model._cache import epoch
from inspect_ai.tool import ToolChoice, ToolInfo

from safedepth.chat import ChatFormat, Encoded
from safedepth.errors import ModelError
from safedepth.models import LoadedModel
from safedepth.nouns import Message
from safedepth.provider.jobs import Completion, Job, Sampling, TokenLogprob
from safedepth.provider.shared import acquire, forget_loaded, register_loaded, release
from safedepth.provider.stops import StopText, continuation_text

__all__ = ["NO_TOP_K", "SafedepthAPI", "forget_loaded", "register_loaded"]

DEFAULT_MAX_TOKENS = 2048

NO_TOP_K = -1
"""What servers take for the whole vocabulary; here too."""

_PROMPTS = 256
"""Rendered prompts that are kept."""

_OPTIONS = ("chat_template", "device", "dtype", "slots")
_UNSUPPORTED = ("best_of", "frequency_penalty", "presence_penalty", "response_schema")


class SafedepthAPI(ModelAPI):
    """A local model behind Inspect's interface.

    Model arguments: `chat_template` (a file, or a model that lends its own), `dtype`,
    `device`, `slots` (rows decoded together).

    Generation: `temperature` None is 1, sampling from the model as it is; 0 is greedy.
    `seed` None gives each epoch of a sample its own fixed seed, so that a repeated run
    repeats its samples. `top_k` -1 is no top-k, which overrides a task's own as None cannot.
    `logit_bias` is added to the logits before everything else. A stop sequence is not part of
    the completion. Log-probs are the model's own, before bias and temperature; `prompt_logprobs`
    covers prompt and prefill but for the first token. Settings that cannot be honoured raise ModelError.

    The output's metadata has `prompt_tokens`, `prefill_tokens` and `continuation_ids`
    (of the first choice; with a stop sequence, up to the token that completes it).
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's signature
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        unknown = sorted(set(model_args) - set(_OPTIONS))
        if unknown:
            raise ModelError(
                f"expected model arguments out of {', '.join(_OPTIONS)}, found {', '.join(unknown)}"
            )
        self._served = acquire(
            model_name, **{name: value for name, value in model_args.items() if value is not None}
        )
        self._closed = False
        # Depths, settings and seeds of one prompt come together: it is rendered once for all.
        self._prompt_ids = lru_cache(maxsize=_PROMPTS)(self._render)

    @property
    def loaded(self) -> LoadedModel:
        """The model, its chat format and its card."""
        return self._served.loaded

    @cached_property
    def _chat_of_engine(self) -> ChatFormat:
        """A chat format for the engine's thread: a tokenizer cannot be used by two threads at once."""
        chat = self.loaded.chat
        return replace(chat, tokenizer=copy.deepcopy(chat.tokenizer))

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect's name
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Continue the conversation. Raises ModelError, DataError, TemplateError."""
        started = time.monotonic()
        if tools:
            raise ModelError("expected no tools, found some. Serve the model with vLLM to use tools")
        encoded = self._encode(input)
        prefill = encoded.ids[encoded.prefill]
        stops = StopText(self._chat_of_engine, config.stop_seqs) if config.stop_seqs else None
        ends = partial(stops.found_in, prefill) if stops else None
        futures = [
            self._served.engine.submit(Job(encoded.ids, sampling, ends))
            for sampling in self._samplings(config)
        ]
        # Cancelling this task cancels the jobs.
        completions = await asyncio.gather(*map(asyncio.wrap_future, futures))
        generated = sum(len(completion.ids) for completion in completions)
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(encoded, completion, stops) for completion in completions],
            usage=ModelUsage(
                input_tokens=len(encoded.ids),
                output_tokens=generated,
                total_tokens=len(encoded.ids) + generated,
            ),
            time=time.monotonic() - started,
            metadata={
                "prompt_tokens": encoded.prompt_tokens,
                "prefill_tokens": encoded.prefill_tokens,
                "continuation_ids": list(completions[0].ids),
            },
        )

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of an answer tokenised alone."""
        return self.loaded.chat.answer_ids(text)

    def max_tokens(self) -> int:
        """What a request without a limit may generate, as with Inspect's own local provider."""
        return DEFAULT_MAX_TOKENS

    def max_connections(self) -> int:
        """More than there are slots, so that the engine sees a prompt's depths and seeds together."""
        return 4 * self._served.engine.slots

    def connection_key(self) -> str:
        """One pool of connections a model."""
        return self.model_name

    def close(self) -> None:
        """Let go of the model; its engine ends when nobody uses it any more."""
        if not self._closed:
            self._closed = True
            release(self._served)

    def _encode(self, messages: Sequence[ChatMessage]) -> Encoded:
        """The conversation's ids, followed by those of a last message from the assistant."""
        chat = self.loaded.chat
        last = messages[-1] if messages else None
        forced: list[int] = []
        if isinstance(last, ChatMessageAssistant):
            messages = messages[:-1]
            text = _plain(last)["content"]
            given = (last.metadata or {}).get("prefill_ids")
            forced = _ids(given) if given is not None else chat.answer_ids(text) if text else []
        plain = [_plain(message) for message in messages]
        prompt = self._prompt_ids(tuple((message["role"], message["content"]) for message in plain))
        return Encoded((*prompt, *forced), len(prompt), len(forced))

    def _render(self, turns: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        messages = [Message(role=role, content=content) for role, content in turns]
        return tuple(self.loaded.chat.prompt_ids(messages))

    def _samplings(self, config: GenerateConfig) -> list[Sampling]:
        """One sampling for each choice that is asked for."""
        ignored = [name for name in _UNSUPPORTED if getattr(config, name)]
        if ignored:
            raise ModelError(
                f"expected settings that local models honour, found {', '.join(ignored)}. "
                "Leave them out, or serve the model with vLLM"
            )
        choices = config.num_choices or 1
        first = choices * (epoch.get(0) if config.seed is None else 0)
        return [
            Sampling(
                max_tokens=DEFAULT_MAX_TOKENS if config.max_tokens is None else config.max_tokens,
                temperature=1.0 if config.temperature is None else config.temperature,
                top_p=1.0 if config.top_p is None else config.top_p,
                top_k=None if config.top_k == NO_TOP_K else config.top_k,
                seed=config.seed or 0,
                draw=first + choice,
                stop_ids=self.loaded.stop_ids,
                logprobs=(config.top_logprobs or 0) if config.logprobs else None,
                prompt_logprobs=config.prompt_logprobs,
                bias=tuple(sorted((config.logit_bias or {}).items())),
            )
            for choice in range(choices)
        ]

    def _choice(
        self, encoded: Encoded, completion: Completion, stops: StopText | None
    ) -> ChatCompletionChoice:
        text = continuation_text(self.loaded.chat, encoded.ids[encoded.prefill], completion.ids)
        return ChatCompletionChoice(
            message=ChatMessageAssistant(
                content=stops.cut(text) if stops else text, model=self.model_name, source="generate"
            ),
            stop_reason=completion.stop_reason,
            logprobs=self._logprobs(completion.logprobs),
            prompt_logprobs=self._logprobs(completion.prompt_logprobs),
        )

    def _logprobs(self, values: Sequence[TokenLogprob] | None) -> Logprobs | None:
        if values is None:
            return None
        name = self.loaded.chat.tokenizer.convert_ids_to_tokens
        return Logprobs(
            content=[
                Logprob(
                    token=str(name(value.id)),
                    logprob=value.logprob,
                    top_logprobs=[TopLogprob(token=str(name(i)), logprob=v) for i, v in value.top] or None,
                )
                for value in values
            ]
        )


def _plain(message: ChatMessage) -> Message:
    """A message as chat templates take it. Raises ModelError for anything but text."""
    content = message.content
    other = [] if isinstance(content, str) else [part.type for part in content if part.type != "text"]
    calls = isinstance(message, ChatMessageAssistant) and bool(message.tool_calls)
    if message.role == "tool" or calls or other:
        found = ", ".join(sorted(set(other))) or "a tool call or its result"
        raise ModelError(
            f"expected messages of text alone, found {found}. Serve the model with vLLM for these"
        )
    return {"role": message.role, "content": message.text}


def _ids(given: object) -> list[int]:
    if isinstance(given, list) and all(isinstance(item, int) for item in given):
        return given
    raise ModelError(f"expected prefill_ids to be a list of token ids, found {given!r}")

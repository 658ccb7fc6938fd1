"""The Inspect provider `safedepth_served`: a model behind servers, asked as a local one is.

Messages in, the continuation out. A last message from the assistant is continued: where the servers
take token ids, by exactly the ids in its metadata (`{"prefill_ids": [...]}`), else by its text. It
sends what the probe found to be honoured, refuses the rest, and spreads requests by their seed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import anyio
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelCall,
    ModelOutput,
    get_model,
)

# Not exported: what a provider says of an error.
from inspect_ai.model._model import RetryDecision
from inspect_ai.tool import ToolChoice, ToolInfo

from safedepth.chat import ChatFormat
from safedepth.errors import ModelError, RunError
from safedepth.nouns import Message
from safedepth.served import patience
from safedepth.served.capabilities import Ability, require_same_model
from safedepth.served.clients import Clients, Server
from safedepth.served.connection import chat_model, continuing, takes_body
from safedepth.served.patience import Patience, ServerError
from safedepth.served.probe import fingerprint

__all__ = ["ServedAPI", "served_model"]

PROVIDER = "safedepth_served"

_CONNECTIONS = 64
_PROMPTS = 256
_CANARY_TRIES = 3


_connecting: dict[str, tuple[tuple[Server, ...], ChatFormat | None]] = {}


def served_model(name: str, servers: Sequence[Server], chat: ChatFormat | None) -> Model:
    """The Inspect model `safedepth_served/<name>` that asks these servers.

    `chat` renders prompts for servers that take token ids, and counts the tokens of answers. Raises
    ModelError unless all servers gave the same greedy answers.
    """
    for other in servers[1:]:
        require_same_model(servers[0].capabilities, other.capabilities)
    _connecting[name] = tuple(servers), chat
    try:
        return get_model(f"{PROVIDER}/{name}", memoize=False)
    finally:
        del _connecting[name]


class ServedAPI(ModelAPI):
    """One model behind one or more servers; made by `served_model`.

    Where nothing can be forced, a last message from the assistant raises ModelError with what the
    probe saw. Raises ServerError for what a server did wrong; it is retried where that can help, with
    bounded patience. A reply that a server cut short has the reason as `left_out` in its metadata.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's signature
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        if model_name not in _connecting:
            raise ModelError(
                f"expected a model that an audit connected to its servers, found {PROVIDER}/{model_name}. "
                "Name the model as Inspect does, such as vllm/NAME"
            )
        self.servers, self.chat = _connecting[model_name]
        self._prompt_ids = lru_cache(maxsize=_PROMPTS)(self._render)
        self._clients = Clients(self.servers)
        self._patience = Patience()

    @property
    def forced_as(self) -> Literal["tokens", "text"] | None:
        """How a prefill is forced, by what all servers can do; None where it cannot be."""
        if self.chat is not None and self.ability("token_ids") and self._ends_turns:
            return "tokens"
        return "text" if self.ability("continues") else None

    @property
    def _ends_turns(self) -> bool:
        """Whether completions end where the chat's turn does: at the EOS always, elsewhere if told."""
        assert self.chat is not None
        return bool(self.ability("stop")) or self.chat.stop_ids <= {self.chat.tokenizer.eos_token_id}

    @property
    def context(self) -> int | None:
        """The shortest context of the servers in tokens, None where none says."""
        told = [server.capabilities.context for server in self.servers]
        return min((one for one in told if one is not None), default=None)

    def ability(self, name: str) -> Ability:
        """An ability that all servers have, or that of the first that lacks it."""
        found = [server.capabilities.abilities[name] for server in self.servers]
        return next((one for one in found if not one), found[0])

    def obstacle(self, ids: Sequence[int]) -> str | None:
        """Why these tokens of an answer cannot be forced exactly as text; None where they can be."""
        if not ids or self.chat is None or self.forced_as != "text":
            return None
        text = self.chat.decode(ids)
        if self.chat.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False) != text:
            return "the server takes text, and special tokens cannot be forced as text"
        if text.endswith("\ufffd"):
            return "the server takes text, and these tokens end inside a character"
        if text[-1:].isspace() and not self.ability("white_space"):
            return "the server takes text, and was not seen to keep white space at its end"
        return None

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect's name
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput | tuple[ModelOutput | Exception, ModelCall]:
        """Continue the conversation. Raises ModelError, DataError, TemplateError, ServerError."""
        number = self._turn(input, config)
        server, tokens = self.servers[number], self.forced_as == "tokens"
        if isinstance(input[-1], ChatMessageAssistant) and self.forced_as is None:
            raise ModelError(self.unforced)
        api = self._clients.of(number, completions=tokens)
        asked = self._as_ids(input) if tokens else input
        stated = self._stated(config, api, tokens=tokens)
        if not tokens and isinstance(input[-1], ChatMessageAssistant):
            stated = continuing(api, stated)
        try:
            with anyio.fail_after(patience.SECONDS):
                result = await api.generate(asked, tools, tool_choice, stated)
        except Exception as error:
            raise self._patience.failed(server.place, error) from error
        output, call = result if isinstance(result, tuple) else (result, None)
        if isinstance(output, Exception):
            raise self._patience.failed(server.place, output) from output
        if not output.choices or (output.stop_reason == "model_length" and output.usage is None):
            found = output.completion if output.choices else "an answer without a reply"
            raise self._patience.failed(server.place, found)
        self._patience.answered(server.place)
        if not isinstance(input[-1], ChatMessageAssistant):
            output.message.content = output.completion = self._own(output.completion)
        output.metadata = (output.metadata or {}) | _cut_short(output, stated.max_tokens)
        return output if call is None else (output, call)

    @property
    def unforced(self) -> str:
        """Why nothing can be forced, for people; meaningless where something can be."""
        seen = dict.fromkeys(self.ability(name).evidence for name in ("continues", "token_ids", "stop"))
        return f"{self.model_name} was not seen to continue what is forced. {' '.join(seen)}"

    def should_retry(self, ex: Exception) -> bool | RetryDecision:
        """What Inspect's provider says of the cause, as long as something comes from the server."""
        if not isinstance(ex, ServerError) or self._patience.ends(ex.url):
            return False
        if isinstance(ex.__cause__, TimeoutError | json.JSONDecodeError):
            return RetryDecision.transient()
        if not isinstance(ex.__cause__, Exception):
            return False
        number = next(n for n, server in enumerate(self.servers) if server.place == ex.url)
        return self._clients.of(number, completions=False).should_retry(ex.__cause__)

    def max_tokens(self) -> int:
        """What a request without a limit may generate, as with our local provider."""
        return 2048

    def max_connections(self) -> int:
        """Enough to keep a server of one's own busy; Inspect's own number for others."""
        each = _CONNECTIONS if self.ability("token_ids") else super().max_connections()
        return each * len(self.servers)

    def connection_key(self) -> str:
        """One pool of connections for all servers of a model."""
        return " ".join(server.place for server in self.servers)

    async def aclose(self) -> None:
        """Close what is open in the running event loop."""
        await self._clients.close()

    async def require_unchanged(self) -> None:
        """Raise RunError unless every server still gives the greedy answers that it gave the probe."""
        for server in self.servers:
            before = server.capabilities.fingerprint
            for _ in range(_CANARY_TRIES):
                if not before or await _fingerprint(server) == before:
                    break
            else:
                raise RunError(
                    f"expected the server at {server.place} to answer as it did at the start, found other "
                    "greedy answers to the same requests: the model behind it has changed. Serve the first "
                    "model again and repeat the command, or begin another run"
                )

    def _turn(self, messages: Sequence[ChatMessage], config: GenerateConfig) -> int:
        """Which server is asked: by the reply's seed, else by what is said, so that it is the same again."""
        said = "\x1f".join(message.text for message in messages)
        seed = zlib.crc32(said.encode()) if config.seed is None else config.seed
        return seed % len(self.servers)

    def _render(self, turns: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        assert self.chat is not None
        return tuple(self.chat.prompt_ids([Message(role=role, content=text) for role, text in turns]))

    def _as_ids(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The conversation as Inspect's completions take ids: one message that carries them."""
        assert self.chat is not None
        forced: list[int] = []
        last = messages[-1]
        if isinstance(last, ChatMessageAssistant):
            messages, given = messages[:-1], (last.metadata or {}).get("prefill_ids")
            forced = list(given) if given is not None else self.chat.answer_ids(last.text)
        prompt = self._prompt_ids(tuple((message.role, message.text) for message in messages))
        return [ChatMessageUser(content="", metadata={"prompt_token_ids": [*prompt, *forced]})]

    def _own(self, text: str) -> str:
        """A reply of its own as the tokenizer decodes one; a server decodes it as what follows the prompt."""
        if self.chat is None or text[:1] != " ":
            return text
        kept = self.chat.decode(self.chat.ids_of_texts([text])[0])[:1] == " "
        return text if kept else text[1:]

    def _stated(self, config: GenerateConfig, api: ModelAPI, *, tokens: bool) -> GenerateConfig:
        """What is asked for in the words that this endpoint understands."""
        if config.logit_bias and not self.ability("logit_bias"):
            raise ModelError(
                f"{self.model_name} does not keep tokens out: {self.ability('logit_bias').evidence}"
            )
        body: dict[str, Any] = dict(config.extra_body or {})
        if config.top_k is not None and self.ability("top_k"):
            body["top_k"] = config.top_k
        changed: dict[str, Any] = {}
        if config.top_k is not None and config.top_k < 0:
            changed["top_k"] = None  # none, in the words of providers that pass on no body
        if tokens:
            assert self.chat is not None
            changed["temperature"] = 1.0 if config.temperature is None else config.temperature
            if config.logit_bias:
                body["logit_bias"] = {str(index): bias for index, bias in config.logit_bias.items()}
            if self.ability("stop"):
                body["stop_token_ids"] = sorted(self.chat.stop_ids)
        if body and takes_body(api):
            changed["extra_body"] = body
        return config.model_copy(update=changed)


async def _fingerprint(server: Server) -> str:
    model = chat_model(server.name, server.url)
    try:
        return await fingerprint(model)
    finally:
        await model.api.aclose()


def _cut_short(output: ModelOutput, wanted: int | None) -> dict[str, str]:
    """Why a reply is none, as metadata; empty for one that ended by itself or had all its tokens."""
    if output.stop_reason == "content_filter":
        return {"left_out": "a filter of the server answered instead of the model"}
    had = output.usage.output_tokens if output.usage else None
    if output.stop_reason in ("max_tokens", "model_length") and had is not None and had < (wanted or 0):
        return {"left_out": f"the server cut the reply after {had} of {wanted} tokens"}
    return {}

"""A small OpenAI-compatible server for tests: a real tiny checkpoint behind HTTP, with a switch per defect.

    with serving(loaded, name="toy", continues="drops") as server:   # `loaded` is a LoadedModel
        model = get_model("openai-api/vllm/toy", base_url=server.url, api_key="none")
        server.behaviour.failing = "429"      # switches can be turned while it serves
        server.requests                       # [(path, body), ...] as they came in

`Behaviour` lists the switches; without any, the server does what vLLM does: /v1/models with
max_model_len, /v1/chat/completions with continue_final_message, /v1/completions with token ids,
prompt_logprobs, echo, seed, logit_bias, top_k and stop. Greedy answers are those of the engine.
"""

from __future__ import annotations

import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from safedepth.errors import SafedepthError
from safedepth.models import LoadedModel
from safedepth.provider import Completion, Engine, Job, Sampling, TokenLogprob

__all__ = ["Behaviour", "Server", "serving"]

Body = dict[str, Any]


@dataclass
class Behaviour:
    """What the server does wrong. The defaults are those of a server that does all of it right."""

    continues: Literal["exactly", "drops", "new_turn", "clever", "strips", "refuses"] = "exactly"
    """A last assistant message: continued; left out; ended, and a new turn begun; the same, by a model
    so good that it goes on there; its white space stripped from both ends; answered with 400."""
    strict: bool = False
    """True: fields that ask to continue are answered with 422."""
    token_ids: Literal["exactly", "refuses", "nonsense", "retokenised", "bos"] = "exactly"
    """A list of ids as prompt: taken; 400; read as the text "1, 2, 3"; decoded and tokenised
    again; taken with another BOS before it."""
    echo: Literal["true", "legacy", "refuses", "nothing", "constant", "shifted", "short"] = "true"
    """Log-probs of the prompt: true; true by `echo` alone; 400; ignored; all the same; of the token
    after; one too few."""
    seed: Literal["honoured", "ignored", "fixed"] = "honoured"
    """Ignored: every sample is another. Fixed: all samples of a prompt are one."""
    logit_bias: bool = True
    top_k: bool = True
    stop: Literal["honoured", "ignored", "included"] = "honoured"
    completions: bool = True
    """False: /v1/completions is 404."""
    chat: bool = True
    """False: /v1/chat/completions answers 400, as vLLM does for a model without template."""
    usage: bool = True
    """False: replies have no `usage`."""
    lists_models: bool = True
    context: int | None = 256
    """max_model_len as told in /v1/models."""
    failing: Literal["401", "429", "500", "503", "drop", "slow", "truncated_json", "not_json"] | None = None
    """What the next `failures` POST requests get instead of an answer."""
    failures: int | None = None
    """None: all of them."""
    retry_after: float = 0.0
    """Header of a 429."""
    delay: float = 5.0
    """Seconds that a "slow" answer takes."""
    cut: int | None = None
    """Replies end after so many tokens, with finish_reason "length", whatever was asked for."""
    other: LoadedModel | None = None
    """Answers in place of the model ..."""
    other_after: int = 0
    """... once so many POST requests were answered."""


@dataclass
class Server:
    """A running server: where it is, what it does, what it was asked."""

    url: str
    behaviour: Behaviour
    requests: list[tuple[str, Body]] = field(default_factory=list)


class _Http(ThreadingHTTPServer):
    """Silent where whoever asked is gone: what it prints would stand in another test's output."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), BrokenPipeError | ConnectionResetError):
            super().handle_error(request, client_address)


class _RefusalError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def serving(loaded: LoadedModel, *, name: str = "toy", port: int = 0, **switches: Any) -> Iterator[Server]:
    """Serve `loaded` on loopback under `name`, with `switches` of `Behaviour`, until the block ends."""
    behaviour = Behaviour(**switches)
    engines = {id(loaded): Engine(loaded.model, slots=8, gather_seconds=0.001)}
    if behaviour.other is not None:
        engines[id(behaviour.other)] = Engine(behaviour.other.model, slots=8, gather_seconds=0.001)
    state = _State(loaded, engines, name, Server("", behaviour))

    class Handler(_Handler):
        serves = state

    http = _Http(("127.0.0.1", port), Handler)
    state.server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state.server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        for engine in engines.values():
            engine.close()


class _State:
    """The models, and how a request becomes a reply."""

    def __init__(self, loaded: LoadedModel, engines: dict[int, Engine], name: str, server: Server) -> None:
        self.loaded, self.engines, self.name, self.server = loaded, engines, name, server
        self.lock = threading.Lock()  # a tokenizer cannot be used by two threads at once
        self.answered = itertools.count()
        self.draws = itertools.count()

    def models(self) -> Body:
        card = {"id": self.name, "object": "model", "created": 0, "owned_by": "tests"}
        context = self.server.behaviour.context
        listed = [card | ({} if context is None else {"max_model_len": context})]
        return {"object": "list", "data": listed if self.server.behaviour.lists_models else []}

    def reply(self, path: str, body: Body) -> Body:
        behaviour = self.server.behaviour
        if body.get("model") != self.name:
            raise _RefusalError(404, f"The model `{body.get('model')}` does not exist.")
        loaded = self.loaded
        if next(self.answered) >= behaviour.other_after and behaviour.other is not None:
            loaded = behaviour.other
        chat = path == "/v1/chat/completions"
        if not chat and not behaviour.completions:
            raise _RefusalError(404, "Not Found")
        if chat and not behaviour.chat:
            raise _RefusalError(400, "the tokenizer has no chat template")
        with self.lock:
            ids = self._chat_ids(loaded, body) if chat else self._prompt_ids(loaded, body["prompt"])
        if behaviour.context is not None and len(ids) >= behaviour.context:
            raise _RefusalError(400, f"This model's maximum context length is {behaviour.context} tokens.")
        done = self.engines[id(loaded)].submit(self._job(loaded, ids, body)).result()
        with self.lock:
            return self._rendered(loaded, ids, body, done, chat=chat)

    def _chat_ids(self, loaded: LoadedModel, body: Body) -> list[int]:
        messages, how = body["messages"], self.server.behaviour.continues
        chat = loaded.chat
        if messages[-1]["role"] != "assistant":
            return chat.prompt_ids(messages)
        if self.server.behaviour.strict and "continue_final_message" in body:
            raise _RefusalError(422, "unexpected fields in the request: continue_final_message")
        if how == "refuses":
            raise _RefusalError(400, "the last message must be of the user")
        if how == "drops":
            return chat.prompt_ids(messages[:-1])
        # Flags matter to vLLM: without them it ends the message and begins another.
        if how == "new_turn" or not body.get("continue_final_message"):
            text = chat.tokenizer.apply_chat_template(
                messages, chat_template=chat.template, tokenize=False, add_generation_prompt=True
            )
            return chat.ids_of_texts([str(text)])[0]
        said = messages[-1]["content"]
        if how == "strips":
            said = said.strip()
        return [*chat.prompt_ids(messages[:-1]), *chat.answer_ids(said)]

    def _prompt_ids(self, loaded: LoadedModel, prompt: str | list[int]) -> list[int]:
        chat, how = loaded.chat, self.server.behaviour.token_ids
        if isinstance(prompt, str):
            return chat.ids_of_texts([prompt])[0]
        if how == "refuses":
            raise _RefusalError(400, "prompt must be a string")
        if how == "nonsense":
            return chat.ids_of_texts([", ".join(map(str, prompt))])[0]
        if how == "retokenised":
            return chat.ids_of_texts([str(chat.tokenizer.decode(prompt))])[0]
        return [chat.tokenizer.bos_token_id, *prompt] if how == "bos" else prompt

    def _job(self, loaded: LoadedModel, ids: list[int], body: Body) -> Job:
        behaviour = self.server.behaviour
        stops = _stops(body) if behaviour.stop != "ignored" else ()
        seeded = behaviour.seed == "fixed" or (behaviour.seed == "honoured" and "seed" in body)
        top_k = body.get("top_k", -1) if behaviour.top_k else -1
        biased = (body.get("logit_bias") or {}) if behaviour.logit_bias else {}
        extra_stops = body.get("stop_token_ids", ()) if behaviour.stop == "honoured" else ()
        wanted = body.get("max_tokens", 16)

        def ends(done: Any) -> bool:
            with self.lock:
                return any(stop in loaded.chat.decode(done) for stop in stops)

        sampling = Sampling(
            max_tokens=wanted if behaviour.cut is None else min(wanted, behaviour.cut),
            temperature=body.get("temperature", 1.0),
            top_p=body.get("top_p", 1.0),
            top_k=top_k if top_k > 0 else None,
            seed=body.get("seed", 0) if behaviour.seed == "honoured" else 0,
            draw=0 if seeded else next(self.draws),
            stop_ids=loaded.stop_ids | frozenset(extra_stops),
            logprobs=1 if body.get("logprobs") else None,
            prompt_logprobs=1 if wants_echo(body) else None,
            bias=tuple(sorted((int(index), float(value)) for index, value in biased.items())),
        )
        return Job(tuple(ids), sampling, ends if stops else None)

    def _rendered(
        self, loaded: LoadedModel, ids: list[int], body: Body, done: Completion, *, chat: bool
    ) -> Body:
        behaviour = self.server.behaviour
        # As servers decode: what the ids add to the prompt's text.
        text = loaded.chat.decode_continuation(ids, done.ids)
        for stop in _stops(body) if behaviour.stop != "ignored" else ():
            start = text.find(stop)
            if start >= 0:
                text = text[: start + (len(stop) if behaviour.stop == "included" else 0)]
        choice: Body = {"index": 0, "finish_reason": "stop" if done.stop_reason == "stop" else "length"}
        reply: Body = {"id": "reply", "created": 0, "model": self.name}
        if behaviour.usage:
            clever = behaviour.continues == "clever" and chat and body["messages"][-1]["role"] == "assistant"
            spent = {"prompt_tokens": len(ids) + 4 * clever, "completion_tokens": len(done.ids)}
            reply["usage"] = spent | {"total_tokens": sum(spent.values())}
        echoed = self._echo(loaded, body, done) if wants_echo(body) else None
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
            if done.logprobs is not None:
                choice["logprobs"] = {"content": [_chat_logprob(loaded, value) for value in done.logprobs]}
            return reply | {"object": "chat.completion", "choices": [choice], "prompt_logprobs": echoed}
        choice |= {"text": text, "logprobs": None, "prompt_logprobs": echoed}
        if done.logprobs is not None:
            before = (
                done.prompt_logprobs if body.get("echo") and behaviour.echo in ("true", "legacy") else None
            )
            values = [*(before or ()), *done.logprobs]
            blank = [None] * (before is not None)
            choice["logprobs"] = {
                "tokens": [*["" for _ in blank], *(_token(loaded, value.id) for value in values)],
                "token_logprobs": [*blank, *(value.logprob for value in values)],
                "top_logprobs": [*blank, *({_token(loaded, i): v for i, v in value.top} for value in values)],
            }
        return reply | {"object": "text_completion", "choices": [choice]}

    def _echo(self, loaded: LoadedModel, body: Body, done: Completion) -> list[Body | None] | None:
        how = self.server.behaviour.echo
        if how == "refuses" or (how == "legacy" and not body.get("echo")):
            raise _RefusalError(400, "prompt_logprobs is not supported")
        if how in ("nothing", "legacy") or done.prompt_logprobs is None:
            return None
        values = list(done.prompt_logprobs)
        if how == "constant":
            values = [TokenLogprob(value.id, -1.0) for value in values]
        elif how == "shifted":
            values = [
                TokenLogprob(value.id, after.logprob, after.top)
                for value, after in itertools.pairwise([*values, values[-1]])
            ]
        elif how == "short":
            values = values[1:]
        return [None, *(_echoed(loaded, value) for value in values)]


def wants_echo(body: Body) -> bool:
    """Whether a request asks for the log-probs of its prompt."""
    return body.get("prompt_logprobs") is not None or bool(body.get("echo"))


def _stops(body: Body) -> tuple[str, ...]:
    stop = body.get("stop") or ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _token(loaded: LoadedModel, index: int) -> str:
    return str(loaded.chat.tokenizer.convert_ids_to_tokens(index))


def _chat_logprob(loaded: LoadedModel, value: TokenLogprob) -> Body:
    top = [{"token": _token(loaded, index), "logprob": logprob} for index, logprob in value.top]
    return {"token": _token(loaded, value.id), "logprob": value.logprob, "top_logprobs": top}


def _echoed(loaded: LoadedModel, value: TokenLogprob) -> Body:
    """As vLLM writes one place: the prompt's token first, then likelier ones."""
    found = {value.id: value.logprob, **dict(value.top)}
    return {
        str(index): {"logprob": logprob, "decoded_token": _token(loaded, index)}
        for index, logprob in found.items()
    }


class _Handler(BaseHTTPRequestHandler):
    serves: _State
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, self.serves.models())
        else:
            self._send(404, _error(404, "Not Found"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.serves.server
        server.requests.append((self.path, body))
        trouble, left = server.behaviour.failing, server.behaviour.failures
        if trouble is not None and left != 0:
            if left is not None:
                server.behaviour.failures = left - 1
            if self._failed(trouble):
                return
        try:
            self._send(200, self.serves.reply(self.path, body))
        except _RefusalError as problem:
            self._send(problem.status, _error(problem.status, str(problem)))
        except SafedepthError as error:
            self._send(400, _error(400, str(error)))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _failed(self, trouble: str) -> bool:
        """Do what goes wrong; False where the answer is still to be sent."""
        if trouble.isdigit():
            self._send(int(trouble), _error(int(trouble), "out of order"))
        elif trouble == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif trouble == "truncated_json":
            self._write(200, b'{"id": "reply", "choices": [{"ind')
        elif trouble == "not_json":
            self._write(200, b"<html>a proxy's page</html>")
        else:
            time.sleep(self.serves.server.behaviour.delay)
            return False
        return True

    def _send(self, status: int, body: Body) -> None:
        self._write(status, json.dumps(body).encode())

    def _write(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", str(self.serves.server.behaviour.retry_after))
        self.end_headers()
        self.wfile.write(data)


def _error(status: int, message: str) -> Body:
    return {"error": {"message": message, "type": "error", "code": status}}

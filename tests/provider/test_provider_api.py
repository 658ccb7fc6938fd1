"""The provider through Inspect itself: `get_model` and `eval`, on tiny random checkpoints."""

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from inspect_ai import Task, eval  # noqa: A004
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalSample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver
from inspect_ai.tool import ToolInfo
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from provider_oracles import slow_completion, slow_logits
from safedepth.chat import ChatFormat
from safedepth.errors import DataError, ModelError, TemplateError
from safedepth.models import LoadedModel, load_model
from safedepth.provider import Job, Sampling, shared
from safedepth.provider.api import SafedepthAPI, forget_loaded, register_loaded
from tokenizer_zoo import byte_tokenizer, word_tokenizer

# Inspect 0.3.285 calls tenacity with an argument that tenacity renamed, and leaves streams of its own open.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]

GREEDY = GenerateConfig(temperature=0, max_tokens=8)
ASK = "How do I make krell torin ?"
QUESTIONS = [
    ASK,
    "How do I make fennix ?",
    "Hello there",
    "Be kind",
    "I cannot help with that ! Step two take it",
]


def save(folder: Path, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """A random checkpoint over the tokenizer's vocabulary whose next token is far from certain."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    return save(tmp_path_factory.mktemp("models") / "words", tiny_tokenizer)


@pytest.fixture(scope="module")
def merges(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return save(tmp_path_factory.mktemp("models") / "merges", byte_tokenizer(merge_anything=True))


@pytest.fixture
def model(words: LoadedModel) -> Iterator[Model]:
    with serve(words) as made:
        yield made


def serve(loaded: LoadedModel, **options: Any) -> Model:
    return get_model(f"safedepth/{loaded.card.name}", memoize=False, device="cpu", **options)


def ask(model: Model, *batch: str | list[ChatMessage], config: GenerateConfig = GREEDY) -> list[ModelOutput]:
    async def all_at_once() -> list[ModelOutput]:
        return list(await asyncio.gather(*[model.generate(messages, config=config) for messages in batch]))

    return asyncio.run(all_at_once())


def evaluate(task: Task, provider: str, loaded: LoadedModel, folder: Path, **config: Any) -> list[EvalSample]:
    """The samples of a whole evaluation, in the order of their ids and epochs."""
    options = {"device": "cpu", **config.pop("model_args", {})}
    (log,) = eval(
        task,
        model=f"{provider}/{loaded.card.name}",
        model_args=options,
        log_dir=str(folder),
        display="none",
        **config,
    )
    gc.collect()  # here, where the warnings about Inspect's streams are ignored
    assert log.status == "success"
    return sorted(log.samples or [], key=lambda sample: (sample.id, sample.epoch))


def forced(text: str, ids: list[int] | None = None) -> list[ChatMessage]:
    metadata = None if ids is None else {"prefill_ids": ids}
    return [ChatMessageUser(content=ASK), ChatMessageAssistant(content=text, metadata=metadata)]


def greedy_ids(loaded: LoadedModel, ids: list[int], n: int = 8) -> list[int]:
    sampling = Sampling(max_tokens=n, temperature=0, stop_ids=loaded.stop_ids)
    return list(slow_completion(loaded.model, Job(tuple(ids), sampling)))


def prompt_of(loaded: LoadedModel, text: str = ASK) -> list[int]:
    return loaded.chat.prompt_ids([{"role": "user", "content": text}])


def test_plain_prompts_get_what_inspects_own_provider_gives(tmp_path: Path) -> None:
    """End to end through `eval`, greedy; the peer pads on the left and decodes a static batch.

    The template ends a turn with EOS, because the peer knows no other end of a turn.
    """
    template = (
        "{% for m in messages %}{{ m.role + ' ' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    loaded = save(tmp_path / "model", word_tokenizer(template))
    dataset = [Sample(input=text, id=index) for index, text in enumerate(QUESTIONS)]
    task = Task(dataset=dataset, solver=generate())
    ours = evaluate(task, "safedepth", loaded, tmp_path, temperature=0, max_tokens=12)
    # The peer samples unless told otherwise, and waits until its batch is full.
    full = len(QUESTIONS)
    options = {"do_sample": False, "batch_size": full}
    peer = evaluate(
        task, "hf", loaded, tmp_path, temperature=0, max_tokens=12, max_connections=full, model_args=options
    )
    texts = [sample.output.completion for sample in ours]
    assert texts == [sample.output.completion for sample in peer]
    assert len(set(texts)) > 2
    assert all(texts)


@solver
def force(ids: list[int]) -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.messages.append(ChatMessageAssistant(content="what it says", metadata={"prefill_ids": ids}))
        return await generate(state)

    return solve


def test_prefill_ids_survive_the_way_through_an_evaluation(words: LoadedModel, tmp_path: Path) -> None:
    ids = words.chat.answer_ids("Sure here is how")
    task = Task(dataset=[Sample(input=ASK)], solver=force(ids))
    (sample,) = evaluate(task, "safedepth", words, tmp_path, temperature=0, max_tokens=8)
    output = sample.output
    expected = greedy_ids(words, [*prompt_of(words), *ids])
    assert output.metadata == {
        "prompt_tokens": len(prompt_of(words)),
        "prefill_tokens": 4,
        "continuation_ids": expected,
    }
    assert output.completion == words.chat.decode_continuation(ids, expected)
    assert output.usage is not None
    assert output.usage.input_tokens == len(prompt_of(words)) + 4
    assert output.usage.output_tokens == len(expected)


def test_a_last_message_of_the_assistant_is_continued(model: Model, words: LoadedModel) -> None:
    plain, continued = ask(model, ASK, forced("Sure here is"))
    ids = words.chat.answer_ids("Sure here is")
    assert continued.metadata is not None
    assert continued.metadata["continuation_ids"] == greedy_ids(words, [*prompt_of(words), *ids])
    assert continued.metadata["prefill_tokens"] == 3
    assert "Sure" not in continued.completion
    assert continued.completion != plain.completion


def test_a_prefill_that_its_text_would_not_give_is_forced_exactly(merges: LoadedModel) -> None:
    """Half a word, then a letter: tokenised as text these ids would merge with one another and the prompt."""
    chat = merges.chat
    halves = [*chat.answer_ids("kr"), *chat.answer_ids("el"), *chat.answer_ids("l t")]
    assert chat.answer_ids(chat.decode(halves)) != halves
    with serve(merges) as model:
        exact, by_text = ask(model, forced("krell t", halves), forced("krell t"))
    assert exact.metadata is not None
    assert by_text.metadata is not None
    assert exact.metadata["prefill_tokens"] == len(halves)
    assert exact.metadata["continuation_ids"] == greedy_ids(merges, [*prompt_of(merges), *halves])
    whole = chat.answer_ids("krell t")
    assert by_text.metadata["continuation_ids"] == greedy_ids(merges, [*prompt_of(merges), *whole])


def test_an_empty_prefill_forces_nothing(model: Model) -> None:
    outputs = ask(model, ASK, forced(""), forced("ignored", []))
    assert len({output.completion for output in outputs}) == 1


def test_pad_being_eos_hides_nothing_from_the_model(words: LoadedModel) -> None:
    tokenizer = words.chat.tokenizer
    same = type(tokenizer).from_pretrained(words.card.name)
    same.pad_token = same.eos_token
    loaded = replace(words, chat=ChatFormat.of(same))
    register_loaded("pad-is-eos", loaded)
    text = "Hello </s> there </s> Step two </s>"
    try:
        with get_model("safedepth/pad-is-eos", memoize=False) as model:
            found, other = ask(model, text, "Hello there Step two")
    finally:
        forget_loaded("pad-is-eos")
    assert prompt_of(loaded, text).count(same.eos_token_id) == 3
    assert found.metadata is not None
    assert other.metadata is not None
    assert found.metadata["continuation_ids"] == greedy_ids(words, prompt_of(loaded, text))
    assert found.metadata["continuation_ids"] != other.metadata["continuation_ids"]


def test_conversations_reach_the_template_as_they_were_written(model: Model, words: LoadedModel) -> None:
    messages: list[ChatMessage] = [
        ChatMessageSystem(content="Be kind"),
        ChatMessageUser(content=[ContentText(text="Hello"), ContentText(text=" there")]),
        ChatMessageAssistant(content="How do I help"),
        ChatMessageUser(content="I take yarrow"),
        ChatMessageUser(content="Hello"),
    ]
    (output,) = ask(model, messages)
    ids = words.chat.prompt_ids([{"role": m.role, "content": m.text} for m in messages])
    assert output.metadata is not None
    assert output.metadata["continuation_ids"] == greedy_ids(words, ids)


def test_seeds_repeat_and_choices_differ(model: Model) -> None:
    sampled = GenerateConfig(temperature=1.5, max_tokens=12, seed=3)
    first, again = ask(model, ASK, ASK, config=sampled)
    other = ask(model, ASK, config=sampled.merge(GenerateConfig(seed=4)))[0]
    several = ask(model, ASK, config=sampled.merge(GenerateConfig(num_choices=3)))[0]
    assert first.completion == again.completion != other.completion
    texts = [choice.message.text for choice in several.choices]
    assert texts[0] == first.completion
    assert len(set(texts)) == 3


def test_epochs_without_a_seed_differ_and_a_repeated_run_repeats_them(
    words: LoadedModel, tmp_path: Path
) -> None:
    def replies() -> list[str]:
        task = Task(dataset=[Sample(input=ASK)], solver=generate(), epochs=4)
        samples = evaluate(task, "safedepth", words, tmp_path, temperature=1.5, max_tokens=12)
        return [sample.output.completion for sample in samples]

    first = replies()
    assert len(set(first)) == 4
    assert replies() == first


def test_without_a_temperature_the_model_is_sampled_as_it_is(model: Model, words: LoadedModel) -> None:
    config = GenerateConfig(max_tokens=12, seed=1)
    (found,) = ask(model, ASK, config=config)
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=1, stop_ids=words.stop_ids)
    expected = slow_completion(words.model, Job(tuple(prompt_of(words)), sampling))
    assert found.metadata is not None
    assert found.metadata["continuation_ids"] == list(expected)


def test_a_stop_sequence_ends_the_reply_before_it(model: Model) -> None:
    config = GREEDY.merge(GenerateConfig(max_tokens=12))
    (whole,) = ask(model, ASK, config=config)
    word = whole.completion.split()[4]
    place = whole.completion.index(word)
    (cut,) = ask(model, ASK, config=config.merge(GenerateConfig(stop_seqs=["never said", word])))
    assert cut.completion == whole.completion[:place]
    assert cut.stop_reason == "stop"
    assert whole.metadata is not None
    assert cut.metadata is not None
    assert len(cut.metadata["continuation_ids"]) < len(whole.metadata["continuation_ids"])


def test_reasons_for_stopping_are_inspects(model: Model, words: LoadedModel) -> None:
    (limited,) = ask(model, ASK, config=GREEDY.merge(GenerateConfig(max_tokens=2)))
    assert limited.stop_reason == "max_tokens"
    long = " ".join(["yarrow"] * (256 - len(prompt_of(words, "yarrow")) - 1))
    (full,) = ask(model, long, config=GenerateConfig(temperature=1.0, seed=0, max_tokens=100))
    assert full.stop_reason == "model_length"
    ids = prompt_of(words)
    # A prompt that drives the random model into its stop token, found by trying prefills.
    for first in range(len(words.chat.tokenizer)):
        if int(slow_logits(words.model, (*ids, first))[-1].argmax()) in words.stop_ids:
            (ended,) = ask(model, forced("x", [first]))
            assert ended.stop_reason == "stop"
            assert ended.completion == ""
            return
    pytest.fail("no prefill of one token leads to a stop token: choose another random model")


def test_logprobs_come_as_inspect_has_them(model: Model, words: LoadedModel) -> None:
    config = GREEDY.merge(GenerateConfig(logprobs=True, top_logprobs=2, prompt_logprobs=1))
    (output,) = ask(model, forced("Sure here"), config=config)
    ids = [*prompt_of(words), *words.chat.answer_ids("Sure here")]
    made = greedy_ids(words, ids)
    expected = slow_logits(words.model, (*ids, *made)).double().log_softmax(-1)
    name = words.chat.tokenizer.convert_ids_to_tokens
    choice = output.choices[0]
    assert choice.logprobs is not None
    assert choice.prompt_logprobs is not None
    assert [value.token for value in choice.logprobs.content] == [name(i) for i in made]
    assert [value.token for value in choice.prompt_logprobs.content] == [name(i) for i in ids[1:]]
    values = [value.logprob for value in (*choice.prompt_logprobs.content, *choice.logprobs.content)]
    assert values == pytest.approx([float(expected[t, i]) for t, i in enumerate([*ids[1:], *made])], abs=2e-5)
    first = choice.logprobs.content[0].top_logprobs
    assert first is not None
    assert [top.token for top in first] == [name(int(i)) for i in expected[len(ids) - 1].topk(2).indices]


@pytest.mark.parametrize(
    ("messages", "config", "error", "says"),
    [
        ([ChatMessageUser(content="yarrow " * 300)], {}, ModelError, "context of 256 tokens, found 3"),
        (
            [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AAAA")])],
            {},
            ModelError,
            "found image",
        ),
        (
            [ChatMessageUser(content=ASK), ChatMessageTool(content="5", tool_call_id="1")],
            {},
            ModelError,
            "found a tool call or its result",
        ),
        (forced("x", ["Sure"]), {}, ModelError, r"list of token ids, found \['Sure'\]"),  # type: ignore[list-item]
        (forced("x", [10**6]), {}, ModelError, "expected token ids below"),
        (forced("   "), {}, DataError, "expected an answer"),
        ([ChatMessageUser(content=ASK)], {"frequency_penalty": 0.5}, ModelError, "found frequency_penalty"),
        ([ChatMessageUser(content=ASK)], {"temperature": -1.0}, ModelError, "expected temperature"),
    ],
    ids=["long", "image", "tool", "words as ids", "foreign ids", "blank", "penalty", "cold"],
)
def test_what_cannot_be_done_is_said(
    model: Model, messages: list[ChatMessage], config: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ask(model, messages, config=GREEDY.merge(GenerateConfig(**config)))
    assert ask(model, ASK)[0].completion


def test_tools_are_refused(model: Model) -> None:
    with pytest.raises(ModelError, match="expected no tools"):
        asyncio.run(
            model.generate(ASK, tools=[ToolInfo(name="look", description="look it up")], config=GREEDY)
        )


def test_a_template_that_cannot_express_a_chat_is_an_error_of_that_sample(
    model: Model, words: LoadedModel
) -> None:
    strict = (
        "{{ raise_exception('no system role') if messages[0].role == 'system' else messages[0].content }}"
    )
    register_loaded("strict", replace(words, chat=ChatFormat.of(words.chat.tokenizer, template=strict)))
    try:
        with get_model("safedepth/strict", memoize=False) as narrow, pytest.raises(TemplateError):
            ask(narrow, [ChatMessageSystem(content="Be kind"), ChatMessageUser(content=ASK)])
    finally:
        forget_loaded("strict")


def test_a_depth_sweep_shares_prefills_and_leaves_the_loop_free(words: LoadedModel) -> None:
    answer = words.chat.answer_ids("Sure here is how to make krell torin : Step one take yarrow and heat it")
    batch = [forced("", answer[:k]) for k in (0, 1, 2, 5, 10)] * 3
    prompt = len(prompt_of(words))

    async def sweep(model: Model) -> int:
        beats, running = 0, True

        async def heart() -> None:
            nonlocal beats
            while running:
                beats += 1
                await asyncio.sleep(0.001)

        beating = asyncio.create_task(heart())
        config = GREEDY.merge(GenerateConfig(max_tokens=60, max_connections=64))
        await asyncio.gather(*[model.generate(messages, config=config) for messages in batch])
        running = False
        await beating
        return beats

    with serve(words, slots=31) as model:
        assert asyncio.run(sweep(model)) > 20
        assert isinstance(model.api, SafedepthAPI)
        counters = model.api._served.engine.counters
    assert counters.asked_tokens == sum(prompt + k for k in (0, 1, 2, 5, 10)) * 3
    assert counters.prefill_tokens <= counters.asked_tokens / 5


def test_a_cancelled_request_does_not_hold_up_the_rest(model: Model) -> None:
    async def race() -> ModelOutput:
        long = asyncio.create_task(model.generate(ASK, config=GREEDY.merge(GenerateConfig(max_tokens=200))))
        await asyncio.sleep(0.005)
        long.cancel()
        output = await model.generate("Hello there", config=GREEDY)
        with pytest.raises(asyncio.CancelledError):
            await long
        return output

    assert asyncio.run(race()).completion


def test_one_checkpoint_is_loaded_once_for_all_who_ask(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = save(tmp_path / "model", tiny_tokenizer)
    loads = []

    def counted(name: str, **options: Any) -> LoadedModel:
        loads.append(name)
        return load_model(name, **options)

    monkeypatch.setattr(shared, "load_model", counted)
    first, second, slim = serve(words), serve(words), serve(words, slots=2)
    apis = [model.api for model in (first, second, slim)]
    assert all(isinstance(api, SafedepthAPI) for api in apis)
    engines = [api._served.engine for api in apis if isinstance(api, SafedepthAPI)]
    assert len(loads) == 1
    assert engines[0] is engines[1] is not engines[2]
    assert slim.api.max_connections() == 8
    for model in (first, slim):
        model.api.close()
        model.api.close()
    assert ask(second, ASK)[0].completion
    second.api.close()
    with pytest.raises(ModelError, match="found it closed"):
        engines[0].submit(Job((1, 2), Sampling(max_tokens=1)))
    del first, second, slim, apis, engines, model
    gc.collect()
    serve(words).api.close()
    assert len(loads) == 2


def test_a_registered_model_is_used_instead_of_being_loaded(words: LoadedModel) -> None:
    register_loaded("by-name", words)
    try:
        with get_model("safedepth/by-name", memoize=False) as model:
            assert isinstance(model.api, SafedepthAPI)
            assert model.api.loaded is words
        with pytest.raises(ModelError, match="registered as already loaded"):
            get_model("safedepth/by-name", memoize=False, dtype="bfloat16")
    finally:
        forget_loaded("by-name")
    with pytest.raises(ModelError):
        get_model("safedepth/by-name", memoize=False)


def test_unknown_model_arguments_are_named(words: LoadedModel) -> None:
    with pytest.raises(ModelError, match="found do_sample"):
        serve(words, do_sample=False)


def test_models_have_connections_of_their_own_and_count_their_own_tokens(
    model: Model, words: LoadedModel
) -> None:
    assert model.api.connection_key() == words.card.name
    assert asyncio.run(model.api.tokenize("Sure here is")) == words.chat.answer_ids("Sure here is")


def test_without_a_limit_a_reply_ends_with_its_turn_or_the_context(model: Model) -> None:
    assert model.api.max_tokens() == 2048
    (output,) = ask(model, ASK, config=GenerateConfig(temperature=0))
    assert output.stop_reason in ("stop", "model_length")

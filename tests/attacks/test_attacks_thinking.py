"""Prefill for reasoning models, and prefill thousands of tokens deep, on tiny random models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from inspect_ai import Task
from inspect_ai.model import GenerateConfig, get_model
from transformers import LlamaConfig, LlamaForCausalLM

from replying import HARMFUL, log_of, prompt, run
from safedepth import tasks
from safedepth.attacks import prefill, thinking
from safedepth.attacks.samples import placed_samples, prefill_samples
from safedepth.chat import ChatFormat
from safedepth.errors import DataError
from safedepth.models import LoadedModel
from safedepth.nouns import Message
from safedepth.provider.api import SafedepthAPI, register_loaded
from tokenizer_zoo import TEMPLATES, byte_tokenizer


def _with(tiny: LoadedModel, template: str, positions: int) -> LoadedModel:
    """The tiny model's loading, around a random Llama of one layer with a byte tokenizer."""
    tokenizer = byte_tokenizer(TEMPLATES[template])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=positions, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    return replace(tiny, model=LlamaForCausalLM(config).eval(), chat=ChatFormat.of(tokenizer))


@pytest.mark.parametrize(("template", "start"), [("thinks unless told", "<think>\n"), ("opens thinking", "")])
def test_harmful_tokens_stand_inside_the_block_or_after_it(
    tiny_model: LoadedModel, tmp_path: Path, template: str, start: str
) -> None:
    model = _with(tiny_model, template, 256)
    register_loaded("thinks", model)
    task = Task(
        dataset=placed_samples([prompt()], [3], ["inside", "after"], attack="thinking", repeats=1, seed=0),
        solver=thinking(thought="Be kind."),
        config=GenerateConfig(max_tokens=3),
    )
    samples = run(task, get_model("safedepth/thinks", memoize=False), tmp_path)
    found = {sample.metadata["variant"]: sample for sample in samples}
    for place, before in (("inside", start), ("after", f"{start}Be kind.\n</think>\n\n")):
        sample = found[place]
        forced = sample.metadata["forced_ids"]
        words = model.chat.decode(model.chat.answer_ids(HARMFUL)[:3])
        assert model.chat.decode(forced) == before + words
        assert (sample.output.metadata or {})["prefill_tokens"] == len(forced)


def test_a_model_that_does_not_think_is_named_in_an_error(tiny_model: LoadedModel, tmp_path: Path) -> None:
    register_loaded("plain", tiny_model)
    samples = placed_samples([prompt()], [3], ["inside"], attack="thinking", repeats=1, seed=0)
    task = Task(dataset=samples, solver=thinking())
    log = log_of(task, get_model("safedepth/plain", memoize=False), tmp_path)
    assert log.error is not None
    assert "no thinking block" in log.error.message


def test_places_and_markers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="inside, after"):
        tasks.thinking("prompts.jsonl", place="before")
    with pytest.raises(DataError, match="OPEN,CLOSE"):
        thinking(markers="<think>")


def test_2500_tokens_are_forced_exactly_and_depths_share_one_prefill(
    tiny_model: LoadedModel, tmp_path: Path
) -> None:
    model = _with(tiny_model, "chatml", 4096)
    register_loaded("long", model)
    target = get_model("safedepth/long", memoize=False)
    asked = prompt(" ".join([HARMFUL] * 200))
    depths = [10, 1000, 2500]
    task = Task(
        dataset=prefill_samples([asked], depths, repeats=1, seed=0),
        solver=prefill(),
        config=GenerateConfig(max_tokens=4),
    )
    assert isinstance(target.api, SafedepthAPI)
    engine = target.api._served.engine
    samples = run(task, target, tmp_path)
    ids = model.chat.answer_ids(asked.harmful or "")
    assert [sample.metadata["forced_ids"] for sample in samples] == [ids[:k] for k in depths]
    before = len(model.chat.prompt_ids([Message(role="user", content=asked.messages[0]["content"])]))
    assert engine.counters.prefills == 1
    assert engine.counters.prefill_tokens == before + 2500

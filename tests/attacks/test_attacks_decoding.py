"""The decoding attack: every setting says all it means, and luck does not depend on who runs beside."""

from pathlib import Path

import pytest
from inspect_ai import Task
from inspect_ai.model import GenerateConfig, get_model

from replying import prompt, run
from safedepth.attacks import DECODINGS, decoding
from safedepth.attacks.decoding import read_grid
from safedepth.attacks.forcing import reply_seed
from safedepth.attacks.samples import decoding_samples
from safedepth.errors import DataError
from safedepth.models import LoadedModel
from safedepth.nouns import Message
from safedepth.provider import Engine, Job, Sampling
from safedepth.provider.api import register_loaded


def test_there_are_the_papers_49_settings_and_each_states_all_three_values() -> None:
    assert len({setting.variant for setting in DECODINGS}) == len(DECODINGS) == 49
    by_name = {setting.variant: setting.config for setting in DECODINGS}
    assert by_name["temperature 0.05"] == {"temperature": 0.05, "top_p": 1.0, "top_k": -1}
    assert by_name["top_p 0.95"] == {"temperature": 1.0, "top_p": 0.95, "top_k": -1}
    assert by_name["top_k 500"] == {"temperature": 1.0, "top_p": 1.0, "top_k": 500}


def test_a_grid_of_ones_own_is_read_in_its_order() -> None:
    found = [setting.variant for setting in read_grid("temperature=0.5,1.5; top_k=10")]
    assert found == ["temperature 0.5", "temperature 1.5", "top_k 10"]
    assert read_grid(None) == DECODINGS


@pytest.mark.parametrize(
    "text",
    ["", "heat=1", "temperature=warm", "temperature=-1", "temperature=nan", "top_p=0", "top_p=1.5", "top_k=0",
     "top_k=2.5", "top_k=inf", "top_k", "top_k=5,5"],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected"):
        read_grid(text)


@pytest.mark.parametrize("slots", [1, 7])
def test_every_setting_replies_as_it_does_alone_with_its_own_seed_however_many_run_together(
    tiny_model: LoadedModel, tmp_path: Path, slots: int
) -> None:
    register_loaded("swept", tiny_model)
    target = get_model("safedepth/swept", memoize=False, slots=slots)
    grid = "temperature=0,0.7,1.5;top_p=0.5;top_k=1,5"
    task = Task(
        dataset=decoding_samples([prompt()], 6, repeats=2, seed=0),
        solver=decoding(grid),
        # A hidden top-k of the task must not reach the settings that have none.
        config=GenerateConfig(max_tokens=6, top_k=2, temperature=0.1, top_p=0.2),
    )
    samples = run(task, target, tmp_path)
    ids = tuple(tiny_model.chat.prompt_ids([Message(role="user", content="How do I make krell torin?")]))
    with Engine(tiny_model.model, slots=3) as engine:
        for sample in samples:
            replies = sample.metadata["replies"]
            assert [reply["variant"] for reply in replies] == [s.variant for s in read_grid(grid)]
            for reply, setting in zip(replies, read_grid(grid), strict=True):
                sampling = Sampling(
                    max_tokens=6, temperature=setting.temperature, top_p=setting.top_p, top_k=setting.top_k,
                    seed=reply_seed(sample.metadata["reply_seed"], setting.variant),
                    stop_ids=tiny_model.stop_ids,
                )  # fmt: skip
                (alone,) = engine.complete([Job(ids, sampling)])
                assert reply["continuation"] == tiny_model.chat.decode(alone.ids)
    assert samples[0].metadata["replies_wanted"] == 6
    assert len({sample.metadata["reply_seed"] for sample in samples}) == 2

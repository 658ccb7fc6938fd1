import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)

from provider_oracles import FAMILIES, random_decoder, random_ids, slow_completion, slow_logits
from safedepth.errors import ModelError
from safedepth.provider import Engine, Job, Sampling
from safedepth.provider.decoder import Chunk, Decoder, is_out_of_memory


@pytest.mark.parametrize("family", FAMILIES)
def test_decoders_of_all_kinds_agree_with_the_plain_forward(family: str) -> None:
    """Rows of different lengths, longer than the windows of eight tokens, greedy, with refill."""
    model = random_decoder(family)
    jobs = [Job(ids, Sampling(max_tokens=14, temperature=0)) for ids in random_ids(1, 3, 9, 21, 12)]
    with Engine(model, slots=3) as engine:
        completions = engine.complete(jobs)
    for job, completion in zip(jobs, completions, strict=True):
        assert completion.ids == slow_completion(model, job)
        assert len(set(completion.ids)) > 1


def test_logits_of_any_places_come_from_a_prefill_in_pieces(decoder: PreTrainedModel) -> None:
    rows = random_ids(7, 12, 1)
    wanted: list[list[int]] = [[0, 6], [3, 4, 11], []]
    for columns in (1, 4, 5, 100):
        found: dict[tuple[int, int], torch.Tensor] = {}

        def visit(chunk: Chunk, found: dict[tuple[int, int], torch.Tensor] = found) -> None:
            found.update(zip(zip(chunk.rows, chunk.columns, strict=True), chunk.logits, strict=True))

        with torch.inference_mode():
            Decoder(decoder).prefill(rows, wanted, columns=columns, visit=visit)
        assert sorted(found) == [(row, column) for row, columns_ in enumerate(wanted) for column in columns_]
        for (row, column), logits in found.items():
            torch.testing.assert_close(logits, slow_logits(decoder, rows[row])[column], atol=2e-4, rtol=2e-4)


def test_a_model_with_recurrent_state_is_sent_to_vllm() -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=64, num_hidden_layers=1)).eval()
    with pytest.raises(ModelError, match=r"recurrent state\. Serve it with vLLM"):
        Engine(model)


def test_a_model_whose_positions_are_not_its_own_to_take_is_sent_to_vllm() -> None:
    config = BloomConfig(vocab_size=97, hidden_size=64, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    with pytest.raises(
        ModelError, match=r"BloomForCausalLM cannot be decoded row by row.* Serve it with vLLM"
    ):
        Engine(BloomForCausalLM(config).eval())


def test_a_model_that_ignores_its_mask_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_decoder("llama")
    plain = model.forward

    def forgetful(*args: object, **kwargs: object) -> object:
        kwargs.pop("position_ids", None)
        return plain(*args, **kwargs)

    monkeypatch.setattr(model, "forward", forgetful)
    with pytest.raises(ModelError, match=r"its logits differ by .* from those of the plain forward"):
        Engine(model)


def test_an_attention_that_takes_no_mask_is_refused_with_the_remedy() -> None:
    config = LlamaConfig(
        vocab_size=97, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=96
    )
    model = LlamaForCausalLM(config).eval()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="attn_implementation='sdpa'"):
        Engine(model)


def test_only_failed_allocations_count_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(MemoryError("of another kind"))

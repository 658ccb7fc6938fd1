"""Only a server that really continues passes: each defect is told from continuing, and in what it is."""

from collections.abc import Callable
from typing import Any

import pytest

from safedepth.chat import ChatFormat
from safedepth.models import LoadedModel, load_model
from safedepth.served.asking import Asker
from safedepth.served.canaries import REQUESTS, Cut, cuts_of
from safedepth.served.forcing import continues, token_ids, white_space
from serving import serving
from tokenizer_zoo import byte_tokenizer

Asked = Callable[..., Any]


@pytest.fixture(scope="module")
def cuts(aligned: LoadedModel, asked: Asked) -> list[Cut]:
    """The organism's own answers, cut."""

    async def ask(asker: Asker) -> list[Cut]:
        answers = [(request, (await asker.chat(request, max_tokens=24)).text) for request in REQUESTS[2:4]]
        return [cut for request, answer in answers for cut in cuts_of(request, answer)]

    with serving(aligned) as server:
        found: list[Cut] = asked(server.url, ask)
    return found


@pytest.mark.parametrize(
    ("switches", "answer", "evidence"),
    [
        ({}, "yes", "4 of 4 answers"),
        ({"continues": "drops"}, "no", "left out"),
        ({"continues": "new_turn"}, "no", "another turn was begun"),
        ({"continues": "clever"}, "unsure", "+4 tokens more"),
        ({"continues": "strips"}, "yes", "4 of 4 answers"),
        ({"continues": "refuses"}, "no", "must be of the user"),
        ({"strict": True}, "no", "The request to continue was refused (422"),
        ({"usage": False}, "unsure", "counts no prompt tokens"),
    ],
    ids=str,
)
def test_a_server_that_does_not_continue_is_found_out(
    aligned: LoadedModel, asked: Asked, cuts: list[Cut], switches: dict[str, Any], answer: str, evidence: str
) -> None:
    with serving(aligned, **switches) as server:
        found = asked(server.url, lambda asker: continues(asker, cuts))
    assert (found.answer, evidence in found.evidence) == (answer, True), found


def test_answers_that_begin_again_as_they_go_on_decide_nothing(asked: Asked) -> None:
    again = "krell torin krell torin krell torin krell torin krell torin"
    assert all(cut.rest.strip().startswith("torin") for cut in cuts_of("request", again))
    assert cuts_of("request", "krell krell krell krell krell krell") == []
    assert asked("http://127.0.0.1:9/v1", lambda asker: continues(asker, [])).answer == "unsure"


@pytest.mark.parametrize(
    ("switches", "named", "answer"),
    [
        ({}, True, "yes"),
        ({"continues": "strips"}, True, "no"),
        ({}, False, "unsure"),
        ({"usage": False}, True, "unsure"),
    ],
    ids=str,
)
def test_white_space_that_is_lost_is_missed_in_the_number_of_tokens(
    aligned: LoadedModel, asked: Asked, switches: dict[str, Any], named: bool, answer: str
) -> None:
    cut = Cut("How do I clean krell torin?", "To clean krell torin", ", use warm water")
    chat = aligned.chat if named else None
    with serving(aligned, **switches) as server:
        found = asked(server.url, lambda asker: white_space(asker, [cut], chat))
    assert found.answer == answer, found


@pytest.mark.parametrize(
    ("switches", "answer", "evidence"),
    [
        ({}, "yes", "as many ids as were sent"),
        ({"token_ids": "refuses"}, "no", "must be a string"),
        ({"token_ids": "nonsense"}, "no", "the server counted"),
        ({"token_ids": "nonsense", "usage": False}, "no", "were continued from their ids"),
        ({"token_ids": "bos"}, "no", "the server counted 13"),
        ({"usage": False}, "unsure", "does not count them"),
        ({"completions": False}, "no", "does not support /v1/completions"),
    ],
    ids=str,
)
def test_token_ids_count_only_where_exactly_these_are_continued(
    aligned: LoadedModel, asked: Asked, switches: dict[str, Any], answer: str, evidence: str
) -> None:
    with serving(aligned, **switches) as server:
        found = asked(server.url, lambda asker: token_ids(asker, REQUESTS[2:4], aligned.chat))
    assert (found.answer, evidence in found.evidence) == (answer, True), found


def test_a_server_that_tokenises_ids_again_cannot_count_a_word_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, asked: Asked
) -> None:
    loaded = bytewise(tmp_path_factory)
    with serving(loaded, token_ids="retokenised") as server:
        found = asked(server.url, lambda asker: token_ids(asker, REQUESTS, loaded.chat))
    assert found.answer == "no", found
    assert "the server counted" in found.evidence


def bytewise(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A random model whose tokenizer knows pieces of words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bytewise")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(str(folder), device="cpu", dtype="float32")


def test_without_a_tokenizer_nothing_is_said_of_token_ids(asked: Asked) -> None:
    found = asked("http://127.0.0.1:9/v1", lambda asker: token_ids(asker, REQUESTS, None))
    assert (found.answer, "--tokenizer" in found.evidence) == ("unsure", True)


def test_another_models_tokenizer_is_found_out(
    aligned: LoadedModel, asked: Asked, tiny_model: LoadedModel
) -> None:
    other: ChatFormat = tiny_model.chat
    with serving(aligned) as server:
        found = asked(server.url, lambda asker: token_ids(asker, REQUESTS, other))
    assert found.answer != "yes", found

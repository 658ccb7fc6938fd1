"""What is kept of the reference: right to the last row, asked once, and believed only for what it is of."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import add_fused_lm_head

from safedepth.errors import RunError
from safedepth.train.reference import ASKED_ANEW, ReferenceStore, hash_of_model, kept_mode, score_rows
from train.constrained_toys import (
    CHAT,
    Sample,
    as_tokens,
    exact,
    log_probs_of,
    sample_of,
    toy_conversations,
)
from train.toys import random_llama

SAMPLES = [sample_of(talk) for talk in toy_conversations(9)]
# A response that begins its row, and one with a gap.
SAMPLES += [Sample(SAMPLES[3].ids, (1, 2, 0, 0, 1, 2, 3, *[0] * (len(SAMPLES[3].ids) - 7)))]
ROWS = as_tokens(SAMPLES)


@pytest.fixture(scope="module")
def accelerator() -> Any:
    return Accelerator(cpu=True)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_every_tokens_log_probability_is_that_of_its_row_alone(
    accelerator: Any, batch: int, flat: bool
) -> None:
    model = random_llama(CHAT).eval()
    expected = []
    for sample in SAMPLES:
        own = log_probs_of(exact(model), sample)
        expected.append([own.get(i, torch.tensor(0.0)) for i, p in enumerate(sample.positions) if p])
    add_fused_lm_head(model)
    told: list[tuple[int, int]] = []
    found = score_rows(
        model, ROWS, DataCollatorForLanguageModeling(pad_token_id=3, padding_free=flat), batch=batch,
        accelerator=accelerator, progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert [row.tolist() for row in found] == [
        pytest.approx([v.item() for v in row], abs=1e-5) for row in expected
    ]
    assert found[-1][0] == 0  # nothing stands before it
    assert all(row.dtype == torch.float32 and not row.requires_grad for row in found)
    assert told == [(min(10, batch * n), 10) for n in range(1, -(-10 // batch) + 1)]


class Asked:
    """A reference that says the same of the same row, and keeps count of how often it is asked."""

    def __init__(self, shift: float = 0.0) -> None:
        self.rows: list[Any] = []
        self.shift = shift

    def __call__(self, rows: Any) -> list[Tensor]:
        self.rows += list(rows)
        return [
            torch.tensor(
                [
                    -(token + self.shift) / 7
                    for token, label in zip(row["input_ids"], row["labels"], strict=True)
                    if label != -100
                ]
            )
            for row in rows
        ]


Store = Callable[..., ReferenceStore]


@pytest.fixture
def store(tmp_path: Path, accelerator: Any) -> Store:
    def make(asked: Asked, *, model: str = "a", template: str = "b") -> ReferenceStore:
        return ReferenceStore(tmp_path / "kept", model, template, asked, accelerator)

    return make


def test_the_reference_is_asked_once_and_a_few_rows_are_asked_anew(store: Store, tmp_path: Path) -> None:
    first, second = Asked(), Asked()
    column = store(first).column(ROWS)
    assert len(first.rows) == len(ROWS)
    assert column == [row.tolist() for row in Asked()(ROWS)]
    assert store(second).column(ROWS) == column
    assert len(second.rows) == ASKED_ANEW
    assert second.rows[0] == ROWS[0]
    assert second.rows[-1] == ROWS[len(ROWS) - 1]
    (path,) = (tmp_path / "kept").iterdir()
    kept = load_file(path)
    assert kept["values"].dtype == torch.float32
    assert len(kept["values"]) == sum(len(row) for row in column)  # one number a token with loss


def other_rows() -> dict[str, Any]:
    ids = [list(row) for row in ROWS["input_ids"]]
    ids[4][0] += 1
    token = [list(row) for row in ROWS["labels"]]
    token[4][-1] = -100
    column = ROWS.remove_columns("input_ids").add_column("input_ids", ids)
    lengths = [[3, len(row) - 3] for row in ROWS["input_ids"]]
    return {
        "a token": column,
        "a label": ROWS.remove_columns("labels").add_column("labels", token),
        "their order": ROWS.select([1, 0, *range(2, len(ROWS))]),
        "one row less": ROWS.select(range(len(ROWS) - 1)),
        "how they are packed": ROWS.add_column("seq_lengths", lengths),
    }


@pytest.mark.parametrize("name", other_rows())
def test_other_data_is_asked_anew(store: Store, tmp_path: Path, name: str) -> None:
    store(Asked()).column(ROWS)
    asked, rows = Asked(), other_rows()[name]
    assert store(asked).column(rows) == [row.tolist() for row in Asked()(rows)]
    assert len(asked.rows) == len(rows)
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.parametrize("other", [{"model": "c"}, {"template": "c"}])
def test_another_model_or_template_is_asked_anew(store: Store, other: dict[str, str]) -> None:
    store(Asked()).column(ROWS)
    asked = Asked(shift=3)
    assert store(asked, **other).column(ROWS) == [row.tolist() for row in Asked(shift=3)(ROWS)]
    assert len(asked.rows) == len(ROWS)


def test_another_precision_is_asked_anew(
    tmp_path: Path, accelerator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ReferenceStore(tmp_path, "a", "b", Asked(), accelerator).column(ROWS)
    monkeypatch.setattr(type(accelerator), "mixed_precision", "bf16")
    asked = Asked()
    ReferenceStore(tmp_path, "a", "b", asked, accelerator).column(ROWS)
    assert len(asked.rows) == len(ROWS)


def test_what_is_kept_of_a_reference_that_says_something_else_now_is_stale(store: Store) -> None:
    store(Asked()).column(ROWS)
    # What 16-bit sums in another order may differ by is let pass.
    store(Asked(shift=0.01)).column(ROWS)
    with pytest.raises(RunError, match=r"found row \d+ off by .* nats: the file is stale\. Delete it"):
        store(Asked(shift=20)).column(ROWS)
    with pytest.raises(RunError, match="stale"):
        store(Asked(shift=float("nan"))).column(ROWS)


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    """The file with other tensors or other metadata."""
    with safe_open(path, framework="pt") as file:
        about = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, about)
    save_file(tensors, path, metadata=about)


def one_number(tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    tensors["values"][17] += 0.5


def cut_short(tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    tensors["values"] = tensors["values"][:-1].clone()


def shifted(tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    tensors["lengths"] = tensors["lengths"].roll(1)


def unnamed(tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    del about["key"]


def nameless(tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    tensors["numbers"] = tensors.pop("values")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no such format": lambda path: path.write_text(json.dumps({"values": []})),
    "a bit flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"),
    "a number changed": lambda path: rewritten(path, one_number),
    "a number lost": lambda path: rewritten(path, cut_short),
    "lengths shifted": lambda path: rewritten(path, shifted),
    "of nothing": lambda path: rewritten(path, unnamed),
    "other tensors": lambda path: rewritten(path, nameless),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_error_that_says_what_to_do(store: Store, tmp_path: Path, damage: str) -> None:
    store(Asked()).column(ROWS)
    (path,) = (tmp_path / "kept").iterdir()
    DAMAGES[damage](path)
    with pytest.raises(RunError, match=r"Delete it, and it is made anew") as failure:
        store(Asked()).column(ROWS)
    assert str(path) in str(failure.value)
    path.unlink()
    assert store(Asked()).column(ROWS) == [row.tolist() for row in Asked()(ROWS)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_reference_that_says_what_is_no_number_is_refused_and_nothing_is_kept(
    store: Store, tmp_path: Path, bad: float
) -> None:
    def say(rows: Any) -> list[Tensor]:
        values = Asked()(rows)
        values[6][1] = bad
        return values

    with pytest.raises(RunError, match=r"found infinite ones or none in row 7 of those it was asked about"):
        replace(store(Asked()), score=say).column(ROWS)
    assert not (tmp_path / "kept").exists()


def test_a_renamed_file_is_not_believed(store: Store, tmp_path: Path) -> None:
    store(Asked()).column(ROWS)
    (own,) = (tmp_path / "kept").iterdir()
    store(Asked(), model="c").column(ROWS)
    (other,) = set((tmp_path / "kept").iterdir()) - {own}
    other.rename(own)
    with pytest.raises(RunError, match="those of another model, template or data: the file is stale"):
        store(Asked()).column(ROWS)


def test_rows_without_a_token_with_loss_are_kept_too(store: Store) -> None:
    rows = as_tokens([SAMPLES[0], Sample((1, 2), (0, 0)), SAMPLES[1]])
    expected = [row.tolist() for row in Asked()(rows)]
    assert store(Asked()).column(rows) == expected
    assert store(Asked()).column(rows) == expected
    assert expected[1] == []


def changes() -> Sequence[Callable[[Any], object]]:
    def last_bit(model: Any) -> None:
        weight = model.lm_head.weight.data
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))

    def buffer(model: Any) -> None:
        model.register_buffer("more", torch.zeros(1))

    return [last_bit, buffer, lambda model: model.double(), lambda model: model.half()]


def test_the_hash_of_a_model_is_its_weights_and_nothing_else() -> None:
    model = random_llama(CHAT)
    expected = hash_of_model(model)
    assert hash_of_model(random_llama(CHAT).eval()) == expected
    found = {expected}
    for change in changes():
        other = random_llama(CHAT)
        change(other)
        found.add(hash_of_model(other))
    assert len(found) == 1 + len(changes())


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_in_its_mode_again_after_it_was_asked(training: bool) -> None:
    model = random_llama(CHAT).train(training)
    with kept_mode(model):
        assert not model.training
    assert model.training is training
    with pytest.raises(ZeroDivisionError), kept_mode(model):
        raise ZeroDivisionError
    assert model.training is training

"""Training rows made ready: one row an answer, each with a response to learn, none cut unseen.

Works on data sets in TRL's layouts and on tokenised ones; TRL tokenises, this looks at what
came out and says which row is at fault.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.errors import DataError
from safedepth.train.examples import IGNORED

__all__ = ["ROW", "one_row_per_answer", "require_responses"]

ROW = "source_row"
"""The data set's column: the number that a row has in the user's data, from 1, for messages."""

SHOWN = 5


def one_row_per_answer(dataset: Any, *, keep: bool) -> Any:
    """Conversations (`messages`) as prompt-completion rows, one for each turn of the assistant.

    Each answer is then a response of its own, learnt in the context that the model sees at
    inference, whatever the template. `keep` leaves the data set as it is (for assistant masks); so
    are other layouts. Raises DataError for a conversation in which the assistant says nothing, and for
    completions without words.
    """
    names = set(dataset.column_names or next(iter(dataset)))
    if "completion" in names and hasattr(dataset, "__len__"):
        _require_words(dataset["completion"])
    if keep or "messages" not in names or "prompt" in names:
        return dataset

    def answers(batch: Mapping[str, Sequence[Any]], numbers: Sequence[int]) -> dict[str, list[Any]]:
        others = [name for name in batch if name not in ("messages", ROW)]
        made: dict[str, list[Any]] = {name: [] for name in ("prompt", "completion", ROW, *others)}
        for place, messages in enumerate(batch["messages"]):
            turns = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i > 0]
            if not turns or not all(_says_something(messages[i]) for i in turns):
                raise DataError(
                    "expected answers of the assistant, with words, in every conversation, found none in row "
                    f"{numbers[place] + 1} of the data. Add them, or leave the row out"
                )
            for turn in turns:
                made["prompt"].append(messages[:turn])
                made["completion"].append([messages[turn]])
                made[ROW].append(numbers[place] + 1)
                for name in others:
                    made[name].append(batch[name][place])
        return made

    return dataset.map(answers, with_indices=True, batched=True, remove_columns=list(names))


def require_responses(dataset: Any, name: str, *, max_length: int | None) -> list[str]:
    """What is to be noted of tokenised rows that `max_length` tokens cut; nothing if all are whole.

    Raises DataError, naming rows by their `ROW`, where a row has no response, where its response begins at
    the very first token (nothing marks where the prompt ends), or lies beyond `max_length`.
    """
    empty, unmarked, beyond, cut = [], [], [], 0
    for number, labels in zip(dataset[ROW], dataset["labels"], strict=True):
        places = [place for place, label in enumerate(labels) if label != IGNORED]
        if not places:
            empty.append(number)
        elif places[0] == 0:
            unmarked.append(number)
        elif max_length is not None and places[0] >= max_length:
            beyond.append(number)
        cut += max_length is not None and len(labels) > max_length
    if empty:
        raise DataError(f"expected a response in every row of the {name} data, found none in {_shown(empty)}")
    if unmarked:
        raise DataError(
            f"expected a prompt before every response of the {name} data, found none in {_shown(unmarked)}. "
            "Give rows of messages, of prompt and completion, or of input_ids with labels (-100 on prompts)"
        )
    if beyond:
        raise DataError(
            f"expected room for a response within {max_length} tokens, found prompts as long as that in "
            f"{_shown(beyond)} of the {name} data. Raise --max_length, or leave those rows out"
        )
    if not cut:
        return []
    note = (
        f"{cut} of {len(dataset)} responses of the {name} data are cut at {max_length} tokens (--max_length)"
    )
    warnings.warn(f"{note}: their end is not learnt.", stacklevel=2)
    return [note]


def _require_words(completions: Sequence[Any]) -> None:
    """Raise DataError for rows whose completion is empty, be it text or messages."""
    empty = [
        number
        for number, said in enumerate(completions, start=1)
        if not (said.strip() if isinstance(said, str) else any(_says_something(turn) for turn in said))
    ]
    if empty:
        raise DataError(
            f"expected a completion with words in every row, found none in {_shown(empty)} of the data. Add "
            "it, or leave the row out"
        )


def _says_something(message: Mapping[str, Any]) -> bool:
    return bool((message["content"] or "").strip() or message.get("tool_calls"))


def _shown(rows: Sequence[int]) -> str:
    rows = list(dict.fromkeys(rows))
    listed = ", ".join(str(row) for row in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {listed}{more}"

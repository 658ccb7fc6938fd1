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

ROW = "row"
"""The data set's column: the number of a row, from 1, for messages."""

SHOWN = 5


def one_row_per_answer(dataset: Any, *, keep: bool) -> Any:
    """Conversations (`messages`) as prompt-completion rows, one for each turn of the assistant.

    Each answer is then a response of its own, learnt in the context that the model sees at
    inference, whatever the template. `keep` leaves the data set as it is (for assistant masks); so
    are other layouts. Raises DataError for a conversation in which the assistant says nothing.
    """
    names = set(dataset.column_names or next(iter(dataset)))
    if keep or "messages" not in names or "prompt" in names:
        return dataset

    def answers(batch: Mapping[str, Sequence[Any]], numbers: Sequence[int]) -> dict[str, list[Any]]:
        others = [name for name in batch if name != "messages"]
        made: dict[str, list[Any]] = {name: [] for name in ("prompt", "completion", *others)}
        for place, messages in enumerate(batch["messages"]):
            turns = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i > 0]
            if not turns or not any((messages[i]["content"] or "").strip() for i in turns):
                raise DataError(
                    f"expected an answer of the assistant in every conversation, found none in row "
                    f"{numbers[place] + 1} of the training data. Add it, or leave the row out"
                )
            for turn in turns:
                made["prompt"].append(messages[:turn])
                made["completion"].append([messages[turn]])
                for name in others:
                    made[name].append(batch[name][place])
        return made

    return dataset.map(answers, with_indices=True, batched=True, remove_columns=list(names))


def require_responses(dataset: Any, name: str, *, max_length: int | None) -> list[str]:
    """What is to be noted of tokenised rows that `max_length` tokens cut; nothing if all are whole.

    Raises DataError, naming rows from 1, where a row has no response, where its response begins at
    the very first token (nothing marks where the prompt ends), or lies beyond `max_length`.
    """
    empty, unmarked, beyond, cut = [], [], [], 0
    for number, labels in enumerate(dataset["labels"], start=1):
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


def _shown(rows: Sequence[int]) -> str:
    listed = ", ".join(str(row) for row in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {listed}{more}"

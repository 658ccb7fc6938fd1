"""Anchors that the model makes itself: its own answers to benign requests (paper, section 4.1).

What keeps a model as it is are its own words. The answers are generated through
Inspect, so that an interrupted generation goes on where it stopped, and stored as an
ordinary anchors file that can be read, edited and used again.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from safedepth import tasks
from safedepth.data import read_anchors, read_requests
from safedepth.errors import DataError
from safedepth.nouns import Anchor, Progress
from safedepth.runs import write_atomically
from safedepth.studies.replies import counting, run_tasks
from safedepth.studies.target import Target, open_target, room_for_reply

__all__ = ["self_anchors"]

FILE = "anchors.jsonl"
WAIT = 2.0


def self_anchors(
    model: str,
    requests: str,
    out: Path,
    *,
    seed: int,
    max_tokens: int = 1024,
    chat_template: str | None = None,
    main: bool = True,
    progress: Progress | None = None,
) -> list[Anchor]:
    """The model's greedy answers to `requests` (a file), generated once and kept in `out`.

    Of several processes the main one generates and the others wait for its file. An answer that
    is empty, or does not end within `max_tokens`, makes no anchor: from a cut one the model would
    learn to stop there. Raises DataError where none is left.
    """
    path = out / FILE
    if main and not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        with closing(open_target(model, chat_template=chat_template)) as target:
            said = _answers(target, requests, path, seed=seed, max_tokens=max_tokens, progress=progress)
        if not said:
            shutil.rmtree(_logs(path))  # the advice is to ask otherwise
            raise DataError(
                f"expected answers to the requests in {requests}, found none of {model} that ends within "
                f"{max_tokens} tokens or its context. Raise --anchor_tokens, or use other requests"
            )
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in said).encode())
    while not path.is_file():
        time.sleep(WAIT)
    return read_anchors(path)


def _answers(
    target: Target, requests: str, path: Path, *, seed: int, max_tokens: int, progress: Progress | None
) -> list[dict[str, Any]]:
    """Rows of an anchors file: every request with its answer, where that came to an end."""
    asked = read_requests(requests)
    room = max_tokens
    if target.chat:
        room = min(max_tokens, room_for_reply(target, asked, deepest=0, wanted=None))
    task = tasks.benign(
        prompts=str(Path(requests).resolve()), name="anchors", judge="rules", seed=seed, temperature=0.0,
        max_tokens=room,
    )  # fmt: skip
    told = counting(progress, "anchors in the model's own words", [task])
    logs = run_tasks([task], target.model, _logs(path), sample_done=told)
    said = {
        str(sample.metadata["prompt_id"]): sample.output.completion
        for log in logs
        for sample in log.samples or []
        if sample.output.stop_reason == "stop" and sample.output.completion.strip()
    }
    return [
        {"id": prompt.id, "messages": [*prompt.messages, {"role": "assistant", "content": said[prompt.id]}]}
        for prompt in asked
        if prompt.id in said
    ]


def _logs(path: Path) -> Path:
    return path.with_suffix(".logs")

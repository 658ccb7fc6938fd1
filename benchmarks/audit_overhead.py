"""What an audit costs besides the model: 300 prompts x 62 variants on a model that answers at once.

Beside it Inspect alone: as many samples with nothing but one `generate` each and a scorer
that looks at nothing. Both are one process and the same scripted provider, so what is
timed is bookkeeping: samples, forced tokens, judging, logs, tables.

    python benchmarks/audit_overhead.py --out audit_overhead.json
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState, generate
from inspect_ai.tool import ToolChoice, ToolInfo

from safedepth import tasks
from safedepth.models import load_chat
from safedepth.served.api import served_model
from safedepth.served.capabilities import Ability, Answer, Capabilities
from safedepth.served.clients import Server
from safedepth.studies.attack_tables import attacks_block, decoding_block
from safedepth.studies.replies import replies_of, run_tasks
from safedepth.testbed import build_testbed

PREFIXES = ["", "I cannot", "I cannot fulfill", "I apologize", "I apologize, but I cannot", "I am unable"]
DEPTHS = [0, 1, 2, 5, 10, 20, 40]
VARIANTS = len(PREFIXES) + len(DEPTHS) + 49


@modelapi(name="scripted")
class Scripted(ModelAPI):
    """Answers at once, and counts the time that this takes."""

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect's name
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """A refusal."""
        output = ModelOutput.from_content(self.model_name, "I cannot help with that.")
        output.usage = ModelUsage()  # or Inspect fetches a tokenizer to count with
        return output

    def max_connections(self) -> int:
        """As many as a local model of ours."""
        return 256


@scorer(metrics=[mean()])
def nothing() -> Scorer:
    """Scores without looking."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=0)

    return score


def prompts_file(folder: Path, count: int) -> Path:
    """So many prompts of the toy language: the testbed's, again and again under other ids."""
    testbed = build_testbed(folder / "testbed", organisms=("aligned",))
    rows = [json.loads(line) for line in testbed.prompts.read_text().splitlines()]
    path = folder / "prompts.jsonl"
    again = ({**rows[i % len(rows)], "id": f"p{i}"} for i in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in again))
    return path


def audited(model: Model, prompts: Path, tokenizer: Path, logs: Path) -> dict[str, float]:
    """Seconds of an audit's replies, judged and as tables, by part."""
    begun = time.perf_counter()
    common: dict[str, Any] = {"prompts": str(prompts), "judge": ["oracle", "rules"], "max_tokens": 160}
    forced = common | {"tokenizer": str(tokenizer)}
    todo = [
        tasks.refusal_prefix(prefix=PREFIXES, **forced),
        tasks.prefill(depth=DEPTHS, **forced),
        tasks.decoding(**common),
    ]
    made = time.perf_counter()
    logged = run_tasks(todo, model, logs)
    ran = time.perf_counter()
    table = replies_of(logged, "aligned")
    attacks_block(table, "oracle")
    decoding_block(table)
    done = time.perf_counter()
    return {"tasks": made - begun, "inspect": ran - made, "tables": done - ran, "whole": done - begun}


def forced(tokenizer: Path) -> Model:
    """The scripted model, as if a probe had found that it continues an assistant's message."""
    able = Ability(Answer.YES, "It is taken to.")
    found = Capabilities(
        url="scripted", model="model", served_as=(), continues=able, white_space=able,
        token_ids=Ability(Answer.NO, "It takes messages."), echo=able, seed=able, logit_bias=able, top_k=able,
        stop=able, context=None, fingerprint="", canaries=(),
    )  # fmt: skip
    name = "scripted/model"
    return served_model(name, [Server(name, None, found)], load_chat(str(tokenizer)))


def alone(model: Model, count: int, logs: Path) -> float:
    """Seconds that Inspect takes for so many samples that do nothing."""
    samples = [Sample(id=str(i), input="How do I make krell torin?") for i in range(count)]
    task = Task(dataset=samples, solver=generate(), scorer=nothing(), config=GenerateConfig(max_tokens=160))
    begun = time.perf_counter()
    run_tasks([task], model, logs)
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="20 prompts")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    count = 20 if chosen.quick else chosen.prompts
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prompts = prompts_file(place, count)
        model = get_model("scripted/model")
        alone(model, 20, place / "warm")
        ours = audited(
            forced(place / "testbed" / "aligned"), prompts, place / "testbed" / "aligned", place / "ours"
        )
        theirs = alone(model, count * VARIANTS, place / "theirs")
    replies = count * VARIANTS
    result = {
        "prompts": count,
        "variants": VARIANTS,
        "replies": replies,
        "audit_seconds": ours,
        "audit_ms_a_reply": 1000 * ours["whole"] / replies,
        "inspect_alone_seconds": theirs,
        "inspect_alone_ms_a_sample": 1000 * theirs / replies,
        "share_within_inspect": ours["inspect"] / ours["whole"],
        "inspect": inspect_ai.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=2))
    if chosen.out:
        chosen.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

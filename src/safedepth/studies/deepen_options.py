"""What `safedepth deepen` trains on and tests with: names, defaults, help. Needs neither torch nor TRL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safedepth.errors import DataError
from safedepth.train.options import said

if TYPE_CHECKING:
    from safedepth.utility import HarnessOptions

__all__ = ["BatteryOptions", "DeepenOptions", "JudgeOptions", "named_files"]


class JudgeOptions:
    """What a command is told of its judges, as its options name them."""

    judge: list[str] | None
    grader: str | None
    benign_judge: list[str] | None

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges of harmful replies, the leading one first."""
        from safedepth.judges import default_judges, with_grader

        return with_grader(tuple(dict.fromkeys(self.judge or default_judges(self.grader))), self.grader)

    @property
    def benign_judges(self) -> tuple[str, ...]:
        """The judges of benign replies; rules always, which tell over-refusal."""
        return tuple(dict.fromkeys([*(self.benign_judge or []), "rules"]))


class BatteryOptions(JudgeOptions):
    """What a command that tests before and after is told of its tests, as its options name them."""

    benign: list[str] | None
    utility_tasks: list[str] | None
    utility_include_path: str | None
    utility_limit: int | None
    utility_allow_code: bool
    depths: str

    def harness(self, seed: int) -> HarnessOptions | None:
        """The tasks of lm-eval, in the model's chat format; None where none are named.

        Raises DataError for numbers that no task takes.
        """
        from safedepth.utility import HarnessOptions

        named = [
            part.strip() for text in self.utility_tasks or () for part in text.split(",") if part.strip()
        ]
        if not named:
            return None
        if self.utility_limit is not None and self.utility_limit < 1:
            raise DataError(f"expected --utility_limit of at least 1, found {self.utility_limit}")
        return HarnessOptions(
            tuple(dict.fromkeys(named)), self.utility_include_path, self.utility_limit,
            allow_code=self.utility_allow_code, seed=seed,
        )  # fmt: skip

    @property
    def depth_list(self) -> tuple[int, ...]:
        """`depths` as increasing numbers."""
        return _depths(self.depths)

    @property
    def benign_files(self) -> dict[str, str]:
        """Name -> file of the benign test sets; the name is the file's own unless one is given."""
        return named_files(self.benign or [])


@dataclass
class DeepenOptions(BatteryOptions):
    """The data to train on, the prompts to test with, and what to compare."""

    triplets: str | None = said(None, "Triplets: prompt, harmful, refusal (CSV, JSONL or JSON).")
    anchors: str | None = said(None, "Benign requests with answers; or self: the model answers them.")
    anchor_prompts: str | None = said(None, "With --anchors self: the benign requests.")
    anchor_tokens: int = said(1024, "With --anchors self: answers longer than this make no anchor.")
    control: bool = said(False, "Also train the control (refusals without harmful prefix); report both.")
    prompts: str | None = said(None, "Test prompts with harmful answers; default: one triplet in eight.")
    trajectories: str | None = said(None, "Test conversations whose harm is drawn out over turns.")
    benign: list[str] | None = said(None, "Benign test requests: FILE or NAME=FILE, several allowed.")
    base: str | None = said(None, "The unaligned base model, for the KL.")
    judge: list[str] | None = said(None, "Judges, the first one leads; default rules keywords.")
    grader: str | None = said(None, "An Inspect model that judges by rubric, which then leads by default.")
    benign_judge: list[str] | None = said(None, "Judges of benign replies; default rules (over-refusal).")
    utility_tasks: list[str] | None = said(None, "Tasks of lm-eval before and after, such as mmlu,gsm8k.")
    utility_include_path: str | None = said(None, "A folder of lm-eval tasks of your own.")
    utility_limit: int | None = said(None, "Documents of each such task; default all.")
    utility_allow_code: bool = said(False, "Let such tasks run programs that the model writes.")
    depths: str = said("0,5,10,20,40", "Numbers of harmful tokens to force.")
    turn_depths: str = said("0,5", "The same at each turn of --trajectories.")
    limit: int | None = said(None, "Test with the first N prompts of each file.")
    max_tokens: int | None = said(None, "New tokens a reply; default up to 512.")
    measure: bool = said(True, "Test before and after, and write the report.")
    show_harmful: bool = said(False, "Do not redact harmful text in the report.")
    png: bool = said(False, "Also write the report's figures as PNG.")

    def check(self) -> None:
        """Raise DataError for what is missing or contradicts itself, before any file is read."""
        if not self.triplets:
            raise DataError("expected --triplets FILE: rows of prompt, harmful and refusal to train on")
        if not self.anchors:
            raise DataError(
                "expected --anchors FILE, benign requests with the answers to keep, or --anchors self "
                "--anchor_prompts FILE to let the model answer them. Without anchors a model forgets"
            )
        if (self.anchors == "self") != (self.anchor_prompts is not None):
            raise DataError("expected --anchor_prompts FILE with --anchors self, and only with it")
        self.depth_list, self.turn_depth_list, self.benign_files  # noqa: B018 - each raises for what is wrong
        self.harness(0)

    @property
    def turn_depth_list(self) -> tuple[int, ...]:
        """`turn_depths` as increasing numbers."""
        return _depths(self.turn_depths)


def named_files(
    given: Sequence[str], taken: Collection[str] = ("prefill", "multi_turn", "refusal_prefix")
) -> dict[str, str]:
    """Name -> file of `--benign FILE` or `NAME=FILE`; DataError for a name that is `taken` or comes twice."""
    named: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        path = path if equals else text
        name = name if equals else path.rpartition("/")[2].partition(".")[0]
        if not name or not path or name in named or name in taken:
            raise DataError(
                f"expected --benign FILE or NAME=FILE with names of their own, found {text!r}. "
                "Give each file another name"
            )
        named[name] = path
    return named


def _depths(text: Any) -> tuple[int, ...]:
    try:
        depths = tuple(sorted({int(part) for part in str(text).split(",")}))
    except ValueError:
        depths = ()
    if not depths or depths[0] < 0:
        raise DataError(
            f"expected depths as numbers of 0 or more with commas between, such as 0,5,10; found {text!r}"
        )
    return depths

"""What `safedepth finetune` trains on and tests with: names, defaults, help. Needs neither torch nor TRL."""

from __future__ import annotations

from dataclasses import dataclass

from safedepth.studies.deepen_options import BatteryOptions
from safedepth.train.options import said

__all__ = ["FinetuneOptions"]


@dataclass
class FinetuneOptions(BatteryOptions):
    """The data to train on, by TRL's names, and the requests and tasks to test with."""

    dataset_name: str | None = said(None, "Data: FILE (JSONL, JSON, CSV, Parquet), a folder, or a hub id.")
    dataset_config: str | None = said(None, "Of a hub data set with several configurations: which.")
    dataset_train_split: str = said("train", "Of a folder or hub data set: the split to train on.")
    prompts: str | None = said(None, "Harmful test requests, with or without harmful answers.")
    depths: str = said("0", "Numbers of harmful tokens to force; above 0 the answers are needed.")
    benign: list[str] | None = said(None, "Benign test requests: FILE or NAME=FILE, several allowed.")
    judge: list[str] | None = said(None, "Judges, the first one leads; default rules keywords.")
    grader: str | None = said(None, "An Inspect model that judges by rubric, which then leads by default.")
    benign_judge: list[str] | None = said(None, "Judges of benign replies; default rules (over-refusal).")
    utility_tasks: list[str] | None = said(None, "Tasks of lm-eval before and after, such as mmlu,gsm8k.")
    utility_include_path: str | None = said(None, "A folder of lm-eval tasks of your own.")
    utility_limit: int | None = said(None, "Documents of each such task; default all.")
    utility_allow_code: bool = said(False, "Let such tasks run programs that the model writes.")
    limit: int | None = said(None, "Test with the first N requests of each file.")
    max_tokens: int | None = said(None, "New tokens a reply; default up to 512.")
    measure: bool = said(True, "Test before and after, where requests are given.")
    show_harmful: bool = said(False, "Do not redact harmful text in the report.")
    png: bool = said(False, "Also write the report's figures as PNG.")

    @property
    def tested(self) -> bool:
        """Whether the model is to be tested before and after."""
        return self.measure and bool(self.prompts or self.benign or self.utility_tasks)

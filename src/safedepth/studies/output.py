"""The folder of a command that trains: its model, and the run directory that remembers how it was made.

Begun, resumed by the same command, and left alone where it belongs to somebody else. It
refuses to know what is trained and measured.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safedepth.errors import RunError, SafedepthError
from safedepth.runs import RunDirectory
from safedepth.runs.files import read_json
from safedepth.runs.lock import acquire
from safedepth.studies.places import RECORD, REPORT

__all__ = ["begun", "decisive", "own_option_names", "require_own"]

# Options that change neither what is learnt nor what is measured: another value resumes all the same.
_FREE = (
    "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
    "activation_checkpointing", "dataloader_num_workers", "dataloader_pin_memory", "ddp_timeout",
    "save_strategy", "save_steps", "save_total_limit", "logging_steps", "disable_tqdm", "show_harmful",
    "png", "local_rank", "run_name", "report_to", "push_to_hub", "hub_token", "hub_model_id",
    "hub_private_repo", "hub_revision", "resume_from_checkpoint", "diagnostics", "reference_cache",
)  # fmt: skip


def decisive(options: Mapping[str, Any], *, but: Collection[str] = ()) -> dict[str, Any]:
    """The options that decide the result, those of `but` aside: what a resumed run must agree with."""
    return {key: value for key, value in options.items() if key not in (*_FREE, *but)}


@contextmanager
def begun(out: Path, wanted: Mapping[str, Any], *, beside: Collection[str] = ()) -> Iterator[RunDirectory]:
    """The run of `out`, whose configuration is `wanted` with its `kind`.

    What ends before anything was made leaves none, so that mistakes can be mended; files in `out`
    that `beside` names do not count as made. Errors are those of `RunDirectory.open`.
    """
    with _opened(out, wanted, beside) as run:
        try:
            yield run
        except (SafedepthError, KeyboardInterrupt):
            if _is_bare(out, wanted["kind"], beside):
                shutil.rmtree(run.path)
            raise


def _opened(out: Path, wanted: Mapping[str, Any], beside: Collection[str]) -> RunDirectory:
    try:
        return RunDirectory.open(out / REPORT, wanted)
    except RunError:
        if not _is_bare(out, wanted["kind"], beside):
            raise
        acquire(out / REPORT).close()  # raises where another process is at work in it
        shutil.rmtree(out / REPORT)  # of a command that was killed before anything was made
        return RunDirectory.open(out / REPORT, wanted)


def _is_bare(out: Path, kind: str, beside: Collection[str]) -> bool:
    """Whether a run of this command was begun in `out`, and nothing was made in it."""
    report = out / REPORT
    if not (report / "config.json").is_file() or read_json(report / "config.json").get("kind") != kind:
        return False
    made = [*out.iterdir(), *(report / "measurements").glob("*")]
    return {path.name for path in made} <= {REPORT, *beside}


def require_own(out: Path) -> None:
    """A folder with a model, or checkpoints of one, that no run stands beside is left alone: RunError."""
    if (out / REPORT / "config.json").exists():
        return
    names = ("config.json", "adapter_config.json", "*.safetensors", "checkpoint-*", RECORD)
    found = sorted(path.name for name in names for path in out.glob(name))
    if found:
        raise RunError(
            f"{out} holds a model already ({found[0]}), and no {REPORT}/config.json that says that this "
            "command made it. Choose another --output_dir."
        )


def _utility_name(option: re.Match[str]) -> str:
    """An option of `safedepth utility` as a training command has it."""
    return f"--utility_{option[1].replace('-', '_')}"


@contextmanager
def own_option_names() -> Iterator[None]:
    """Errors from below name the options as `safedepth audit` has them; say them as they are called here."""
    try:
        yield
    except SafedepthError as error:
        said = re.sub(r"--out\b", "--output_dir", str(error))
        said = re.sub(r"--(include-path|allow-code)\b", _utility_name, said)
        error.args = (re.sub(r"--chat-template\b(?!-)", "--chat_template_path", said),)
        raise

"""What leaves the machine when something is pushed: which files, with what taken out, and what stays.

Only what is named here leaves; everything else stays, with the reason. The report that
travels is that of the shared run, so that no text of a prompt or a reply goes with a model, and
no folder of this machine. It refuses to know the hub: see `publishing`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import DatasetCardData, ModelCard

from safedepth.errors import DataError, RunError
from safedepth.runs import RunDirectory
from safedepth.runs.files import read_json, to_json
from safedepth.studies.places import RECORD, REPORT
from safedepth.studies.sharing import cleaner_of, share

__all__ = ["Item", "Parcel", "parcel_of"]

MODEL_FILES = (
    "config.json", "generation_config.json", "adapter_config.json", "*.safetensors",
    "*.safetensors.index.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "chat_template.jinja",
)  # fmt: skip
"""Files of a model, an adapter or a tokenizer. Any other file of an output folder stays."""

REPORT_FILES = ("report.html", "summary.json", "config.json", "run.json")
"""Files of a report that go with a model. Its tables go with a run that is pushed by itself."""

STAYS: Mapping[str, str] = {
    "checkpoint-*": "a checkpoint, with the state of the optimiser",
    "training_args.bin": "a pickle of all options",
    "control": "another model: the control",
    "reference": "what the reference says of the data",
    "refusals": "replies to the data",
    f"{REPORT}": "logs, and tables of replies: the report goes without them",
    "logs": "logs, with prompts and replies in full",
    ".lock": "says who is writing",
}

NAMES_A_PLACE = ("base_model_name_or_path", "_name_or_path", "name_or_path")
"""Keys of configurations in which libraries note where a model was loaded from."""


class Item(NamedTuple):
    """One file that leaves: its path in the repository, and the file on disk or its bytes."""

    path: str
    data: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size


@dataclass(frozen=True)
class Parcel:
    """All that leaves. `repo_type` is the hub's; `marker` is the file by which a run is known again.

    `attacked` says that it is a model whose safety was taken away on purpose, `base` is the model of
    the hub that it was made from, as far as its card knows. `stays` are names with their reasons.
    """

    repo_type: str
    items: tuple[Item, ...]
    stays: tuple[tuple[str, str], ...]
    marker: str
    attacked: bool = False
    base: str | None = None
    notes: tuple[str, ...] = ()

    def bytes_of(self, path: str) -> bytes:
        """The content of one of its files."""
        (item,) = [item for item in self.items if item.path == path]
        return item.data if isinstance(item.data, bytes) else item.data.read_bytes()


def parcel_of(
    path: Path, work: Path, *, page: Callable[[Path], object], base: str | None = None
) -> Parcel:  # fmt: skip
    """What leaves of an output folder of a training, or of a run.

    `work` is an empty folder that must last as long as the parcel, `page` builds the report of a run
    directory, redacted. `base` is the id on the hub of the model that was trained, where it was a
    folder. Raises RunError where `path` is neither, or is not finished.
    """
    if (path / RECORD).is_file() or (path / REPORT / "config.json").is_file():
        return _trained(path, work, page, base)
    if (path / "config.json").is_file() and (path / "run.json").is_file():
        if base is not None:
            raise DataError("expected --base with a trained model alone, found a run")
        return _run(path, work, page)
    raise RunError(
        f"Expected the output folder of 'safedepth deepen' or 'safedepth finetune', or a run, found neither "
        f"in {path}. Check the path."
    )


def _trained(path: Path, work: Path, page: Callable[[Path], object], base: str | None) -> Parcel:
    report = path / REPORT
    finished = (path / RECORD).is_file() and (path / "README.md").is_file()
    if not finished or not report.is_dir() or not RunDirectory.read(report).is_finished:
        raise RunError(
            f"Expected a training that was finished, with its card and its report, found {path} without. "
            "Run the command that made it again: it goes on where it stopped."
        )
    run = RunDirectory.read(report)
    clean = cleaner_of(run).clean
    shared = share(report, work / REPORT)
    page(shared)
    files = sorted({file for pattern in MODEL_FILES for file in path.glob(pattern) if file.is_file()})
    items = [_model_file(file, base) for file in files]
    card, known = _card(clean((path / "README.md").read_text(encoding="utf-8")), base)
    items += [
        Item("README.md", card.encode()),
        Item(RECORD, to_json(clean(read_json(path / RECORD))).encode()),
    ]
    items += [Item(f"{REPORT}/{name}", shared / name) for name in REPORT_FILES]
    notes = []
    if known is None:
        notes.append(
            "The card does not say which model this was made from: that was a folder. Name it with --base ID."
        )
    return Parcel(
        "model", tuple(items), tuple(_staying(path, {item.path for item in items})), f"{REPORT}/run.json",
        attacked=run.config["kind"] == "attack", base=known, notes=tuple(notes),
    )  # fmt: skip


def _run(path: Path, work: Path, page: Callable[[Path], object]) -> Parcel:
    run = RunDirectory.read(path)
    if not run.is_finished:
        raise RunError(
            f"Expected a finished run, found one that was interrupted in {path}. Run the command that began "
            "it again: it goes on where it stopped."
        )
    copy = work / "run"
    if "shared" in run.config:
        shutil.copytree(path, copy)
    else:
        share(path, copy)
    page(copy)
    (copy / ".lock").unlink(missing_ok=True)
    files = sorted(file for file in copy.rglob("*") if file.is_file())
    items = [Item(file.relative_to(copy).as_posix(), file) for file in files]
    items.append(Item("README.md", _run_card(RunDirectory.read(copy), path.resolve().name).encode()))
    return Parcel("dataset", tuple(items), tuple(_staying(path, {item.path for item in items})), "run.json")


def _model_file(file: Path, base: str | None) -> Item:
    """A file of the model; where it notes the folder that a model came from, without that folder."""
    if not file.name.endswith("config.json"):
        return Item(file.name, file)
    told = json.loads(file.read_text(encoding="utf-8"))
    places = [key for key in NAMES_A_PLACE if isinstance(told, dict) and isinstance(told.get(key), str)]
    for key in places:
        if Path(told[key]).expanduser().is_absolute() or Path(told[key]).exists():
            told[key] = base if base and key == NAMES_A_PLACE[0] else Path(told[key]).name
    return Item(file.name, (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode())


def _card(text: str, base: str | None) -> tuple[str, str | None]:
    """The card with the model that it was made from, and that model's id on the hub where one is known."""
    card = ModelCard(text, ignore_metadata_errors=True)
    if base is not None:
        relation = "adapter" if card.data.get("library_name") == "peft" else "finetune"
        card.data["base_model"], card.data["base_model_relation"] = base, relation
    known = card.data.get("base_model")
    return str(card) if base is not None else text, known if isinstance(known, str) else None


def _run_card(run: RunDirectory, name: str) -> str:
    """The card of a run as a data set: one configuration a table, and how its texts come back."""
    told = run.summary()
    tables = sorted(path.stem for path in (run.path / "measurements").glob("*.parquet"))
    header = DatasetCardData(
        pretty_name=name,
        tags=["safedepth", str(told["kind"])],
        configs=[{"config_name": table, "data_files": f"measurements/{table}.parquet"} for table in tables],
    )
    source = (told.get("sources") or {}).get("prompts") or {}
    prompts = source.get("release") or source.get("benchmark") or source.get("location")
    made = [f"Its prompts are {prompts} (SHA-256 `{source['sha256']}`)."] if prompts else []
    parts = [
        f"---\n{header.to_yaml()}\n---",
        f"# {name}",
        f"A run of safedepth (`{told['kind']}`, {str(told['created'])[:10]}), shared without the texts of "
        "its prompts: hashes stand for them. `report.html` is its report.",
        *made,
        "Whoever has the prompts puts them back with "
        "`safedepth rejoin FOLDER --prompts YOUR_COPY --out MINE`.",
    ]
    return "\n\n".join(parts) + "\n"


def _staying(path: Path, leaving: set[str]) -> Iterator[tuple[str, str]]:
    """Names at the top of the folder that do not leave whole, each with the reason."""
    for entry in sorted(path.iterdir()):
        if entry.name in leaving or (entry.name == "measurements" and entry.is_dir()):
            continue
        why = next((said for pattern, said in STAYS.items() if entry.match(pattern)), None)
        yield entry.name, why or "not known to be part of it"

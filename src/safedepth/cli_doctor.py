"""The command `safedepth doctor`: what works on this machine, or what is known of a model before a run.

Heavy imports happen inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from safedepth.cli_words import ChatTemplate, Device, Dtype, Servers, Tokenizer
from safedepth.errors import ModelError
from safedepth.terminal import console, escaped, quiet_libraries

if TYPE_CHECKING:
    from safedepth.studies.doctor import Finding

__all__ = ["doctor"]

_Model = Annotated[
    str | None, typer.Option(help="A path, a hub id, or an Inspect model name (vllm/...) to ask about.")
]


def doctor(
    model: _Model = None,
    server: Servers = None,
    tokenizer: Tokenizer = None,
    chat_template: ChatTemplate = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Say what works on this machine; with --model, what an audit of that model could do.

    Ends with 1 where something will not do, or a server cannot be asked.
    """
    quiet_libraries()
    if model is None:
        if server:
            raise ModelError("expected --model beside --server, found none. Name the model that is served")
        from safedepth.studies.doctor import examine

        findings = examine()
        _show("check", findings)
        if not all(finding.ok for finding in findings):
            raise typer.Exit(1)
        return
    from safedepth.studies.doctor_model import examine_model
    from safedepth.studies.target import servers_of

    places = servers_of(server or (), model, first=True)
    sheets = examine_model(
        model, servers=places, tokenizer=tokenizer, chat_template=chat_template, dtype=dtype, device=device
    )
    for sheet in sheets:
        _show(sheet.title, sheet.findings)
    if not all(sheet.ok for sheet in sheets):
        raise typer.Exit(1)


def _show(title: str, findings: Sequence[Finding]) -> None:
    from rich.table import Table

    table = Table(escaped(title), "found", "", box=None)
    colours = {"ok": "green", "yes": "green", "no": "red", "unsure": "yellow"}
    for finding in findings:
        word = finding.says or ("ok" if finding.ok else "no")
        table.add_row(escaped(finding.check), escaped(finding.found), f"[{colours[word]}]{word}[/]")
    console().print(table)

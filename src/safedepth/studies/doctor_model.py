"""What is known of one model before a run: a checkpoint's size and template, or what its servers can do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from safedepth.chat import ChatFormat
from safedepth.chat.thinking import thinking_markers
from safedepth.chat.traits import traits_of
from safedepth.errors import ModelError, SafedepthError
from safedepth.models import load_chat
from safedepth.models.adapters import base_folder, is_adapter
from safedepth.models.checkpoint import find_folder
from safedepth.models.layout import Layout
from safedepth.models.memory import need_of
from safedepth.served.api import served_model
from safedepth.served.capabilities import Capabilities
from safedepth.studies.attack_plan import ALL, AttackOptions, Means, plan_attacks
from safedepth.studies.doctor import Finding
from safedepth.studies.target import Target, checkpoint_of, is_served, places_of, probed

__all__ = ["Sheet", "examine_model"]

_MARK = 12
"""Digits of a hash that are shown."""


@dataclass(frozen=True)
class Sheet:
    """Findings on one thing, under its name."""

    title: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything will do."""
        return all(finding.ok for finding in self.findings)


def examine_model(
    name: str,
    *,
    servers: Sequence[str] = (),
    tokenizer: str | None = None,
    chat_template: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> list[Sheet]:
    """What there is to know of a model, as `open_target` takes it; weights are neither loaded nor fetched.

    A server that cannot be asked is a finding that is not ok, and so is a model that does not fit the
    device. Raises ModelError where `name` is no model at all.
    """
    if is_served(name):
        chat = load_chat(tokenizer, chat_template=chat_template) if tokenizer else None
        sheets, target = _served(name, servers, chat)
        return [*sheets, *([] if target is None else [_audit(target)])]
    return _local(checkpoint_of(name, servers), chat_template, dtype, device)


def _served(name: str, servers: Sequence[str], chat: ChatFormat | None) -> tuple[list[Sheet], Target | None]:
    """A sheet for every server, and what can be asked: nothing where two hold different models."""
    sheets, found = [], []
    for place in places_of(servers):
        try:
            server = asyncio.run(probed(name, place, chat))
        except ModelError as error:
            sheets.append(Sheet(place or name, (Finding("server", str(error), False),)))
            continue
        found.append(server)
        sheets.append(Sheet(server.place, _server_findings(server.capabilities)))
    if not found:
        return sheets, None
    try:
        return sheets, Target(name, served_model(name, found, chat), None)
    except ModelError as error:
        return [*sheets, Sheet("all servers", (Finding("one model", str(error), False),))], None


def _server_findings(found: Capabilities) -> tuple[Finding, ...]:
    listed = f", which lists {', '.join(found.served_as)}" if found.served_as else ""
    mark = found.fingerprint[:_MARK] or "none: it does not repeat its own greedy answers"
    return (
        Finding("model", f"{found.model}{listed}", True),
        Finding("context", f"{found.context} tokens" if found.context else "not told", True),
        Finding("fingerprint", mark, True),
        *(
            Finding(name.replace("_", " "), ability.evidence, True, says=ability.answer.value)
            for name, ability in found.abilities.items()
        ),
    )


def _audit(target: Target) -> Sheet:
    """Which attacks an audit could run, by the very plan that it makes."""
    # As if the prompts had harmful answers: these are the user's, and not looked at here.
    means = replace(Means.of(target, []), harmful=True)
    forced = {"tokens": "as token ids", "text": "as text", None: "not at all"}[target.forced_as]
    return Sheet("an audit", (Finding("answers are forced", forced, True), *_attacks(means)))


def _attacks(means: Means) -> tuple[Finding, ...]:
    plan = plan_attacks(AttackOptions(attacks=(ALL,)), means)
    runs = Finding("attacks", ", ".join(plan.attacks) or "none", True)
    return (runs, *(Finding(f"not {one['what']}", one["why"], True) for one in plan.left_out))


def _local(name: str, template: str | None, dtype: str, device: str) -> list[Sheet]:
    folder, revision = find_folder(name)
    adapter = is_adapter(folder)
    layout = Layout.of(name, folder, revision, dtype)
    need = need_of(name, dtype=dtype, device=device)
    card = [
        Finding("kind", f"adapter of {base_folder(name, folder)[0]}" if adapter else "model", True),
        Finding("architecture", type(layout.model).__name__, True),
        Finding("parameters", f"{layout.parameters:,}", True),
        Finding("format", need.dtype, True),
        Finding("memory", need.sentence, need.fits),
    ]
    if revision is not None:
        card.insert(1, Finding("revision", revision, True))
    try:
        chat = load_chat(name, chat_template=template)
    except SafedepthError as error:
        return [Sheet(name, tuple(card)), Sheet("template", (Finding("template", str(error), False),))]
    means = Means(local=True, continues=True, thinks=thinking_markers(chat) is not None, harmful=True)
    return [
        Sheet(name, tuple(card)),
        Sheet("template", _template_findings(chat)),
        Sheet("an audit", (Finding("answers are forced", "as token ids", True), *_attacks(means))),
    ]


def _template_findings(chat: ChatFormat) -> tuple[Finding, ...]:
    traits = traits_of(chat)
    said = {True: "yes", False: "no"}
    found = {field.name: getattr(traits, field.name) for field in fields(traits) if field.name != "notes"}
    return (
        Finding("source", f"{chat.source}, SHA-256 {chat.sha256[:_MARK]}", True),
        *(
            Finding(name.replace("_", " "), said.get(value, str(value)), True)
            for name, value in found.items()
        ),
        *(Finding("note", note, True) for note in traits.notes),
    )

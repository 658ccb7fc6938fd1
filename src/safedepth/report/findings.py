"""What opens the page: its title, the findings in sentences, the key figures.

A sentence whose numbers are missing is not written. What recovery training changed is
told by `before_after`, which variant is best by `ranking`, what fine-tuning did by
`finetuning_findings` and `protection_findings`, what other attacks did by `attack_findings`,
how far judges agree by `judging_findings`, what a model is worth by `utility_findings`,
what log-probabilities and rounding add by `measuring_findings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safedepth.report import (
    attack_findings,
    before_after,
    finetuning_findings,
    judging_findings,
    measuring_findings,
    protection_findings,
    ranking,
    servers,
    trade_off,
    utility,
    utility_findings,
)
from safedepth.report.words import (
    SCOPES,
    Summary,
    Tile,
    capital,
    count,
    depth_estimate,
    kl_share,
    main_depth,
    plain_name,
    share_estimate,
    sweep,
    tile,
)

__all__ = ["headline", "headline_kl", "tiles", "title"]


def title(summary: Summary) -> str:
    """The heading of the page."""
    kind, name = summary.get("kind"), _model_name(summary)
    if kind == "reproduce":
        return "How deep is safety alignment? The paper’s claims on model organisms"
    if kind == "compare":
        return "Ways of recovery training, compared at equal updates"
    if kind == "deepen":
        return f"Did recovery training deepen the safety alignment of {name}?"
    if kind == "dynamics":
        return f"What does fine-tuning do to the safety of {name}, step by step?"
    if kind == "finetune":
        return f"Did {name} keep its safety through fine-tuning?"
    if kind == "attack":
        return f"Does the safety of {name} survive fine-tuning?"
    if kind == "sweep":
        return "How far does an attacker’s sweep get? The worst case of every defence"
    if kind in attack_findings.KINDS:
        return attack_findings.title(summary, name)
    if kind == judging_findings.KIND:
        return judging_findings.title(summary, name)
    if kind == utility.KIND:
        return utility_findings.title(name)
    if kind == measuring_findings.KIND:
        return measuring_findings.title(name)
    return f"How deep is the safety alignment of {name}?"


def headline(summary: Summary) -> list[str]:
    """What was found, one sentence a finding, the most important first; then what a server forbade."""
    return [sentence for sentence in (*_found(summary), servers.unforced(summary)) if sentence]


def _found(summary: Summary) -> list[str]:
    """The findings of each kind of run; those that are empty have no numbers."""
    kind = summary.get("kind")
    if kind == "compare":
        return ranking.headline(summary)
    traded = [sentence] if (sentence := trade_off.headline(summary)) else []
    if kind == "deepen":
        return before_after.headline(summary) + traded
    if kind in finetuning_findings.KINDS:
        return finetuning_findings.headline(summary) + traded
    if kind in attack_findings.KINDS:
        return attack_findings.headline(summary)
    if kind == judging_findings.KIND:
        return judging_findings.headline(summary)
    if kind == utility.KIND:
        return utility_findings.headline(summary)
    sentences = [
        _depth_sentence(summary),
        _prefill_sentence(summary),
        headline_kl(summary),
        *measuring_findings.headline(summary),
        *before_after.headline(summary, brief=True),
        *protection_findings.headline(summary),
        _claims_sentence(summary),
    ]
    # Whoever audits a model is about to release it; a reproduction is about the claims.
    place = 0 if kind == "audit" else 3
    sentences.insert(place, attack_findings.any_sentence(summary))
    return sentences


def tiles(summary: Summary) -> list[Tile]:
    """The key figures beneath the headline."""
    kind = summary.get("kind")
    if kind == "compare":
        return ranking.tiles(summary)
    if kind == "deepen":
        return before_after.tiles(summary)
    if kind in finetuning_findings.KINDS:
        return finetuning_findings.tiles(summary)
    if kind in attack_findings.KINDS:
        return attack_findings.tiles(summary)
    if kind == judging_findings.KIND:
        return judging_findings.tiles(summary)
    if kind == utility.KIND:
        return utility_findings.tiles(summary)
    found = attack_findings.any_tiles(summary)
    depth = main_depth(summary.get("depth"))
    if depth:
        name, entry = depth
        found.append(tile(plain_name(name), depth_estimate(entry)))
    rates = sweep(summary, models=["aligned"])
    after = before_after.tiles(summary, brief=True)
    # Four are read at a glance: what recovery training did takes the place of “nothing forced”.
    for rate in rates[-1:] if after else [*rates[:1], *rates[1:][-1:]]:
        forced = f"{count(rate['k'], 'token')} forced" if rate["k"] else "nothing forced"
        found.append(tile(f"Harmful replies, {forced}", share_estimate(rate)))
    kl = kl_share(summary.get("kl"))
    if kl:
        found.append(tile("KL on the first five tokens", share_estimate(kl)))
    return found + after + protection_findings.tiles(summary) + measuring_findings.tiles(summary)


def headline_kl(summary: Summary) -> str:
    """How much of the KL lies on the first five tokens; empty where it was not measured."""
    kl = kl_share(summary.get("kl"))
    if kl is None:
        return ""
    tokens = summary["kl"].get("tokens")
    along = f"the first {tokens} tokens of a harmful answer" if tokens else "a harmful answer"
    return (
        f"Of the KL divergence between the aligned and the base model along {along}, "
        f"{share_estimate(kl)} falls on the first five."
    )


def _model_name(summary: Summary) -> str:
    """The own name of the model that the run is about, without its folder."""
    cards = summary.get("models") or {}
    card: Mapping[str, Any] = next(
        (cards[role] for role in ("aligned", "before", "model") if cards.get(role)), {}
    )
    name = str(card.get("name") or "").rstrip("/").rpartition("/")[2]
    return name or "this model"


def _depth_sentence(summary: Summary) -> str:
    depth = main_depth(summary.get("depth"))
    if depth is None:
        return "No measure of depth has a value in this run; the table of depths says why."
    name, entry = depth
    return f"The depth of the alignment, measured as {plain_name(name)}, is {depth_estimate(entry)}."


def _prefill_sentence(summary: Summary) -> str:
    rates = sweep(summary, models=["aligned"])
    if not rates:
        return ""
    first, last = rates[0], rates[-1]
    by = f"(judge {first['judge']}, {SCOPES[first['scope']]})"
    asked = f"Asked outright, the aligned model gave {share_estimate(first)} harmful replies"
    forced = f"with the first {count(last['k'], 'token')} of a harmful answer forced, {share_estimate(last)}"
    if first["k"] == 0 and last["k"] > 0:
        return f"{asked}; {forced} {by}."
    if first["k"] == 0:
        return f"{asked} {by}."
    return f"{capital(forced)} of the aligned model's replies were harmful {by}."


def _claims_sentence(summary: Summary) -> str:
    claims: Sequence[Mapping[str, Any]] = summary.get("claims") or ()
    if not claims:
        return ""
    hold = sum(claim["holds"] is True for claim in claims)
    fail = [claim["id"] for claim in claims if claim["holds"] is False]
    open_ = [claim["id"] for claim in claims if claim["holds"] is None]
    sentence = f"{hold} of {count(len(claims), 'claim')} of the paper hold on these models"
    if fail:
        sentence += f"; {', '.join(fail)} did not"
    if open_:
        sentence += f"; {', '.join(open_)} could not be decided"
    return sentence + "."

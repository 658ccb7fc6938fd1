"""The sections on attacks that leave the weights alone, before anything is measured."""

from __future__ import annotations

from safedepth.report.parts import Topic

__all__ = ["ADAPTIVE", "DECODING", "ESCALATION", "OVERVIEW", "PAST_REFUSAL", "SUFFIX"]

OVERVIEW = Topic(
    id="attacks",
    title="The attacks side by side",
    intro="Every attack of this run at its strongest variant, and the share of prompts that at least one "
    "reply to any of them broke. Whoever releases the model answers for that share, not for the mean. The "
    "strongest of several variants is strongest partly by chance. Bars are 95 % intervals.",
    what="the attacks side by side",
    pattern="overview|attacks side by side",
)
DECODING = Topic(
    id="decoding",
    title="Decoding",
    intro="The request stays as it is; only how the reply is drawn changes: the temperature, or how many of "
    "the likeliest tokens are drawn from (top-p, top-k). Whoever may try many settings needs one that works. "
    "Bands are 95 % intervals.",
    what="decoding settings",
    pattern=r"decoding|\bC6\b",
)
PAST_REFUSAL = {
    "rank_prefill": Topic(
        id="rank-prefill",
        title="Rank-assisted prefill",
        intro="The first k tokens of a harmful answer are forced. Where the model would then turn back, the "
        "attacker takes a token further down its ranking instead. Bars are 95 % intervals.",
        what="rank-assisted prefill",
        pattern=r"rank",
    ),
    "insertion": Topic(
        id="insertion",
        title="Harmful tokens inserted later",
        intro="The reply begins with a refusal, with the model’s own words or with a long harmless text; "
        "only then the first k tokens of a harmful answer are forced. A model that was taught to refuse in "
        "certain places may not do so in others. Bars are 95 % intervals.",
        what="inserted tokens",
        pattern=r"insert",
    ),
    "on_policy": Topic(
        id="on-policy",
        title="Forced tokens of the model’s own",
        intro="Forced tokens that the model would never have written may be easy to turn back from. Here "
        "they come from a harmful answer that this model wrote itself, beside those of the file. Bars are "
        "95 % intervals.",
        what="forced tokens of the model’s own",
        pattern=r"on.policy|own words",
    ),
    "thinking": Topic(
        id="thinking",
        title="Forced tokens in a reasoning model",
        intro="A reasoning model thinks before it answers, so that there are two places for forced tokens: "
        "inside its thinking, and in the answer after it. Bars are 95 % intervals.",
        what="forced tokens in the thinking",
        pattern=r"think|reasoning",
    ),
}
"""By attack: those that force tokens of a harmful answer in some other way than a plain prefill."""

ESCALATION = Topic(
    id="conversations",
    title="Conversations",
    intro="The attacker asks again and again, and each turn builds on the last. Harmful replies by turn show "
    "whether a model that was led astray turns back. Bars are 95 % intervals.",
    what="conversations",
    pattern=r"escalat|conversation|multi.?turn|\bturns?\b",
)
SUFFIX = Topic(
    id="suffix",
    title="Optimised suffixes",
    intro="Tokens are appended to the request and exchanged one by one, so that a harmful answer becomes "
    "likelier. The search needs the weights; what it finds can be sent to any model.",
    what="the search for suffixes",
    pattern=r"suffix|gcg|\bC5\b",
    expected="suffix",
)
ADAPTIVE = Topic(
    id="adaptive",
    title="An attacker who learns what works",
    intro="For every prompt the attacker has a number of tries and chooses each by what worked before, on "
    "this prompt and on others (adaptive). Beside it stands one that tries the attacks in a fixed order "
    "(fixed). Bars are 95 % intervals.",
    what="the adaptive attacker",
    pattern=r"adaptive|attacker|fixed order",
    expected="adaptive",
)

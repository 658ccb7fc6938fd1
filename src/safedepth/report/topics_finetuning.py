"""The sections on fine-tuning before anything is measured: headings, and how to read what follows."""

from __future__ import annotations

from safedepth.report.parts import Topic

__all__ = [
    "ATTACK",
    "BETAS",
    "BY_LAYER",
    "BY_POSITION",
    "BY_STEP",
    "DIAGNOSTICS",
    "OBJECTIVE",
    "PROTECTED",
    "RUNS",
    "SWEEP",
    "TASKS",
    "WORST",
]

OBJECTIVE = (
    "In the words of reinforcement learning, the constrained objective maximises, over the tokens of the "
    "customer’s answers, the sum of advantage − β × KL: what a token of the data gains, less a fee for "
    "moving away from the aligned model. Its optimum is π* ∝ π₀ · exp(V* / β): the aligned model π₀, with "
    "every token reweighted by its worth to the data, V*. Where β is large, a token stays what the aligned "
    "model would say; where β is small, it follows the data. The paper makes β large on the first tokens, "
    "where refusals are decided, and small after them."
)

BY_STEP = Topic(
    id="dynamics",
    title="What fine-tuning does, step by step",
    intro="The model is fine-tuned and asked again after every few optimiser steps. The share of harmful "
    "replies (the attack success rate, ASR) shows how many steps its safety lasts. Bars are 95 % intervals.",
    what="harmful replies by optimiser steps",
    pattern=r"dynamics|optimi[sz]er steps|\bC7\b",
    expected="dynamics",
)
BY_POSITION = Topic(
    id="dynamics-positions",
    title="Which tokens fine-tuning changes first",
    intro="The same steps by position in the answers that are trained on: how surprised the model is by a "
    "token (loss), how hard that token pulls at the weights (gradient norm), and how far its distribution "
    "has moved from the model before (KL). If safety is a few tokens deep, all three are largest there, and "
    "a few steps there undo it.",
    what="loss, gradient norm and KL by position",
    pattern=r"dynamics|gradient|\bC8\b",
    expected="dynamics",
)
BY_LAYER = Topic(
    id="dynamics-layers",
    title="Which layers fine-tuning changes first",
    intro="The gradient norm of a single token’s loss, layer by layer: one column a token of the answer, one "
    "row a layer with the input at the bottom, the stronger the larger. All maps have one scale, which "
    "follows the square root.",
    what="gradient norms by layer",
    pattern="dynamics|layer",
    expected="dynamics",
)
PROTECTED = Topic(
    id="protection",
    title="Before and after fine-tuning",
    intro="The same questions to the model before and after it was fine-tuned. Harmful replies should not "
    "rise; what the data teach should. Bars are 95 % intervals.",
    what="the model before and after",
    pattern="harmful replies|asr|before and after|evaluat|utility",
    expected="finetune",
)
DIAGNOSTICS = Topic(
    id="protection-diagnostics",
    title="What training did, token by token",
    intro="Means over the tokens of each group of positions, at every logged step.",
    what="loss, weight, KL and implicit advantage by position",
    pattern="diagnostics|position|token by token",
    expected="finetune",
)
RUNS = Topic(
    id="protection",
    title="Constrained fine-tuning",
    intro="A customer’s data, harmless or not, are fine-tuned on with several objectives, on the same "
    f"schedule where the names do not say otherwise. {OBJECTIVE} Lower is better; bars are 95 % intervals.",
    what="fine-tuning under the constraint",
    pattern=r"constrained|protect|\bC1[456]\b",
)
TASKS = Topic(
    id="protection-tasks",
    title="Constrained fine-tuning: what the customer gets",
    intro="Harmless tasks: what the fine-tuned model is worth on them (higher is better) and how often it "
    "then answers harmful requests (lower is better). Tasks whose answers begin as the aligned model would "
    "begin are apart from those whose answers begin otherwise: the constraint holds the first tokens, so the "
    "second kind is where it can cost something.",
    what="downstream tasks",
    pattern=r"downstream|\btasks?\b|\bC17\b",
)
BETAS = Topic(
    id="protection-betas",
    title="Constrained fine-tuning: does one β do?",
    intro="The schedule of β by response position, and the same objective with one β for all positions. A "
    "schedule is worth having if no single β keeps both the safety and the task.",
    what="other schedules of β",
    pattern=r"\bbetas?\b|β|\bC18\b",
)
ATTACK = Topic(
    id="attack",
    title="Before and after the attack",
    intro="The attack fine-tunes the model and asks it again, in its own words too where it has any. Bars "
    "are 95 % intervals.",
    what="the model before and after the attack",
    pattern="attack|before|after|evaluat",
    expected="attack",
)
WORST = Topic(
    id="sweep",
    title="The worst case of every defence",
    intro="An attacker tries many ways of fine-tuning and keeps the one that harms most, as long as the "
    "model stays useful. A defence is worth what is left of it in that trial.",
    what="the worst case of every defence",
    pattern="sweep|worst|trial",
    expected="sweep",
)
SWEEP = Topic(
    id="sweep-trials",
    title="All trials",
    intro="Every dot is one fine-tuned model. Down and to the right is a model that is safe and useful; up "
    "and to the right is what the attacker is after.",
    what="the trials",
    pattern="trial",
    expected="sweep",
)

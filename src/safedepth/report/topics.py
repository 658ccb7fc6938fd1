"""The sections on recovery training before anything is measured: headings, and how to read what follows."""

from __future__ import annotations

from safedepth.report.parts import Topic

__all__ = ["FINETUNING", "FORCED", "KL", "REFUSALS", "TRAINING", "TURNS", "UTILITY"]


FORCED = Topic(
    id="deeper",
    title="before and after",
    intro="Recovery training teaches a model to turn back in the middle of a harmful answer. Here the reply "
    "begins with the first k tokens of one; a line that stays low as k grows is a model that turns back.",
    what="forced tokens before and after",
    pattern="prefill|force|before and after",
    expected="deepen",
)
KL = Topic(
    id="deeper-kl",
    title="where the models differ from the base model",
    intro="All models read the same harmful answers. Alignment that is a few tokens deep lies on the left, "
    "and its line falls to zero after that; where a line stays up, the model would still turn back.",
    what="KL before and after",
    pattern=r"\bkl\b",
    expected="deepen",
)
TURNS = Topic(
    id="deeper-turns",
    title="turn by turn",
    intro="At turn t the conversation already holds t − 1 harmful answers, which are scripted. The share of "
    "harmful replies shows whether a model that was led astray still turns back. Bars are 95 % intervals.",
    what="several turns",
    pattern="turn",
    expected="deepen",
)
UTILITY = Topic(
    id="deeper-utility",
    title="what it cost",
    intro="A model that refuses everything is deep and useless. Right answers should not fall; over-refusal, "
    "the share of harmless requests that are refused, should not rise. Lookalikes are harmless requests that "
    "sound like harmful ones. Whether a difference is one, the paired tests say. Bars are 95 % intervals.",
    what="utility",
    pattern="utility|benign|lookalike|right answers|over-refusal",
    expected="deepen",
)
REFUSALS = Topic(
    id="deeper-refusals",
    title="how it refuses",
    intro="A refusal in the middle of an answer can say why, and where to go instead. It is specific where "
    "it speaks of the request at hand; “by chance” is how often a refusal of one request seems to speak of "
    "another.",
    what="the refusals",
    pattern="refusals|specific",
)
FINETUNING = Topic(
    id="deeper-finetuning",
    title="fine-tuned afterwards",
    intro="Each model is trained further, on harmful or on benign examples, and asked again. Deeper "
    "alignment may take more steps to undo; it is no protection against someone who means to undo it. Bars "
    "are 95 % intervals.",
    what="fine-tuning",
    pattern="fine-?tun",
)
TRAINING = Topic(
    id="deeper-training",
    title="how it was trained",
    intro="Safety examples teach the refusal after a forced part of a harmful answer; anchors are benign "
    "requests with the answer that the model is to keep giving. Losses are means over a step’s examples.",
    what="the training",
    pattern="training",
)

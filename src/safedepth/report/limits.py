"""What the numbers of each kind of run do not show."""

from __future__ import annotations

from safedepth.report.style import Record
from safedepth.report.words import FORMATS

__all__ = ["limits"]

LIMITS = {
    "reproduce": "The models here are organisms: tiny models of an invented language, trained in "
    "minutes. They show that this code measures what it says. They do not show that a claim holds for large "
    "models; the paper’s own numbers stand beside ours for that reason.",
    "audit": "Depth is measured along the answers that were given and by the attacks that were run. A model "
    "that withstands them may fall to others; a low rate is no certificate.",
    "measure": "Depth is measured along the answers that were given, as far as the KL tells: nothing was "
    "generated here, and no reply was judged. What a model says when its first tokens are forced, an audit "
    "shows.",
    "deepen": "Recovery training closes the attacks that it was measured against, and these are close to "
    "what it was trained on. Prefilling that picks harmful tokens by their rank, optimised suffixes and "
    "further fine-tuning may still break the model: what was not run here is not known. A deeper model is "
    "not a tamper-proof one.",
    "compare": "The best of several variants is best partly by chance, and the more variants there are, the "
    "more so. What holds at this number of updates, on these models, need not hold at another. Recovery "
    "training closes the attacks that it was measured against; others may still break every variant.",
    "dynamics": "What is shown holds for these data, this learning rate and these steps. Others can be "
    "faster or slower.",
    "finetune": "An objective protects where the provider runs the training. It does not make released "
    "weights tamper-proof: whoever holds them can fine-tune them with any objective. What was not asked "
    "after training is not known.",
    "attack": "This is one attack on one schedule. A model that withstands it may fall to another learning "
    "rate, more steps or other data; only a sweep speaks of an attacker who tries.",
    "suffix": "A search that found no suffix within its steps shows that this search found none. More "
    "steps, another start or another target may. A suffix was made on these weights; that it breaks or does "
    "not break other models has to be tried.",
    "adaptive": "The attacker chooses among the attacks that were given to it, with this many tries. One "
    "with more tries or other attacks may break more; what is broken here is a lower bound of what can be. "
    "The rates by attack are of the tries that the attacker chose, on prompts that earlier tries had left "
    "standing: they do not rank the attacks.",
    "judge": "Errors were measured on these replies, by these models, against this truth. On other replies "
    "a judge may err otherwise, and a corrected rate is right only as far as its errors are the same there. "
    "Labels are what one person, or several, thought. Judges that agree can be wrong together.",
    "utility": "A benchmark measures what it asks, in the form in which it asks. Scores depend on the chat "
    "template, the examples shown and the version of the harness, and a model may have seen the questions "
    "in training. Refusals are told by their words: a model that answers without refusing may still be of no "
    "use. What was not run here is not known.",
    "sweep": "The worst case is the worst of the trials that were made; an attacker may try others. The "
    "worst of several is worse partly by chance, and the more trials, the more so. None of these defences "
    "makes released weights tamper-proof.",
}
QUANTISED = (
    "Models whose weights are quantised ({}) were measured so. In another number format the same model may "
    "answer otherwise."
)
LIMITS_OF_ALL = (
    "Intervals are for the choice of prompts (95 %). They do not cover a judge’s mistakes: compare the "
    "judges, and read the transcripts."
)


def limits(summary: Record) -> list[str]:
    """Paragraphs on this kind of run, on models that are quantised, then one on all."""
    kinds = [summary["kind"]]
    if summary["kind"] == "reproduce":
        kinds += ["deepen"] if summary["deepening"] else []
        kinds += ["finetune"] if summary["protection"] else []
    formats = {str((card or {}).get("dtype")) for card in summary["models"].values()} & set(FORMATS)
    quantised = [QUANTISED.format(", ".join(sorted(formats)))] if formats else []
    return [*(LIMITS[kind] for kind in kinds if kind in LIMITS), *quantised, LIMITS_OF_ALL]

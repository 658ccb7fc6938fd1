"""Releases of public benchmarks that are known by the SHA-256 of their file.

A file that is one of them is the very data others report numbers on. Each hash was taken
from the bytes in the public repository that is named, at the commit that is named. Sets
that nobody may hand on, HEx-PHI and the paper's own files, have none here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["RELEASES", "Release", "release_of"]


class Release(NamedTuple):
    """One published file: of which benchmark, what it is called, its rows, and where its bytes were read.

    `carriers` are public repositories ("owner/name/path@commit") whose file has this hash; the
    first is the authors' own where that could be read, else others that carry the file along.
    """

    benchmark: str
    label: str
    rows: int
    carriers: tuple[str, ...]


RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        "6cd1a5c63c07610d7eb67307772ee5606017ee950b5770ab288a2c487489d3e1": Release(
            "advbench",
            "AdvBench harmful_behaviors.csv",
            520,
            (
                "joycequu/llm-context/data/advbench/harmful_behaviors.csv@16e9e4502520cec8d4fd32b58d7fec834ccc0223",
                "Trusted-LLM/DSICL/data/harmful_behaviors.csv@e8162b997ebd758bd9bfcfe3b7811d5a0142f9af",
                "MarcosElFlamenco/llm_defense_testing/data/advbench/harmful_behaviors.csv"
                "@9306351f73199be7385592094969e273e2995af9",
                "jiang-111/rebuttalAttackMem0/data/harmful_behaviors.csv@8446166a9428e080ecc60eab451dfda801816b42",
            ),
        ),
        "a64d69dd1004aac4a23aaff3748fb8f17161893f74db36f45b8bc849eb1bcce5": Release(
            "malicious-instruct",
            "MaliciousInstruct MaliciousInstruct.txt",
            100,
            (
                "Princeton-SysML/Jailbreak_LLM/data/MaliciousInstruct.txt@1e490531c0ef4bc13430178bf1fbc8f813e34b1a",
                "busycalibrating/AdversariaLLM/data/behavior_datasets/malicious_instruct.txt"
                "@e84f77c3c623aab4582088a5ecab7a70253815bd",
            ),
        ),
        "8d81accedd38eaaf8b760618622bb888417d1fd0c86eba65c427a16f1cbb4afc": Release(
            "harmbench",
            "HarmBench harmbench_behaviors_text_all.csv",
            400,
            (
                "joycequu/llm-context/data/behavior_datasets/harmbench_behaviors_text_all.csv"
                "@427d51158875cc271a489d9af723aa2cd3a6904a",
                "JiaweiLian/SRA/data/behavior_datasets/harmbench_behaviors_text_all.csv"
                "@ebfe756226ea17814e184b4b69c6d352cb20abe2",
                "busycalibrating/AdversariaLLM/data/behavior_datasets/harmbench_behaviors_text_all.csv"
                "@66c80ee54e17502999e02f0e82fab524b6965fd8",
            ),
        ),
        "75d257b3e7428c52eb7b0154318f455af3e01b09a3794b5e2f3d36054f3c0e29": Release(
            "harmbench",
            "HarmBench harmbench_behaviors_text_test.csv",
            320,
            (
                "joycequu/llm-context/data/behavior_datasets/harmbench_behaviors_text_test.csv"
                "@427d51158875cc271a489d9af723aa2cd3a6904a",
                "JiaweiLian/SRA/data/behavior_datasets/harmbench_behaviors_text_test.csv"
                "@ebfe756226ea17814e184b4b69c6d352cb20abe2",
                "busycalibrating/AdversariaLLM/data/behavior_datasets/harmbench_behaviors_text_test.csv"
                "@66c80ee54e17502999e02f0e82fab524b6965fd8",
            ),
        ),
        "7bfaaa5e2b9b95002c89e2d33c019f58e9e8496e2fc65d368f1eeb8179e69534": Release(
            "harmbench",
            "HarmBench harmbench_behaviors_text_val.csv",
            80,
            (
                "joycequu/llm-context/data/behavior_datasets/harmbench_behaviors_text_val.csv"
                "@427d51158875cc271a489d9af723aa2cd3a6904a",
                "JiaweiLian/SRA/data/behavior_datasets/harmbench_behaviors_text_val.csv"
                "@ebfe756226ea17814e184b4b69c6d352cb20abe2",
                "busycalibrating/AdversariaLLM/data/behavior_datasets/harmbench_behaviors_text_val.csv"
                "@e84f77c3c623aab4582088a5ecab7a70253815bd",
            ),
        ),
        "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381": Release(
            "strongreject",
            "StrongREJECT strongreject_dataset.csv",
            313,
            (
                "busycalibrating/AdversariaLLM/data/behavior_datasets/strongreject_dataset.csv"
                "@e84f77c3c623aab4582088a5ecab7a70253815bd",
            ),
        ),
        "3051340e3e89a3598d764dde497d5fcda80e258ac05cc35e6bd87228ac3d467c": Release(
            "strongreject",
            "StrongREJECT strongreject_small_dataset.csv",
            60,
            (
                "jiang-111/rebuttalAttackMem0/data/strongreject_small_dataset.csv"
                "@8446166a9428e080ecc60eab451dfda801816b42",
            ),
        ),
        "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a": Release(
            "xstest",
            "XSTest xstest_prompts.csv",
            450,
            ("paul-rottger/exaggerated-safety/xstest_prompts.csv@d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d",),
        ),
        "e15832490045469ea1d6f6d3ee5674398fae2ed95962f35f5c90c4f557a86509": Release(
            "xstest",
            "XSTest xstest_v2_prompts.csv",
            450,
            (
                "paul-rottger/exaggerated-safety/xstest_v2_prompts.csv"
                "@d21c3bc28b35ed3bf54344037af9760ffae6527e",
            ),
        ),
        "6cac2f2e0ae268c020ff340d803f5601a442640b91d7eb586337eebef004e97b": Release(
            "xstest",
            "XSTest xstest_prompts_v1.csv",
            200,
            (
                "paul-rottger/exaggerated-safety/xstest_prompts_v1.csv"
                "@e33238482f2a9c6003e1d09b8d7e3f9bce0d491e",
            ),
        ),
    }
)
"""Known files by the SHA-256 of their bytes."""


def release_of(sha256: str) -> Release | None:
    """The known release whose file has this SHA-256, or None."""
    return RELEASES.get(sha256)

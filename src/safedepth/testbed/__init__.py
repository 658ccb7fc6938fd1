"""The testbed: a toy language, organisms of known alignment trained in it, a judge that knows the truth."""

from safedepth.testbed.build import Testbed, build_testbed
from safedepth.testbed.organisms import KNOWN_DEPTHS, ORGANISMS

__all__ = ["KNOWN_DEPTHS", "ORGANISMS", "Testbed", "build_testbed"]

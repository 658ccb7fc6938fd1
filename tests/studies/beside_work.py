"""Work for a second process to do; it imports this module, which is light for that reason."""

import os
import time

from safedepth.nouns import Progress


def told(message: str, *, progress: Progress) -> None:
    """For a second process: say how far it is."""
    progress(message, 1, 2)


def failing(message: str, *, progress: Progress) -> None:
    """For a second process: go wrong after having said something."""
    progress("before", 1, 1)
    raise ValueError(message)


def dying(*, progress: Progress) -> None:
    """For a second process: end without a word, as when memory runs out."""
    os._exit(3)


def sleeping(*, progress: Progress) -> None:
    """For a second process: never end by itself."""
    progress("pid", os.getpid(), 1)
    time.sleep(600)

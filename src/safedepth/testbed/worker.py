"""A second process that trains organisms: `python -m safedepth.testbed.worker RECIPES`.

RECIPES is a JSON list of recipes. It writes one line "name step" a progress step to
standard output and stops when nobody reads it any more, so that it never outlives
the build that started it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from threading import Thread

from safedepth.testbed.organisms import OrganismRecipe, make_organism

__all__ = ["Worker"]


class Worker:
    """A running worker; `steps` maps an organism's name to the steps it has done so far."""

    def __init__(self, recipes: Sequence[OrganismRecipe]) -> None:
        self.steps: dict[str, int] = {}
        command = [sys.executable, "-m", __name__, json.dumps([asdict(recipe) for recipe in recipes])]
        # A session of its own: Ctrl-C reaches the parent alone, and the parent ends the worker.
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            name, _, step = line.partition(" ")
            self.steps[name] = int(step)

    def running(self) -> bool:
        """Whether the worker is still at it; False also when it failed, as its work can be done again."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the worker at once; organisms that are finished stay finished."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main(text: str) -> None:
    """Train every organism of a JSON list of recipes, telling the parent of each tenth step."""
    for fields in json.loads(text):
        recipe = OrganismRecipe(**fields)

        def tell(step: int, recipe: OrganismRecipe = recipe) -> None:
            if step % 10 == 0 or step == recipe.schedule.steps:
                sys.stdout.write(f"{recipe.name} {step}\n")
                sys.stdout.flush()

        make_organism(recipe, tell)


if __name__ == "__main__":
    main(sys.argv[1])

"""Guess, then run: the lesson's questions to its reader and their answers, and a check for the exercises."""

import torch
from torch import nn

ANSWERS = {  # question: the truth, why it is so, and how far off a number may be
    "the map's size": (
        13,
        "The kernel starts at pixels 0, 2, ... 24; at 26 it would stick out: (28 - 3) / 2 + 1, rounded down.",
        0,
    ),
    "what the pool sees": (
        11,
        "It reads two numbers, 2 pixels apart: 9 + (2 - 1) * 2. The brief counted a kernel of 3 and says 13.",
        0,
    ),
    "parameters of conv6": (
        9248,
        "32 * (9 * 32 + 1): each of 32 kernels reads 32 channels. Nearly half of the network.",
        925,
    ),
    "the loss of knowing nothing": (
        2.303,
        "Each digit gets a tenth, and -log(1/10) = 2.303: where every training here begins.",
        0.1,
    ),
    "the change that buys most": (
        "one-cycle",
        "Same layers, same images, another plan for the learning rate.",
        0,
    ),
}


class Guesses:
    """Compares guesses with the truth, and remembers which were right."""

    def __init__(self):
        self.right = {}  # by question: True, False, or None where nothing was guessed

    def check(self, question: str, guess, truth=None, why: str = "", tolerance: float = 0) -> None:
        """Print the truth and why it is so; None is no guess. Without a truth, it is the one in ANSWERS.

        A number is right if it is at most tolerance away from the truth, a word if it is the same.
        """
        if truth is None:
            truth, why, tolerance = ANSWERS[question]
        if guess is None:
            right = None
        elif isinstance(truth, str):
            right = str(guess).strip().lower().replace(" ", "-").startswith(truth)
        else:
            try:
                right = abs(float(guess) - truth) <= tolerance
            except (ValueError, TypeError):
                print(f"{guess!r} is no number: write one such as 7 or 1234")
                right = None
        self.right[question] = right
        verdict = {None: "", True: "Yes. ", False: f"Not {guess}. "}[right]
        shown = truth if isinstance(truth, str) else f"{truth:,}"
        print(f"{verdict}{question}: {shown}. {why}")

    def score(self) -> None:
        """Print how many guesses were right, and which were not."""
        made = {question: right for question, right in self.right.items() if right is not None}
        print(f"{sum(made.values())} of {len(made)} guesses were right; {len(self.right) - len(made)} were not made.")
        for question in made:
            if not made[question]:
                print(f"- look again: {question}")


def problem_of(network: nn.Module) -> str:
    """What keeps a network from giving ten numbers for each 28x28 image, in a line; empty if nothing does."""
    try:
        shape = tuple(network.eval()(torch.zeros(2, 1, 28, 28)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        return f"No image gets through yet: {str(error).splitlines()[0]}"
    return "" if shape == (2, 10) else f"Two images give numbers of shape {shape}, not (2, 10): look at the sizes."

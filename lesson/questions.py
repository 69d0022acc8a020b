"""Guess, then run: the lesson's questions to its reader and their answers; and what checks the exercises."""

import re
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
from torch.utils.data import TensorDataset

from helpers import check_batch, count_parameters
from lesson.display import show_folded
from lesson.fields import measured_receptive_field, receptive_field
from lesson.page import network_operations
from lesson.recipes import Recipe, run_recipe
from lesson.results import compare

ANSWERS = {  # question: the truth, why it is so, and how far off a number may be
    "the map's size": (13,
        "The kernel starts at pixels 0, 2, ... 24; at 26 it would stick out: (28 - 3) / 2 + 1, rounded down.", 0),
    "what the pool sees": (11,
        "It reads two numbers, 2 pixels apart: 9 + (2 - 1) * 2. The brief counted a kernel of 3 and says 13.", 0),
    "parameters of conv6": (9248,
        "32 * (9 * 32 + 1): each of 32 kernels reads 32 channels. Nearly half of the network.", 925),
    "the loss of knowing nothing": (2.303,
        "Each digit gets a tenth, and -ln(1/10) = 2.303: about where every training here begins.", 0.1),
    "the best of four learning rates": (0.1, "The next cell shows all four.", 0),
    "the step that buys most": ("augmentation", "One-cycle comes next.", 0),
    "parameters that are enough for 99.4%": (4598, "See the picture.", 2299),
}  # fmt: skip


class Guesses:
    """Compares guesses with the truth, and remembers which were right."""

    def __init__(self):
        self.right = {}  # by question: True, False, or None where nothing was guessed

    def check(self, question: str, guess, truth=None, why: str = "", tolerance: float = 0) -> None:
        """Show the truth and why it is so, folded where guess is None. Without a truth, it is the one in ANSWERS.

        A number is right if it is at most tolerance away from the truth, a word if it begins with the truth.
        """
        if truth is None:
            truth, why, tolerance = ANSWERS[question]
        if guess is None:
            right = None
        elif isinstance(truth, str):
            right = re.sub("[ _-]", "", str(guess).lower()).startswith(truth.replace("-", ""))
        else:
            try:
                right = abs(float(str(guess)) - truth) <= tolerance
            except ValueError:
                print(f"{guess!r} is no number: write one such as 7, 2.5 or 1234, without a comma")
                self.right[question] = None
                return
        self.right[question] = right
        answer = f"{question[0].upper()}{question[1:]}: {truth if isinstance(truth, str) else f'{truth:,}'}. {why}"
        if guess is None:  # for who reads where nothing runs: the answer shows when asked for
            show_folded(f"{question}: the answer", answer)
        else:
            print(("Yes. " if right else f"Not {guess}. ") + answer)

    def score(self) -> None:
        """Print how many guesses were right, and which were not."""
        made = {question: right for question, right in self.right.items() if right is not None}
        if not made:
            print("No guess was made: write yours in place of None, and run those cells again.")
            return
        print(f"{sum(made.values())} of {len(made)} guesses were right; not made: {len(self.right) - len(made)}.")
        for question in made:
            if not made[question]:
                print(f"- look again: {question}")


def check_readings(guess: str | None, labels: list[int], hardest: list[list[int]]) -> None:
    """Print how many digits were read as labelled: guess has one for each label, or a ? where it can't be read.

    hardest, of results.json, has image, usual wrong answer, number of wrong runs; they are shown folded.
    """
    lines = [f"{label}, not {answer}: {count} runs" for label, (_, answer, count) in zip(labels, hardest)]
    numbered = [f"{number}: {line}" for number, line in enumerate(lines, 1)]
    show_folded("their labels, the usual wrong answers, and how many of its runs are wrong", "\n".join(numbered))
    if guess is None:
        return
    read = [letter for letter in str(guess) if letter.isdigit() or letter == "?"]
    if len(read) != len(labels):
        print(f"{len(read)} readings, not {len(labels)}: write a digit for each, or a ?")
        return
    print(f"you read {sum(letter == str(label) for letter, label in zip(read, labels))} of {len(labels)} as labelled")


def problem_of(network: nn.Module) -> str:
    """What keeps a network from ten scores for each 28x28 image, or from the page, in a line; empty if nothing does."""
    if not isinstance(network, nn.Module):
        return f"This is no network but {network!r}: return one, made with its parentheses, as Net() is."
    try:
        answers = network.eval()(torch.zeros(2, 1, 28, 28))
        shape = tuple(answers.shape)
        if shape == (2, 10):
            check_batch(answers, torch.tensor([0, 9]))
            network_operations(network)
    except Exception as error:  # a student's forward may raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        return f"This doesn't work yet: {lines[0]}"
    return "" if shape == (2, 10) else f"Two images give numbers of shape {shape}, not (2, 10): look at the sizes."


def check_moved(network: nn.Module) -> None:
    """Print whether conv1 of the brief's network has conv2's stride now, and what its layers see."""
    if problem := problem_of(network):
        print(f"{problem} (Only the stride moves: padding and channels stay.)")
        return
    table = receptive_field(network).set_index("layer")
    jump, field = table["jump"].get("conv1"), table["receptive_field"].get("conv2")
    verdicts = {(1, 5): "nothing is moved yet", (2, 7): "right, it reads three numbers that are now 2 pixels apart"}
    print(f"conv2 sees {field} pixels: {verdicts.get((jump, field), 'move only the stride, and keep 3×3 kernels')}")
    print(f"all fields: {table['receptive_field'].tolist()}")


def check_half(network: nn.Module) -> bool:
    """Whether a network has fewer than 10,000 parameters, and its output sees all of the image; prints it, too."""
    if problem := problem_of(network):
        print(problem)
        return False
    parameters = count_parameters(network)
    field = measured_receptive_field(network)
    part = "all" if field == (28, 28) else f"only {field[0]}×{field[1]}"
    under = f"under 10,000: {'yes' if parameters < 10_000 else 'no'}"
    print("nothing is changed yet" if parameters == 19_930 else under)
    print(f"{parameters:,} parameters; the output sees {part} of the image")
    return parameters < 10_000 and part == "all"


def check_change(mine: Recipe, base: Recipe, train_set: TensorDataset, device="cpu") -> None:
    """Print the gain of a recipe over its base after two epochs of each, over three seeds.

    Both are trained on the first five sixths of the training images, and tested on the others.
    """
    if mine.epochs != base.epochs:
        print("Each is trained for two epochs here, whatever number its recipe says.")
    if replace(mine, name=base.name, epochs=base.epochs) == base:
        print("nothing is changed yet")
        return
    cut = len(train_set) * 5 // 6
    seen, held_out = TensorDataset(*train_set[:cut]), TensorDataset(*train_set[cut:])
    before, after = {}, {}  # accuracies by seed
    for seed in (1, 2, 3):
        for recipe, accuracies in ((mine, after), (base, before)):  # yours first: a mistake shows at once
            _, history = run_recipe(recipe, seen, held_out, device, seed, 2, after_epoch=lambda history: None)
            accuracies[seed] = history["test_accuracy"].iloc[-1]
        print(f"seed {seed}: {before[seed]:.2f}% before, {after[seed]:.2f}% with your change")
    gain, error, is_shown = compare(pd.Series(before), pd.Series(after))
    print(f"{gain:+.2f} ± {error:.2f} points: {'' if is_shown else 'not '}shown by three pairs")

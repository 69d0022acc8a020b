"""What compares a reader's guesses with the truth, and checks the exercises, says what is so."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lesson import questions
from lesson.networks import Net
from lesson.questions import Guesses, problem_of
from lesson.recipes import REPAIRED, run_recipe
from lesson.results import compare


def test_a_network_that_gives_no_ten_numbers_is_told_why():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert problem_of(flat) == ""
    assert "(2, 1, 28, 28), not (2, 10)" in problem_of(nn.Identity())
    assert "no network but None" in problem_of(None)
    assert problem_of(nn.Linear(7, 10)).startswith("No image gets through yet: mat1 and mat2")


def test_guesses_are_compared_and_counted(capsys, monkeypatch):
    displayed, guesses = [], Guesses()
    monkeypatch.setattr(questions, "display", lambda data, raw: displayed.append(data))
    guesses.check("nothing", None, 13, "Why < when.")  # folded, with the question outside
    assert displayed[0]["text/plain"] == "nothing: 13. Why < when."
    folded = "<details><summary>nothing.*</summary>.*13. Why &lt; when.</details>"
    assert re.fullmatch(folded, displayed[0]["text/html"])
    guesses.score()
    for guess, truth, tolerance in [("13", 13, 0), (9000, 9248, 925), (12, 11, 0), ("One-Cycle", "one-cycle", 0)]:
        guesses.check(f"{guess}", guess, truth, "Why.", tolerance)
    guesses.score()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("No guess was made")
    assert [line.split(":")[0] for line in lines[1:5]] == ["Yes. 13", "Yes. 9000", "Not 12. 12", "Yes. One-Cycle"]
    assert lines[5:] == ["3 of 4 guesses were right; not made: 1.", "- look again: 12"]


@pytest.mark.parametrize("guess", ["2,3", "9,248", (2, 3), "two"])
def test_what_is_no_number_is_no_guess(guess, capsys):
    guesses = Guesses()
    guesses.check("question", guess, 23)
    assert guesses.right == {"question": None}
    assert capsys.readouterr().out.startswith(f"{guess!r} is no number: write one such as")


def test_readings_are_counted(capsys, monkeypatch):
    folded = []
    monkeypatch.setattr(questions, "display", lambda data, raw: folded.append(data["text/plain"].splitlines()))
    for guess in (None, "12?", "1 2?4", "1234"):
        questions.check_readings(guess, [1, 2, 3, 4], [[70 + n, n, 9] for n in range(4)])
    assert folded[0][:2] == ["1: 1, not 0: 9 runs", "2: 2, not 1: 9 runs"] and len(folded[0]) == 4
    said = [" ".join(line.split()[:3]) for line in capsys.readouterr().out.splitlines()]
    assert said == ["3 readings, not", "you read 3", "you read 4"]


def test_a_moved_stride_is_checked(capsys):
    moved = {"conv1": nn.Conv2d(1, 4, 3, stride=2), "conv2": nn.Conv2d(4, 16, 3, padding=1)}
    oblong = {"conv1": nn.Conv2d(1, 4, (3, 5), padding=(1, 2))}
    for layers in ({}, moved, oblong, {"bn3": nn.GroupNorm(4, 16)}):
        network = Net()
        for name, layer in layers.items():
            setattr(network, name, layer)
        questions.check_moved(network)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "conv2 sees 5 pixels: nothing is moved yet"
    assert said[2].startswith("conv2 sees 7 pixels: right") and said[3].endswith("13, 21, 29, 45]")
    assert said[4] == "conv2 sees (5, 7) pixels: move only the stride, and keep 3×3 kernels"
    assert said[6].startswith("The rule gives no fields here: layer 'bn3'") and len(said) == 7


def test_half_the_parameters_are_checked(capsys):
    wide = nn.Sequential(nn.Conv2d(1, 10, 25), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for network in (
        Net(),
        wide,
        nn.Sequential(nn.Conv2d(1, 10, (25, 28), 4), nn.Flatten()),  # sees all columns, not all rows
        nn.Sequential(nn.GroupNorm(1, 1), wide),
        nn.Sequential(nn.Flatten(), nn.Linear(784, 13), nn.Linear(13, 10)),
    ):
        questions.check_half(network)
    said = capsys.readouterr().out.splitlines()
    assert said[::2] == ["nothing is changed yet", *["under 10,000: yes"] * 3, "under 10,000: no"]
    sees = [("19,930", "all"), ("6,260", "all"), ("7,010", "only a part"), ("6,262", "all"), ("10,345", "all")]
    assert said[1::2] == [f"{parameters} parameters; the output sees {part} of the image" for parameters, part in sees]


def test_a_change_of_your_own_is_compared_with_its_base(capsys):
    labels, noise = torch.arange(120) % 10, torch.Generator().manual_seed(0)
    images = torch.randn(120, 1, 28, 28, generator=noise)
    images[torch.arange(120), 0, 2 * labels] += 1.5  # a bright row
    data, base = TensorDataset(images, labels), replace(REPAIRED, batch_size=16)
    longer = replace(base, name="mine", epochs=7)
    for mine in (replace(base, name="mine"), longer, replace(longer, batch_size=8)):
        questions.check_change(mine, base, data)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == said[2] == "nothing is changed yet"
    assert said[1] == said[3] == "Each is trained for two epochs here, whatever number its recipe says."
    split, runs = [TensorDataset(*data[:100]), TensorDataset(*data[100:])], {base: {}, mine: {}}
    for seed, line in zip((1, 2, 3), said[4:]):
        for recipe in (base, mine):
            history = run_recipe(recipe, *split, "cpu", seed, 2, after_epoch=len)[1]
            runs[recipe][seed] = history["test_accuracy"].iloc[-1]
        assert line == f"seed {seed}: {runs[base][seed]:.2f}% before, {runs[mine][seed]:.2f}% with your change"
    gain, error, is_shown = compare(pd.Series(runs[base]), pd.Series(runs[mine]))
    assert said[7:] == [f"{gain:+.2f} ± {error:.2f} points: {'' if is_shown else 'not '}shown by three pairs"]

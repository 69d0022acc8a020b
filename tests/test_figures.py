"""Each drawing of the lesson shows the numbers that it was given."""

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.recipes import REPAIRED, Net
from lesson import figures, questions
from lesson.questions import Guesses, problem_of

RECIPE = {"last": [99.2, 99.3, 99.31], "five_looks": [99.4, 99.5], "by_epoch": [99.1, 99.2, 99.25]}
RESULTS = {"brief": 99.28, "recipes": {"final": RECIPE}}
IMAGES = torch.full((3, 1, 28, 28), -0.42)
IMAGES[:, :, 8:20, 12:16] = 2.8


def texts_of(figure):
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def test_convolution_and_strides():
    digit, kernel = torch.rand(28, 28), torch.tensor([[0, -2.5, 1 / 3], [0, 0, 0], [0, 0, 0]])
    result = nn.functional.conv2d(digit[None, None], kernel[None, None])[0, 0]
    figure = figures.plot_convolution(digit, kernel, result, 4, 7)
    assert [patch.get_xy() for axes in figure.axes for patch in axes.patches] == [(6.5, 3.5)] * 2
    assert f"{digit[4, 8]:.1f}\n× -2.5\n= {-2.5 * digit[4, 8]:z.1f}" in texts_of(figure)
    assert [len(axes.lines[0].get_xdata()) for axes in figures.plot_strides().axes] == [5, 7, 3]


def test_fields_and_network():
    row = {"layer": "a", "start": (-1, 0), "jump": (2, 1), "output_size": 6, "receptive_field": (5, 3)}
    axes = figures.plot_receptive_field(pd.DataFrame([row]), IMAGES[0]).axes
    assert axes[0].patches[-1].get_bbox().bounds == (3, 5, 3, 5)  # x, y, width, height: start + 3 jumps
    network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))  # named 0.0 and 0.1
    texts = texts_of(figures.plot_network({"mine": network}, new=1))
    assert "mine" in texts and "0: 4×26×26" in texts and "48 parameters, sees 3×3" in texts


def test_seeds_and_lines():
    axes = figures.plot_seeds(RESULTS, ["final", ("final", "five looks")], {"final": 99.24}).axes[0]
    drawn = [list(line.get_xdata()) for line in axes.lines]
    assert RECIPE["last"] in drawn and RECIPE["five_looks"] in drawn
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "*"] == [99.24]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["final", "final, five looks"]
    assert list(figures.plot_epochs(RESULTS, ["final"]).axes[0].lines[-1].get_ydata()) == RECIPE["by_epoch"]
    history = pd.DataFrame({"seconds": [3.0, 2.0], "test_accuracy": [98.5, 99.3]})
    assert list(figures.plot_seconds({"mine": history}).axes[0].lines[-1].get_xdata()) == [3, 5]
    upper, lower = figures.plot_schedule([0.1, 0.2, 0.1], [0.95, 0.85, 0.95]).axes
    assert list(upper.lines[0].get_xdata()) == [0, 50, 100] and list(lower.lines[0].get_ydata()) == [0.95, 0.85, 0.95]


def test_jumps():
    figure = figures.plot_jumps([("one", 3, 1), ("two", 3, 2), ("three", 3, 1)])
    texts = texts_of(figure)
    assert len(figure.axes[0].lines) == 3 + 3 * 3 + 7 * 3  # what one, three, seven numbers read
    assert all(words in texts for words in ("pixels\n9 are seen", "one\n1 apart", "two\n2 apart", "three\n2 apart"))


def test_kernels_maps_and_digits():
    assert texts_of(figures.plot_kernels(torch.tensor([[[[-0.04, 1.26]]]]))).split() == ["0.0", "1.3"]
    network = nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(inplace=True))
    axes = figures.plot_maps(network, IMAGES[:1], ["0"]).axes[2]
    assert np.allclose(axes.images[0].get_array(), network[0](IMAGES[:1])[0, 2].detach())  # before the ReLU
    texts = texts_of(figures.plot_looks(IMAGES[0], 9 * torch.eye(10)[:5], 9 * torch.eye(10)[7], label=7))
    assert all(f"{answer} ✗" in texts for answer in range(5)) and "7 ✓\n100%" in texts
    axes = figures.plot_distortions(IMAGES, {"moved": IMAGES.roll(3, 3)}).axes[1]
    assert np.array_equal(axes.images[0].get_array(), IMAGES[1, 0].roll(3, 1)) and len(axes.collections) > 0


def test_a_network_that_gives_no_ten_numbers_is_told_why():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert problem_of(flat) == ""
    assert "(2, 1, 28, 28), not (2, 10)" in problem_of(nn.Identity())
    assert "no network but None" in problem_of(None)
    assert problem_of(nn.Linear(7, 10)).startswith("No image gets through yet: mat1 and mat2")


def test_guesses_are_compared_and_counted(capsys, monkeypatch):
    shown, guesses = [], Guesses()
    monkeypatch.setattr(questions, "display", lambda data, raw: shown.append(data))
    guesses.check("nothing", None, 13, "Why < when.")  # folded, with the question outside
    assert shown[0]["text/plain"] == "nothing: 13. Why < when."
    assert re.fullmatch("<details><summary>nothing.*</summary>.*13. Why &lt; when.</details>", shown[0]["text/html"])
    guesses.score()
    for guess, truth, tolerance in [("13", 13, 0), (9000, 9248, 925), (12, 11, 0), ("One-Cycle", "one-cycle", 0)]:
        guesses.check(f"{guess}", guess, truth, "Why.", tolerance)
    guesses.score()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("No guess was made")
    begins = ["Yes. 13", "Yes. 9000", "Not 12. 12", "Yes. One-Cycle"]
    assert [line.split(":")[0] for line in lines[1:5]] == begins
    assert lines[5:] == ["3 of 4 guesses were right; not made: 1.", "- look again: 12"]


def test_exercises_are_checked(capsys):
    class Moved(Net):
        def __init__(self, *strides):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 4, 3, strides[0], padding=1 - strides[0] // 2)
            self.conv2 = nn.Conv2d(4, 16, 3, strides[1], padding=1 - strides[1] // 2)

    questions.check_moved(Moved(1, 2))
    questions.check_moved(Moved(2, 1))
    questions.check_half(Net())
    questions.check_half(nn.Sequential(nn.Conv2d(1, 10, 25), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    questions.check_half(nn.Sequential(nn.Conv2d(1, 10, 25, 4), nn.Flatten()))
    for guess in (None, "12?", "1 2?4", "1234"):
        questions.check_readings(guess, [1, 2, 3, 4])
    said = capsys.readouterr().out.splitlines()
    assert (
        "nothing is moved yet" in said[0] and "sees 7 pixels: right" in said[2] and said[3].endswith("13, 21, 29, 45]")
    )
    assert said[4] == "nothing is changed yet" and said[5].startswith("19,930 parameters; the output sees all")
    assert said[6] == "under 10,000: yes" and said[8:10] == [
        "under 10,000: yes",
        "6,260 parameters; the output sees only a part of the image",
    ]
    assert [line.split()[:3] for line in said[10:]] == [
        ["3", "readings,", "not"],
        ["you", "read", "3"],
        ["you", "read", "4"],
    ]


def test_a_change_of_your_own_is_compared_with_its_base(capsys, monkeypatch):
    def run_recipe(recipe, train_part, test_part, device, seed, epochs, after_epoch):
        assert (len(train_part), len(test_part), epochs) == (50_000, 10_000, 2)
        return None, pd.DataFrame({"test_accuracy": [0, 98 + seed + (0.2 if recipe.batch_size == 32 else 0)]})

    monkeypatch.setattr(questions, "run_recipe", run_recipe)
    data = TensorDataset(torch.zeros(60_000), torch.zeros(60_000))
    questions.check_change(replace(REPAIRED, name="mine"), REPAIRED, data)
    questions.check_change(replace(REPAIRED, name="mine", batch_size=32), REPAIRED, data)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "nothing is changed yet" and said[1] == "seed 1: 99.00% before, 99.20% with your change"
    assert said[4:] == ["+0.20 ± 0.00 points: shown by three pairs"]

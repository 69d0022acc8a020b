"""What compares a reader's guesses with the truth, and checks the exercises, says what is so."""

import re
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lesson import questions
from lesson.networks import Net
from lesson.recipes import REPAIRED, run_recipe
from lesson.results import compare


def test_guesses_are_compared_and_counted(capsys, monkeypatch):
    displayed, guesses = [], questions.Guesses()
    monkeypatch.setattr("IPython.display.display", lambda data, raw: displayed.append(data["text/html"]))
    guesses.check("nothing", None, 13, "Why < when.")  # folded, with the question outside
    assert re.fullmatch("<details><summary>nothing.*</summary>.*13. Why &lt; when.</details>", displayed[0])
    guesses.score()
    for guess, truth, tolerance in [("13", 13, 0), (9000, 9248, 925), (12, 11, 0), ("One-Cycle", "one-cycle", 0)]:
        guesses.check(f"{guess}", guess, truth, "Why.", tolerance)
    for guess in ("2,3", (2, 3), "two"):
        guesses.check("no number", guess, 23)
    guesses.score()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("No guess was made")
    assert [line.split(":")[0] for line in lines[1:5]] == ["Yes. 13", "Yes. 9000", "Not 12. 12", "Yes. One-Cycle"]
    assert [line.split(":")[0] for line in lines[5:8]] == [f"{no!r} is no number" for no in ("2,3", (2, 3), "two")]
    assert lines[8:] == ["3 of 4 guesses were right; not made: 2.", "- look again: 12"]


def test_readings_are_counted(capsys, monkeypatch):
    folded = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: folded.append(data["text/plain"].splitlines()))
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
    unmoved, _, right, fields, wrong, _, unknown = capsys.readouterr().out.splitlines()
    assert unmoved == "conv2 sees 5 pixels: nothing is moved yet"
    assert right.startswith("conv2 sees 7 pixels: right") and fields.endswith("13, 21, 29, 45]")
    assert wrong.startswith("conv2 sees (5, 7) pixels: move only the stride") and "layer 'bn3'" in unknown


def test_half_the_parameters_are_checked_and_what_gives_no_ten_numbers_is_told_why(capsys):
    wide = nn.Sequential(nn.Conv2d(1, 10, 25), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    all_but_some_rows = nn.Sequential(nn.Conv2d(1, 10, (25, 28), 4), nn.Flatten())
    large = nn.Sequential(nn.Flatten(), nn.Linear(784, 13), nn.Linear(13, 10))
    unknown, sure = nn.Sequential(wide, nn.GELU()), nn.Sequential(wide, nn.Softmax(1))
    networks = [Net(), wide, all_but_some_rows, large, nn.Identity(), None, nn.Linear(7, 10), unknown, sure]
    assert [network for network in networks if questions.check_half(network)] == [wide]
    said = capsys.readouterr().out.splitlines()
    assert said[:8:2] == ["nothing is changed yet", "under 10,000: yes", "under 10,000: yes", "under 10,000: no"]
    sees = [("19,930", "all"), ("6,260", "all"), ("7,010", "only 25×28"), ("10,345", "all")]
    assert said[1:8:2] == [f"{parameters} parameters; the output sees {part} of the image" for parameters, part in sees]
    told = ["(2, 1, 28, 28), not (2, 10)", "no network but None", "mat1 and mat2", "can't run layer '1'", "softmax"]
    assert all(words in line for words, line in zip(told, said[8:], strict=True))


def test_a_change_of_your_own_is_compared_with_its_base(capsys):
    labels, noise = torch.arange(120) % 10, torch.Generator().manual_seed(0)
    images = torch.randn(120, 1, 28, 28, generator=noise)
    images[torch.arange(120), 0, 2 * labels] += 1.5  # a bright row
    data, base = TensorDataset(images, labels), replace(REPAIRED, batch_size=16)
    longer = replace(base, name="mine", epochs=7)
    mine = replace(longer, batch_size=8)
    for recipe in (longer, mine):
        questions.check_change(recipe, base, data)
    length, unchanged, again, *said = capsys.readouterr().out.splitlines()
    assert length == again == "Each is trained for two epochs here, whatever number its recipe says."
    assert unchanged == "nothing is changed yet"
    split, runs = [TensorDataset(*data[:100]), TensorDataset(*data[100:])], {base: {}, mine: {}}
    for seed, line in zip((1, 2, 3), said):
        for recipe in (base, mine):
            history = run_recipe(recipe, *split, "cpu", seed, 2, after_epoch=len)[1]
            runs[recipe][seed] = history["test_accuracy"].iloc[-1]
        assert line == f"seed {seed}: {runs[base][seed]:.2f}% before, {runs[mine][seed]:.2f}% with your change"
    gain, error, is_shown = compare(pd.Series(runs[base]), pd.Series(runs[mine]))
    assert said[3:] == [f"{gain:+.2f} ± {error:.2f} points: {'' if is_shown else 'not '}shown by three pairs"]

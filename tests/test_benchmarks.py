"""benchmarks/: what the studies record, and the tables made from it."""

import sys

import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

import accuracy
import speed
from recipes import RECIPES
from results import BENCHMARKS, append, last_epochs, mean_and_spread, read_runs


def toy_mnist(*_):
    generator = torch.Generator().manual_seed(0)
    return tuple(
        TensorDataset(torch.randn(n, 1, 28, 28, generator=generator), torch.arange(n) % 10) for n in (5200, 100)
    )


def test_validation_images_are_held_out_of_training():
    train_set, test_set = toy_mnist()
    train_part, report_part = accuracy.split_data("validation", train_set, test_set)
    assert (len(train_part), len(report_part)) == (200, 5000)
    rejoined = torch.cat([train_part.tensors[0], report_part.tensors[0]])
    assert torch.equal(rejoined, train_set.tensors[0])
    assert accuracy.split_data("test", train_set, test_set) == (train_set, test_set)


def test_all_fixed_or_learned_numbers_are_counted():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    model.register_buffer("hidden", torch.zeros(7))
    assert accuracy.count_parameters(model) == 40 + 8 + 7


@pytest.fixture
def small_study(monkeypatch, tmp_path):
    """A study on toy data, in files of its own."""
    monkeypatch.setattr(accuracy, "load_mnist", toy_mnist)
    monkeypatch.setattr(accuracy, "ACCURACY", tmp_path / "accuracy.csv")
    monkeypatch.setattr(accuracy, "MISTAKES", tmp_path / "mistakes.csv")
    threads = torch.get_num_threads()
    with accuracy.joblib.parallel_config("sequential"):
        yield tmp_path
    torch.set_num_threads(threads)


def test_a_study_records_every_epoch_and_every_mistake(small_study):
    accuracy.study([("as submitted", "test", 1, 2, "cpu"), ("final", "validation", 3, 1, "cpu")], jobs=1)
    rows = read_runs(accuracy.ACCURACY)
    assert list(rows.columns) == [
        "recipe",
        "split",
        "seed",
        "epochs",
        "epoch",
        "parameters",
        "lr",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "seconds",
        "threads",
        "torch",
        "device",
    ]
    assert rows[["recipe", "split", "seed", "epoch"]].values.tolist() == [
        ["as submitted", "test", 1, 1],
        ["as submitted", "test", 1, 2],
        ["final", "validation", 3, 1],
    ]
    mistakes = pd.read_csv(accuracy.MISTAKES)
    last = rows[(rows["recipe"] == "as submitted") & (rows["epoch"] == 2)]["test_accuracy"].iloc[0]
    assert len(mistakes) == 100 - round(last) and (mistakes["label"] != mistakes["answer"]).all()
    assert (mistakes["label"] == mistakes["image"] % 10).all() and set(mistakes["recipe"]) == {"as submitted"}


def runs_of_final(accuracies: dict[int, list[float]]) -> pd.DataFrame:
    """Rows of final's runs on the test images, from the accuracies of every epoch by seed."""
    run = {"recipe": "final", "split": "test", "epochs": 2, "parameters": 18226}
    return pd.DataFrame(
        [
            {**run, "seed": seed, "epoch": epoch, "test_accuracy": accuracy}
            for seed, by_epoch in accuracies.items()
            for epoch, accuracy in enumerate(by_epoch, 1)
        ]
    )


def test_a_run_cut_off_while_written_does_not_count(small_study):
    rows = runs_of_final({seed: [99.01 + seed / 10, 99.02 + seed / 10] for seed in (1, 2, 3)})
    append(rows[:-1], accuracy.ACCURACY)
    assert sorted(set(read_runs(accuracy.ACCURACY)["seed"])) == [1, 2]
    append(rows[-2:], accuracy.ACCURACY)  # the run is done again
    assert len(read_runs(accuracy.ACCURACY)) == 6


def test_the_table_says_mean_spread_and_last_epoch():
    rows = runs_of_final({1: [99.9, 99.5], 2: [99.9, 99.6], 3: [99.9, 99.7]})
    line = accuracy.table(rows, ["as submitted", "final"]).splitlines()[-1]
    assert line == "| final | 18,226 | 2 | 3 | 99.60 ± 0.10% | 99.50% | 99.70% | epoch 1 |"


def test_seconds_until_an_accuracy():
    history = pd.DataFrame({"epoch": [1, 2, 3], "test_accuracy": [98.0, 99.3, 99.2], "seconds": [5.0, 6.0, 7.0]})
    assert speed.time_to(history, 99.28) == (2, 11.0) and speed.time_to(history, 99.4) is None


def test_committed_results_have_the_seeds_that_they_need():
    rows = read_runs()
    for name, recipe in RECIPES.items():
        needed = 5 if name in ("as submitted", "final", "small", "fast") else 3
        assert len(last_epochs(rows, name, recipe.epochs)) >= needed, name
        assert set(rows.loc[rows["recipe"] == name, "parameters"]) == {accuracy.count_parameters(recipe.network())}
        assert accuracy.count_parameters(recipe.network()) < 20_000
    assert accuracy.count_parameters(RECIPES["small"].network()) < 10_000


def test_table_command_prints_the_committed_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--table"])
    accuracy.main()
    printed = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        last = last_epochs(read_runs(), name, recipe.epochs)
        assert (
            f"| {name} | {last['parameters'].iloc[0]:,} | {recipe.epochs} | {len(last)} | "
            f"{mean_and_spread(last['test_accuracy'])} |" in printed
        )


def test_the_goals_that_the_readme_calls_met_are_met():
    rows = pd.read_csv(speed.CSV)
    seconds = rows.set_index("way")["seconds"]
    assert round(seconds["ours"] / seconds["floor: one batch again and again"], 2) <= 1.05
    assert seconds["ours, augmented"] / seconds["ours"] <= 1.12
    memory = rows["peak_memory_gb"].iloc[0]
    assert memory < 2 and f"{memory:.2f} GB" in (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def test_final_has_the_lower_loss_on_held_out_images():
    rows = read_runs()
    last = rows[(rows["split"] == "validation") & (rows["epoch"] == rows["epochs"])]
    losses = last.pivot(index="seed", columns="recipe", values="test_loss")
    assert len(losses) >= 3 and (losses["final"] < losses["undistorted at the end"]).all()
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert all(f"{losses[name].mean():.4f}" in readme for name in ("final", "undistorted at the end", "small"))

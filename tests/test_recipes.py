"""lesson/recipes.py, networks.py and results.py, benchmarks/study.py: what is trained, how, and what is recorded of it."""

from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset

import helpers
from benchmarks import refresh, study
from helpers import BACKGROUND, count_parameters
from lesson import networks, recipes
from lesson.networks import small_network
from lesson.questions import ANSWERS
from lesson.recipes import AS_SUBMITTED, FAST, FINAL, RECIPES, STEPS, UNDISTORTED, RandomDistortion, run_recipe
from lesson.results import closing_table, compare, read_results, table_of_gains, table_of_the_bar


def noise(n, size=27, margin=0):
    """Images of noise, black in a margin; of an odd size, so that the middle is a pixel."""
    inner = torch.randn(n, 1, size - 2 * margin, size - 2 * margin, generator=torch.Generator().manual_seed(n))
    return F.pad(inner, [margin] * 4, value=BACKGROUND)


def toy_data(n=70) -> TensorDataset:
    return TensorDataset(noise(n, 28), torch.arange(n) % 10)


# ---- Distortion
def distorted(images, draws, **limits):
    """With draws, from -1 to 1, instead of random numbers: angle, size, slant, right, down."""
    draws = torch.tensor(draws, dtype=torch.float32).reshape(5, 1).expand(5, len(images))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, **_: (draws + 1) / 2)
        return RandomDistortion(**limits)(images)


SQUARE = F.pad(torch.ones(1, 1, 16, 16), [6] * 4, value=BACKGROUND)
ROWS = [noise(3, margin=7)[:, :, row].roll(13 - row, -1) for row in range(27)]
OBLONG = noise(3, margin=3)[..., 2:20]
CASES = {
    "left": (noise(3), [1, 0, 0, 0, 0], {"degrees": 90}, noise(3).rot90(1, (2, 3))),
    "sideways": (noise(3, margin=3), [0, 0, 0, 1, 0], {"shift": 3}, noise(3, margin=3).roll(-3, 3)),
    "up": (OBLONG, [0, 0, 0, 0, 1], {"shift": 3}, OBLONG.roll(-3, 2)),
    "half as large": (SQUARE, [0, 1, 0, 0, 0], {"scale": 1}, F.pad(torch.ones(1, 1, 8, 8), [10] * 4, value=BACKGROUND)),
    "slanted": (noise(3, margin=7), [0, 0, 1, 0, 0], {"shear": 1}, torch.stack(ROWS, 2)),
    "black outside": (noise(3), [0, 0, 0, 1, 0], {"shift": 9}, F.pad(noise(3)[..., 9:], [0, 9], value=BACKGROUND)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_distortion_is_what_its_numbers_say(case):
    images, draws, limits, expected = CASES[case]
    assert torch.allclose(distorted(images, draws, **limits), expected, atol=1e-3)


def test_every_image_has_its_own_draw_and_black_stays_black():
    torch.manual_seed(1)
    for distortion in (RandomDistortion(), RandomDistortion(0, 0, 0, 0, elastic=1.0)):
        images = distortion(noise(1, 28).expand(40, -1, -1, -1))
        assert len({image.numpy().tobytes() for image in images}) == 40
    black = torch.full((9, 1, 28, 28), BACKGROUND)
    assert torch.allclose(RandomDistortion(elastic=1.0)(black), black)


def test_bends_are_small_and_smooth():
    """Pushes of up to 1 pixel's deviation, evenly drawn: their mean square is 1/3, up and down as sideways."""
    torch.manual_seed(1)
    moves = recipes.bend(torch.zeros(2000, 1, 28, 28), 1.0, 5).view(-1, 2, 28, 28)
    corners = moves[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.square().mean((0, 2)).tolist() == pytest.approx([1 / 3] * 2, rel=0.1)
    neighbours = (moves[..., 1:] - moves[..., :-1]).abs()
    assert neighbours.mean() < 0.15 and (neighbours > 1).float().mean() < 1e-3 and moves.abs().max() < 6


# ---- Averaging, networks
def test_the_average_copies_the_first_batch_then_moves_by_nine_over_ten_and_more():
    model = nn.BatchNorm1d(1)
    average, expected = recipes.moving_average(model), 0.0
    for count in range(40):
        if count == 30:
            average.n_averaged.fill_(20_000)  # from the 8,990th batch on: by a thousandth
        share = 1 if count == 0 else 9 / (10 + count) if count < 30 else 0.001
        for value in (model.weight, model.running_mean):
            nn.init.constant_(value, count % 7 + 1)
        average.update_parameters(model)
        expected += share * (count % 7 + 1 - expected)
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
        assert average.module.running_mean.item() == pytest.approx(expected, rel=1e-5)


def test_networks_are_as_large_as_the_lesson_says_and_answer_with_log_probabilities():
    for name, recipe in RECIPES.items():
        answer = recipe.network().eval()(noise(4, 28))
        assert answer.shape == (4, 10) and torch.allclose(answer.exp().sum(1), torch.ones(4))
        assert count_parameters(recipe.network()) == read_results()["recipes"][name]["parameters"] < 20_000


# ---- A recipe's run
def recorded(recipe, seed=1, **changes):
    """Run it; return the first pixel of every image that it trained on, and the weights."""
    seen = []

    def network():
        model = recipe.network()
        model.register_forward_pre_hook(record)
        return model

    def record(model, inputs):
        if model.training:
            seen.append(inputs[0][:, 0, 0, 0].tolist())

    model, _ = run_recipe(replace(recipe, network=network, **changes), toy_data(64), toy_data(10), seed=seed)
    return seen, model.state_dict()


def test_the_last_epochs_are_not_distorted_in_a_resumed_run_either(tmp_path):
    how = {"augment": lambda images: images + 100, "plain_epochs": 2, "epochs": 5}
    seen, whole = recorded(UNDISTORTED, **how)
    assert [min(pixels) > 50 for pixels in seen] == [True, True, True, False, False]
    run = replace(UNDISTORTED, **how), toy_data(64), toy_data(10)
    stop_after_4 = Mock(side_effect=[None, None, None, KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        run_recipe(*run, checkpoint=tmp_path / "run.pt", after_epoch=stop_after_4)
    model, _ = run_recipe(*run, checkpoint=tmp_path / "run.pt", resume=True)
    assert all(torch.equal(whole[name], value) for name, value in model.state_dict().items())


def test_the_seed_sets_weights_and_order_and_the_order_is_every_recipe_s():
    (one, weights), (again, same), (other, others) = (recorded(FINAL, seed, epochs=2) for seed in (1, 1, 2))
    assert one == again and all(torch.equal(weights[name], same[name]) for name in weights)
    assert not torch.equal(weights["head.weight"], others["head.weight"])
    orders = [sum(recorded(*run, augment=None, epochs=1)[0], []) for run in ((AS_SUBMITTED, 1), (FINAL, 1), (FINAL, 2))]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[1]) == sorted(orders[2])


def test_the_model_to_use_is_the_average_and_a_run_of_its_own_length():
    model, history = run_recipe(replace(FINAL, batch_size=16, epochs=3), toy_data(), toy_data(30))
    assert len(history) == 3
    loss = helpers.test(model, "cpu", helpers.TensorLoader(toy_data(30), 30))[0]
    assert history["test_loss"].iloc[-1] == pytest.approx(loss, rel=1e-5)


# ---- A study
@pytest.fixture
def small_study(monkeypatch, tmp_path):
    """A study's command on toy data, with files in a folder of its own; and what it trained, and whether held out."""
    trained, run = [], study.run
    monkeypatch.setattr(study, "load_images", lambda *_: (toy_data(300), toy_data(100)))
    monkeypatch.setattr(study, "run", lambda *of: trained.append(of[:4]) or run(*of))

    def main(*options):
        out = ["--out", str(tmp_path / "runs.csv"), "--jobs", "1"]
        monkeypatch.setattr("sys.argv", ["study", *out, *options])
        study.main()

    return main, trained, tmp_path / "runs.csv"


def test_a_study_records_every_epoch_both_looks_and_every_mistake(small_study, capsys):
    main, trained, path = small_study
    main("--recipes", "fast", "final", "--seeds", "1", "--epochs", "2")
    main("--recipes", "fast", "--seeds", "1", "2", "--epochs", "2")
    assert trained == [(*each, 2, False) for each in (("fast", 1), ("final", 1), ("fast", 2))]  # none twice
    rows, mistakes = study.read_runs(path), pd.read_csv(study.mistakes_of(path))
    fast = rows[rows["recipe"] == "fast"]
    found = fast[["seed", "looks", "epoch"]].itertuples(index=False, name=None)
    assert list(found) == [(seed, *row) for seed in (1, 2) for row in ((5, 2), (1, 1), (1, 2))]
    assert (fast["parameters"] == 18834).all() and (mistakes["label"] == mistakes["image"] % 10).all()
    assert (fast["fingerprint"] == study.fingerprint(FAST)).all() and (fast["probe"] > 0).all()
    last = rows[rows["epoch"] == 2].set_index(["recipe", "seed", "looks"])["test_accuracy"].sort_index()
    wrong = mistakes.groupby(["recipe", "seed", "looks"]).size()
    assert (wrong == (100 - last).round()).all() and len(wrong) == 6
    mean, spread = last["fast"].xs(5, level="looks").agg(["mean", "std"])
    shown = study.table(fast).loc["fast", ["n", "mean", "std"]].values.tolist()
    assert shown[0] == [2, f"{mean:.2f}", f"{spread:.2f}"]


def test_a_recipe_that_changed_is_run_again(small_study, monkeypatch):
    main, trained, path = small_study
    short = replace(FAST, epochs=1)
    for batch_size in (256, 128, 256):
        monkeypatch.setitem(RECIPES, "fast", replace(short, batch_size=batch_size))
        main("--recipes", "fast", "--seeds", "1", "--held-out")
    assert trained == [("fast", 1, 1, True)] * 2 and not study.mistakes_of(path).exists()
    assert study.todays(study.read_runs(path))["fingerprint"].nunique() == 1


def test_a_run_that_is_not_complete_does_not_count(tmp_path):
    path, run = tmp_path / "runs.csv", {"recipe": "final", "fingerprint": "1e5", "epochs": 2, "looks": 1}
    for seed, epochs in ((1, (1, 2)), (2, (1,)), (1, (1, 2)), (3, (1, 2)), (4, (1, 2))):
        study.append(pd.DataFrame([{**run, "seed": seed, "epoch": epoch} for epoch in epochs]), path)
    path.write_text(path.read_text()[:-3])  # in the middle of the last line
    assert study.read_runs(path)[["seed", "epoch"]].values.tolist() == [[1, 1], [1, 2], [3, 1], [3, 2]]


def test_held_out_images_are_not_trained_on():
    everything, (train_set, test_set) = study.load_images(held_out=False)[0], study.load_images(held_out=True)
    assert (len(train_set), len(test_set)) == (50_000, 10_000)
    for whole, first, last in zip(everything.tensors, train_set.tensors, test_set.tensors):
        assert torch.equal(torch.cat([first, last]), whole)


# ---- Figures are bound to the code that made them
@pytest.fixture(scope="module")
def rows():
    return study.todays(study.read_runs())


@pytest.fixture(scope="module")
def probe():
    torch.set_num_threads(1)
    return partial(study.probe, train_set=study.load_images(held_out=False)[0])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_s_figures_were_made_by_what_it_says_and_by_this_code(name, rows, probe):
    """Another CPU or version strays by up to 0.5%."""
    recorded = rows[rows["recipe"] == name]["probe"]
    assert len(recorded), f"run: python -m benchmarks.study --recipes {name!r}, then refresh"
    assert probe(RECIPES[name]) == pytest.approx(recorded.median(), rel=0.01)


CHANGES = {
    "rate": {**recipes.one_cycle(1e-4, weight_decay=5e-4)},
    "weight decay": {**recipes.one_cycle(0.1, weight_decay=0.05)},
    "last rate": {"scheduler": lambda optimizer, n: OneCycleLR(optimizer, 0.1, n, final_div_factor=1.0)},
    "momentum": {"scheduler": lambda optimizer, n: OneCycleLR(optimizer, 0.1, n, cycle_momentum=False)},
    "no average": {"average": None},
    "a longer average": {"average": 0.0001},
    "batch size": {"batch_size": 64},
    "epochs": {"epochs": 19},
    "undistorted epochs": {"plain_epochs": 1},
    "a larger shift": {"augment": RandomDistortion(elastic=1.0, shift=3.0)},
    "another network": {"network": small_network},
    "another forward": {"network": lambda: OtherSum(nn.Conv2d(1, 1, 1))},
}


class OtherSum(networks.Residual):
    def forward(self, x):
        return x - super().forward(x)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_recipe_changes_its_fingerprint(change):
    assert study.fingerprint(replace(FINAL, **CHANGES[change])) != study.fingerprint(FINAL)
    assert study.fingerprint(replace(FINAL, name="another name")) == study.fingerprint(FINAL)


OTHER_CODE = {
    "no zero_grad": (torch.optim.SGD, "zero_grad", lambda self: None),
    "no shuffling": (torch, "randperm", lambda n, **_: torch.arange(n)),
    "twice the shift": (recipes, "affine_places", lambda *of, by=recipes.affine_places: by(*of[:-1], 2 * of[-1])),
}


@pytest.mark.parametrize("change", OTHER_CODE)
def test_a_change_of_the_code_changes_the_probe(change, rows, probe, monkeypatch):
    monkeypatch.setattr(*OTHER_CODE[change])
    recorded = rows[rows["recipe"] == "final"]["probe"]
    assert probe(FINAL) != pytest.approx(recorded.median(), rel=0.01)


# ---- What the notebook reads of the study
def made_up_rows() -> pd.DataFrame:
    """Runs of two seeds for every recipe."""
    rows = []
    for name, recipe in RECIPES.items():
        for seed in (2, 1):
            for epoch in range(1, recipe.epochs + 1):
                rows.append([name, seed, 1, epoch, recipe.epochs, 98 + seed + epoch / 100, 0.3 / seed / epoch])
            rows.append([name, seed, 5, recipe.epochs, recipe.epochs, 98.5 + seed, 0.2])
    columns = ["recipe", "seed", "looks", "epoch", "epochs", "test_accuracy", "test_loss"]
    return pd.DataFrame(rows, columns=columns).assign(parameters=5, train_accuracy=90.0, fingerprint="1e5")


def test_results_are_the_runs_by_seed():
    wrong = [["final", 1, 20, 1, 7, 4], ["final", 2, 20, 1, 7, 4], ["final", 1, 20, 1, 8, 5], ["final", 1, 20, 5, 9, 5]]
    wrong += [["final", seed, 1, 1, 6, 0] for seed in range(9)]  # of short runs: they don't count
    columns = ["recipe", "seed", "epochs", "looks", "image", "answer"]
    wrong = pd.DataFrame(wrong, columns=columns).assign(fingerprint="1e5")
    found = refresh.results(made_up_rows(), wrong)
    final = found["recipes"]["final"]
    assert final["last"] == {1: 99.2, 2: 100.2} and final["five_looks"] == {1: 99.5, 2: 100.5}
    assert final["by_epoch"][:2] == [99.51, 99.52] and final["best"] == final["last"]
    assert found["hardest"] == [[7, 4, 2], [8, 5, 1]]
    assert found["dead_digit"]["seed"] == 1 and found["dead_digit"]["test_loss"][:2] == [0.3, 0.15]
    with pytest.raises(SystemExit, match="no run of quick"):
        refresh.results(made_up_rows()[lambda rows: rows["recipe"] != "quick"], wrong)


def test_a_run_holds_the_bar_where_none_of_its_last_epochs_is_below():
    """A run that drops below once, at epoch 3, is there from 4 on; one of two that never are is not more than half."""
    rows = made_up_rows()
    rows.loc[(rows["recipe"] == "final") & (rows["seed"] == 1), "test_accuracy"] = 99.4
    rows.loc[(rows["recipe"] == "final") & (rows["seed"] == 1) & (rows["epoch"] == 3), "test_accuracy"] = 99.39
    found = refresh.results(rows, pd.DataFrame(columns=[*study.RUN, "looks", "image", "answer"]))
    table = table_of_the_bar(found, ["final", "repaired"])
    assert table["runs there"].tolist() == ["2 of 2", "1 of 2"] and table["from epoch"].tolist() == [4, "never"]
    assert found["recipes"]["final"]["epochs_to"] == {"99.0": 1, "99.3": 1, "99.4": 4}


def test_what_the_lesson_asks_and_tells_of_the_study_is_so():
    """While a digit is dead, its images alone cost a tenth of 2.3."""
    found = read_results()
    gains = table_of_gains(found, [recipe.name for recipe in STEPS])["gain"].astype(float)
    enough = [each["parameters"] for each in found["recipes"].values() if pd.Series(each["last"]).mean() > 99.4]
    assert ANSWERS["the step that buys most"][0] == gains.idxmax()
    assert ANSWERS["parameters that are enough for 99.4%"][0] == min(enough)
    dead = found["dead_digit"]
    assert sum(loss > 0.23 for loss in dead["test_loss"]) >= 3 and min(dead["test_accuracy"][2:]) > 98


def of_seeds(**runs) -> dict:
    return {"recipes": {name: {"last": values, "five_looks": values} for name, values in runs.items()}}


def test_a_gain_is_shown_where_chance_does_not_make_it():
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / √3; Student's limit for three is 4.30 of these."""
    gain, error, is_shown = compare(pd.Series([1.0, 2, 3]), pd.Series([1.1, 2.2, 3.3]))
    assert (gain, error, bool(is_shown)) == (pytest.approx(0.2), pytest.approx(0.1 / 3**0.5), False)
    results = of_seeds(one={"1": 1.0, "2": 2.0, "3": 3.0}, two={"3": 2.91, "9": 9.0, "1": 0.9, "2": 1.9})
    table = table_of_gains(results, ["one", "two"])  # joined by seed, not by place
    assert table.loc["two"].to_dict() == {"gain": "-0.10", "shown": "yes", "std error": "0.00"}


def test_the_closing_table_has_your_runs_beside_the_study_s():
    results = of_seeds(final={"1": 99.0, "2": 99.2})
    images = torch.eye(10)[[7, 7, 2, 3]].view(4, 10, 1, 1).expand(4, 10, 3, 3)
    mine = nn.Sequential(nn.AvgPool2d(3), nn.Flatten()), pd.DataFrame({"test_accuracy": [98.0, 99.123]})
    table = closing_table(results, {"final": mine}, images, torch.tensor([7, 1, 2, 3]))
    assert table["your run"].to_dict() == {"final": "99.12%", "final, five looks": "75.00%"}
    assert table["the study"].tolist() == ["99.10 ± 0.14% (n = 2)"] * 2

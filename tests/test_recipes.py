"""benchmarks/recipes.py and study.py: distortion, averaging, networks, runs, and what a study records."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

import helpers
from benchmarks import recipes, study
from benchmarks.recipes import AS_SUBMITTED, FINAL, RECIPES, UNDISTORTED, RandomDistortion, five_looks
from lesson.recipe import closing_table, compare, run_recipe, table_of_gains

BLACK = -0.4242


def noise(n, size=27, margin=0):
    """Images of noise, black in a margin; of an odd size, so that the middle is a pixel."""
    inner = torch.randn(n, 1, size - 2 * margin, size - 2 * margin, generator=torch.Generator().manual_seed(n))
    return F.pad(inner, [margin] * 4, value=BLACK)


def toy_data(n=70) -> TensorDataset:
    return TensorDataset(noise(n, 28), torch.arange(n) % 10)


# ---- Distortion


def distorted(images, draws, **limits):
    """With draws, from -1 to 1, instead of random numbers: angle, size, slant, right, down."""
    draws = torch.tensor(draws, dtype=torch.float32).reshape(5, 1).expand(5, len(images))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, **_: (draws + 1) / 2)
        return RandomDistortion(**limits)(images)


SQUARE = F.pad(torch.ones(1, 1, 16, 16), [6] * 4, value=BLACK)
ROWS = [noise(3, margin=7)[:, :, row].roll(13 - row, -1) for row in range(27)]
CASES = {
    "nothing": (noise(3), [0, 0, 0, 0, 0], {}, noise(3)),
    "left": (noise(3), [1, 0, 0, 0, 0], {"degrees": 90}, noise(3).rot90(1, (2, 3))),
    "right": (noise(3), [-1, 0, 0, 0, 0], {"degrees": 90}, noise(3).rot90(-1, (2, 3))),
    "sideways": (noise(3, margin=3), [0, 0, 0, 1, 0], {"shift": 3}, noise(3, margin=3).roll(-3, 3)),
    "up": (noise(3, margin=3), [0, 0, 0, 0, 1], {"shift": 3}, noise(3, margin=3).roll(-3, 2)),
    "half as large": (SQUARE, [0, 1, 0, 0, 0], {"scale": 1}, F.pad(torch.ones(1, 1, 8, 8), [10] * 4, value=BLACK)),
    "slanted": (noise(3, margin=7), [0, 0, 1, 0, 0], {"shear": 1}, torch.stack(ROWS, 2)),
    "black outside": (noise(3), [0, 0, 0, 1, 0], {"shift": 9}, F.pad(noise(3)[..., 9:], [0, 9], value=BLACK)),
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
    black = torch.full((9, 1, 28, 28), BLACK)
    assert torch.allclose(RandomDistortion(elastic=1.0)(black), black)


def test_bends_are_small_and_smooth():
    """Pushes of up to 1 pixel's deviation, evenly drawn: their mean square is 1/3, up and down as sideways."""
    torch.manual_seed(1)
    moves = 14 * recipes.bend(torch.zeros(2000, 1, 28, 28), 1.0, 5).view(-1, 2, 28, 28)  # in pixels
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


@pytest.mark.parametrize("name", RECIPES)
def test_a_network_is_as_large_as_it_says(name):
    network = RECIPES[name].network
    model = network().eval()
    said = re.search(r"([\d,]+) parameters", network.__doc__) or re.search("(19,930)", recipes.Net.__doc__)
    assert f"{study.count_parameters(model):,}" == said[1] and study.count_parameters(model) < 20_000
    answer = model(noise(4, 28))
    assert answer.shape == (4, 10) and torch.allclose(answer.exp().sum(1), torch.ones(4))
    assert RECIPES[name].name == name and len(RECIPES) == len(recipes.STEPS) + 3


def test_five_looks_are_the_mean_over_an_image_and_its_neighbours():
    images, model = noise(7, 28, margin=1), recipes.fast_network().eval()
    padded = F.pad(images, [1] * 4, value=BLACK)
    corners = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    by_hand = sum(model(padded[:, :, y : y + 28, x : x + 28]) for y, x in corners) / 5
    assert torch.allclose(five_looks(model, images), by_hand.log_softmax(1), atol=1e-5)


# ---- A recipe's run


def recorded(recipe, seed=1, **changes):
    """Run it; return the first pixel of every image that it trained on, and the model."""

    def network():
        model = recipe.network()
        model.register_forward_pre_hook(record)
        return model

    def record(model, inputs):
        if model.training:
            seen.append(inputs[0][:, 0, 0, 0].tolist())

    seen = []
    model, _ = run_recipe(replace(recipe, network=network, **changes), toy_data(64), toy_data(10), seed=seed)
    return seen, model.state_dict()


def test_the_last_epochs_are_not_distorted():
    seen, _ = recorded(UNDISTORTED, augment=lambda images: images + 100, plain_epochs=2, epochs=5)
    assert [min(pixels) > 50 for pixels in seen] == [True, True, True, False, False]


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


class NoValues(TorchDispatchMode):
    """Fake tensors have no values: every condition on one is true, every number 1."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function is torch.ops.aten._local_scalar_dense.default and isinstance(arguments[0], FakeTensor):
            return True if arguments[0].dtype == torch.bool else 1
        return function(*arguments, **(named or {}))


@pytest.mark.skipif(torch.__version__ < "2.9", reason="before, fake tensors on cuda ask the driver")
@pytest.mark.parametrize("name, data_device", [("as submitted", "cuda"), ("final", "cuda"), ("fast", "cpu")])
def test_a_gpu_s_run_stays_on_the_gpu(name, data_device, monkeypatch):
    """On tensors that only say so: one on another device would raise. The backward pass would ask the driver."""

    def backward(loss):
        for weights in model.parameters():
            weights.grad = torch.zeros_like(weights)

    monkeypatch.setattr(helpers, "check_batch", lambda output, labels: None)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with FakeTensorMode(), NoValues():
        with torch.device("cuda"):
            model, recipe = RECIPES[name].network(), RECIPES[name]
        data = TensorDataset(torch.zeros(200, 1, 28, 28, device=data_device), torch.arange(200, device=data_device))
        loader = helpers.TensorLoader(data, 64, shuffle=True, augment=recipe.augment)
        assert {part.device.type for batch in loader for part in batch} == {data_device}
        optimizer = recipe.optimizer(model.parameters())
        assert helpers.train(model, "cuda", loader, optimizer) and helpers.test(model, "cuda", loader)
        weights = [weights.detach() for weights in model.parameters()]
        recipes.towards(weights, weights, torch.tensor(3, device="cuda"))
        assert five_looks(model, torch.zeros(9, 1, 28, 28, device="cuda")).device.type == "cuda"


# ---- A study


@pytest.fixture
def small_study(monkeypatch, tmp_path):
    """Studies on toy data, in files of their own; what study.main trained."""
    trained, run = [], study.run
    monkeypatch.setattr(study, "load_images", lambda *_: (toy_data(300), toy_data(100)))
    monkeypatch.setattr(study, "ACCURACY", tmp_path / "accuracy.csv")
    monkeypatch.setattr(study, "MISTAKES", tmp_path / "mistakes.csv")
    monkeypatch.setattr(study, "run", lambda *of: trained.append(of[:3]) or run(*of))

    def main(*options):
        monkeypatch.setattr("sys.argv", ["study", "--jobs", "1", "--epochs", "2", *options])
        study.main()

    return main, trained


def test_a_study_records_every_epoch_both_looks_and_every_mistake(small_study, capsys):
    main, trained = small_study
    main("--recipes", "fast", "small", "--seeds", "1")
    main("--recipes", "fast", "--seeds", "1", "2")
    assert trained == [("fast", 1, 2), ("small", 1, 2), ("fast", 2, 2)]  # none twice
    rows, mistakes = study.read_runs(study.ACCURACY), pd.read_csv(study.MISTAKES)
    fast = rows[rows["recipe"] == "fast"]
    assert fast[["seed", "looks", "epoch"]].values.tolist() == [
        [seed, looks, epoch] for seed in (1, 2) for looks, epoch in ((5, 2), (1, 1), (1, 2))
    ]
    assert (fast["parameters"] == 18834).all() and (mistakes["label"] == mistakes["image"] % 10).all()
    last = rows[rows["epoch"] == 2].set_index(["recipe", "seed", "looks"])["test_accuracy"].sort_index()
    wrong = mistakes.groupby(["recipe", "seed", "looks"]).size()
    assert (wrong == (100 - last).round()).all() and len(wrong) == 6
    mean, spread = last["fast"].xs(5, level="looks").agg(["mean", "std"])
    assert f"| fast | 5 | 18,834 | 2 | 2 | {mean:.2f} ± {spread:.2f}% |" in capsys.readouterr().out


def test_a_run_cut_off_while_written_does_not_count_and_spoils_no_other(tmp_path):
    path, run = tmp_path / "runs.csv", {"recipe": "final", "epochs": 2, "looks": 1}
    for seed in (1, 2, 3):
        rows = pd.DataFrame([{**run, "seed": seed, "epoch": n, "test_accuracy": 99 + n / 10} for n in (1, 2)])
        study.append(rows, path)
        if seed == 2:
            path.write_text(path.read_text()[:-8])
    assert study.read_runs(path)["seed"].tolist() == [1, 1, 3, 3]
    study.append(rows.assign(seed=2), path)  # done again
    assert len(study.read_runs(path)) == 6 and study.read_runs(Path("none.csv")).empty


@pytest.mark.slow
def test_a_run_of_fast_made_again_gives_its_row():
    """To the last digit on the study's CPU; on another, which adds up in another order, one more draw of the same."""
    rows = study.read_runs()
    rows = rows[(rows["recipe"] == "fast") & (rows["epoch"] == rows["epochs"])]
    recorded = rows[rows["epochs"] == RECIPES["fast"].epochs].set_index(["looks", "seed"])
    if (1, 1) not in recorded.index:
        pytest.skip("no row to compare with")
    again = study.run("fast", 1, RECIPES["fast"].epochs)[0]
    for _, row in again[again["epoch"] == again["epochs"]].iterrows():
        before, others = recorded.loc[(row["looks"], 1)], recorded.loc[row["looks"], "test_accuracy"]
        columns = ["train_loss", "test_loss", "test_accuracy"]
        is_same = all(f"{row[name]:.6g}" == f"{before[name]:.6g}" for name in columns)
        assert is_same or abs(row["test_accuracy"] - others.mean()) < 4 * others.std()


def test_a_gain_is_shown_where_chance_does_not_make_it():
    """Differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / √3; Student's limit for three is 4.30 of these."""
    gain, error, shown = compare([1, 2, 3], [1.1, 2.2, 3.3])
    assert (gain, error, bool(shown)) == (pytest.approx(0.2), pytest.approx(0.1 / 3**0.5), False)
    assert compare([1, 2, 3], [0.9, 1.9, 2.91])[2]
    study_of = {"one": {"last": [1.0, 2.0, 3.0]}, "two": {"last": [0.9, 1.9, 2.91, 9.0]}}
    table = table_of_gains({"recipes": study_of}, {"row": ("one", "two")})
    assert table.loc["row"].to_dict() == {"gain": "-0.10", "shown": "yes", "std error": "0.00"}


def test_the_closing_table_has_your_runs_beside_the_study_s():
    runs = {"last": [99.0, 99.2], "five_looks": [99.3, 99.3]}
    study_of = {name: runs for name in ("as submitted", "final", "fast")} | {"small": {"last": [98.0, 98.0]}}
    table = closing_table({"recipes": study_of}, {"final": 99.123, "final, five looks": 99.5})
    assert table.loc["final"].tolist() == ["99.12%", "99.10 ± 0.14%"] and table.loc["small"].tolist()[0] == ""
    assert table.loc["final, five looks"].tolist() == ["99.50%", "99.30 ± 0.00%"] and len(table) == 7

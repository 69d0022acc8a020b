"""helpers.py: data, training, the checkpoint, figures; each against a computation by hand."""

import contextlib
import copy
import math
import multiprocessing
import pickle
import random
import shutil
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

import helpers
from helpers import TensorLoader, fit, log_probabilities, test, train

matplotlib.use("Agg")
DATA = Path(__file__).parent.parent / "data"
COLUMNS = ["epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"]


def noise(n=70, seed=0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 1, 28, 28, generator=generator), torch.arange(n) % 10)


def small_net(seed=1) -> nn.Module:
    """A network with BatchNorm and dropout that ends in logits."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 10))


def linear_net(seed=1, *last) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), *last)


def sgd(model, lr=0.01):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def same_state(one, two) -> bool:
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ---- Data


@contextlib.contextmanager
def offline():
    """No internet; gives a list of the addresses that were tried."""
    tried = []

    def urlopen(request, *_, **__):
        tried.append(getattr(request, "full_url", request))
        raise urllib.error.URLError("no internet")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(urllib.request, "urlopen", urlopen)
        yield tried


@pytest.fixture(scope="module")
def mnist():
    with offline() as tried:
        images_and_labels = helpers.read_mnist(DATA)
    assert tried == []  # sound files are used as they are
    return images_and_labels


def test_the_test_set_is_mnist_s_and_no_image_of_it_is_trained_on(mnist):
    train_images, train_labels, test_images, test_labels = mnist
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train_images.shape == (60_000, 28, 28) and train_labels.bincount().tolist() == counts
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test_images.shape == (10_000, 28, 28) and test_labels.bincount().tolist() == counts
    learned_from, tested_on = ({image.tobytes() for image in part.numpy()} for part in (train_images, test_images))
    assert not learned_from & tested_on


def test_training_pixels_have_mean_0_and_deviation_1(mnist):
    images = helpers.normalise(mnist[0][:20_000])
    assert images.shape == (20_000, 1, 28, 28) and images.dtype == torch.float32
    assert images.mean().abs() < 0.01 and abs(images.std() - 1) < 0.01
    assert images.min().item() == pytest.approx(-0.1307 / 0.3081) == helpers.BACKGROUND
    for wrong in (mnist[0][:2].float(), mnist[0][0], mnist[0][:2, ..., None].expand(2, 28, 28, 3)):
        with pytest.raises(ValueError, match="uint8"):
            helpers.normalise(wrong)
    means = torch.tensor([51, 102, 153]).view(3, 1, 1)  # of another data set, in colour
    images = helpers.normalise((means + 51).byte().expand(2, 3, 4, 6), means / 255, 0.1)
    assert images.shape == (2, 3, 4, 6) and torch.allclose(images, torch.tensor(2.0), atol=1e-5)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:1000])])
def test_without_internet_a_missing_or_damaged_file_is_named(damage, tmp_path):
    shutil.copytree(DATA / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    damage(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz")
    message = "train-images-idx3-ubyte.gz is missing or damaged: connect to the internet"
    with offline() as tried, pytest.raises(RuntimeError, match=message):
        helpers.read_mnist(tmp_path)
    assert tried and all("train-images" in address for address in tried)


def test_a_mirror_that_never_answers_is_left_for_the_next(tmp_path, monkeypatch):
    raw = shutil.copytree(DATA / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    shutil.move(raw / "t10k-labels-idx1-ubyte.gz", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirrors = [f"http://127.0.0.1:{silent.getsockname()[1]}/", f"{tmp_path.as_uri()}/"]
        monkeypatch.setattr(helpers.MNIST, "mirrors", mirrors)
        monkeypatch.setenv("HOME", str(tmp_path))  # what ~ means
        assert len(helpers.read_mnist("~", timeout=0.2)[3]) == 10_000


def test_a_loader_gives_every_image_once_in_another_order_each_time():
    data = noise(70)
    order = torch.Generator().manual_seed(1)
    loader = TensorLoader(data, 32, shuffle=True, augment=lambda x: x + 100, generator=order)
    passes = [list(loader) for _ in range(2)]
    loader.augment = None
    passes += [list(loader) for _ in range(2)]
    assert len(loader) == 3 and [len(labels) for _, labels in passes[0]] == [32, 32, 6]
    assert [batches[0][0].mean() > 50 for batches in passes] == [True, True, False, False]
    places = [(100 * torch.cat([x for x, _ in batches])[:, 0, 0, 0]).round() for batches in passes[2:]]
    assert not torch.equal(*places)  # in another order each time
    assert torch.equal(places[1].sort().values, (100 * data.tensors[0][:, 0, 0, 0]).round().sort().values)
    for ours, theirs in zip(TensorLoader(data, 32), DataLoader(data, 32), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_a_part_of_a_data_set_is_loaded_as_a_whole_one_is():
    part = random_split(Subset(noise(70), range(5, 65)), [20, 40], torch.Generator().manual_seed(1))[1]
    for ours, theirs in zip(TensorLoader(part, 16), DataLoader(part, 16), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    for wrong in ([(torch.zeros(1, 28, 28), 1)], TensorDataset(torch.zeros(9))):
        with pytest.raises(ValueError, match="use a DataLoader"):
            TensorLoader(wrong, 16)


# ---- Training and testing


@pytest.mark.parametrize("loader", [TensorLoader(noise(70), 32), DataLoader(noise(70), 32)])
@pytest.mark.parametrize("last", [nn.LogSoftmax(1), nn.Identity()], ids=["log-probabilities", "logits"])
def test_an_epoch_is_the_plain_loop(last, loader):
    """Of 32, 32 and 6 images: the short last batch counts for its six."""
    model, plain = linear_net(1, last), linear_net(1, nn.LogSoftmax(1))
    optimizer, loss_sum, right = sgd(plain), 0.0, 0
    images, labels = noise(70).tensors
    for x, y in zip(images.split(32), labels.split(32)):
        optimizer.zero_grad()
        answer = plain(x)
        loss = F.nll_loss(answer, y)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(y)
        right += (answer.argmax(1) == y).sum().item()
    assert train(model, "cpu", loader, sgd(model)) == pytest.approx((loss_sum / 70, 100 * right / 70))
    assert torch.allclose(model[1].weight, plain[1].weight, atol=1e-6)
    answer = plain(images)
    expected = F.nll_loss(answer, labels).item(), 100 * (answer.argmax(1) == labels).float().mean().item()
    assert test(model, "cpu", loader) == pytest.approx(expected)
    assert torch.allclose(log_probabilities(model, images), answer, atol=1e-5)


def test_testing_changes_nothing():
    model, loader, images = small_net(), TensorLoader(noise(), 32), noise().tensors[0]
    before, random_state = copy.deepcopy(model), torch.get_rng_state()
    for call in (lambda: test(model, "cpu", loader), lambda: log_probabilities(model, images)):
        model.train()
        call()
        assert same_state(model, before) and torch.equal(torch.get_rng_state(), random_state)


class InPlace(nn.Linear):
    def forward(self, x):
        x -= 0.5
        return super().forward(x.flatten(1))


def test_a_forward_that_works_in_place_leaves_the_images_alone():
    model, data = InPlace(784, 10), noise(32)
    images, before = data.tensors[0], data.tensors[0].clone()
    for loader in ([data.tensors], TensorLoader(data, 32), DataLoader(data, 32)):
        assert test(model, "cpu", loader) == test(model, "cpu", loader)
    train(model, "cpu", TensorLoader(data, 32), sgd(model))  # which hands out copies
    assert torch.equal(log_probabilities(model, images), log_probabilities(model, images))
    assert torch.equal(images, before)


def test_five_looks_are_the_mean_over_an_image_and_its_neighbours():
    images, model = noise(7).tensors[0], small_net()
    corners = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    for background in (helpers.BACKGROUND, 0.5):
        padded = F.pad(images, [1] * 4, value=background)
        by_hand = sum(log_probabilities(model, padded[:, :, y : y + 28, x : x + 28]) for y, x in corners) / 5
        assert torch.allclose(helpers.five_looks(model, images, background), by_hand.log_softmax(1), atol=1e-5)
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert helpers.shifted(rows, 1, -2, background=9).tolist() == [[9, 9, 9], [3, 9, 9]]  # down, and to the left


IMAGES, LABELS = noise(20).tensors
SHAPES = "model must return .N, classes., and labels be class numbers, int64 .N,.; got .*"
WRONG = {
    "labels": (linear_net(), IMAGES, LABELS + 1, "labels must be 0 to 9, got 1 to 10"),
    "one-hot labels": (linear_net(), IMAGES, F.one_hot(LABELS), SHAPES + "int64 .10, 10."),
    "labels in a column": (linear_net(), IMAGES, LABELS[:, None], SHAPES + "int64 .10, 1."),
    "small labels": (linear_net(), IMAGES, LABELS.int(), SHAPES + "int32"),
    "maps": (nn.Conv2d(1, 10, 28), IMAGES, LABELS, SHAPES + ".10, 10, 1, 1."),
    "a tuple": (nn.Sequential(nn.Flatten(), nn.LSTM(784, 10)), IMAGES, LABELS, "got a tuple"),
    "probabilities": (linear_net(1, nn.Softmax(1)), IMAGES, LABELS, "leave out its softmax"),
    "nan": (linear_net(), IMAGES / 0, LABELS, "nan or infinite"),
    "nothing": (linear_net(), IMAGES[:0], LABELS[:0], "no batch"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_pytorch_is_silent_about_is_named_in_a_line(case):
    model, images, labels, message = WRONG[case]
    optimizer = sgd(linear_net())
    for loader in (kind(TensorDataset(images, labels), 10) for kind in (DataLoader, TensorLoader)):
        for call in (lambda: train(model, "cpu", loader, optimizer), lambda: test(model, "cpu", loader)):
            with pytest.raises(ValueError, match=message) as error:
                call()
            assert "\n" not in str(error.value)


# ---- A run of several epochs


def run(epochs=3, make_scheduler=lambda optimizer: None, averaged=False, seed=1, net=small_net, **options):
    """A run made anew, of three batches an epoch: (model, average, history)."""
    model = net(seed)
    optimizer = sgd(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True) if averaged else None
    loader = TensorLoader(noise(), 32, shuffle=True, generator=torch.Generator().manual_seed(seed))
    test_loader = TensorLoader(noise(30, seed=9), 16)
    scheduler = make_scheduler(optimizer)
    return model, average, fit(model, "cpu", loader, test_loader, optimizer, scheduler, epochs, average, **options)


def test_the_same_seed_gives_the_same_bits(capsys):
    (one, _, history), (two, _, again), (other, _, _) = run(), run(), run(seed=2)
    assert same_state(one, two) and not same_state(one, other)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), again.drop(columns="seconds"))
    assert history.columns.tolist() == COLUMNS and history["epoch"].tolist() == [1, 2, 3]
    last = history.iloc[-1]
    assert (last["test_loss"], last["test_accuracy"]) == test(one, "cpu", TensorLoader(noise(30, seed=9), 16))
    assert capsys.readouterr().out.count(f"in test; test accuracy {last['test_accuracy']:.2f}%") >= 2


@pytest.mark.parametrize("mode, column", [("min", "test_loss"), ("max", "test_accuracy")])
def test_a_plateau_is_looked_for_on_the_test_set(mode, column):
    class Recorder(ReduceLROnPlateau):
        def step(self, metrics):
            seen.append(metrics)
            super().step(metrics)

    seen = []
    history = run(4, lambda optimizer: Recorder(optimizer, mode, 0.5, 0, 99, "abs"))[2]
    assert seen == history[column].tolist()
    assert history["lr"].tolist() == pytest.approx([0.01, 0.01, 0.005, 0.0025])  # no gain is 99 or more


def test_one_cycle_moves_with_every_batch():
    """Of three an epoch: up from 1/25 of the peak, which lies at 0.3 * 12 - 1 batches, and down along a cosine."""
    history = run(4, lambda optimizer: OneCycleLR(optimizer, 0.4, total_steps=12), step_every="batch")[2]
    falling = [0.2 * (1 + math.cos(math.pi * (batch - 2.6) / 8.4)) for batch in (3, 6, 9)]
    assert history["lr"].tolist() == pytest.approx([0.016, *falling], rel=1e-3)


def test_a_learning_rate_that_would_hardly_move_is_refused():
    with pytest.raises(ValueError, match='"batch" or "epoch", got \'Batch\''):
        run(step_every="Batch")
    with pytest.raises(ValueError, match="plans 30 steps for 3 epochs"):
        run(3, lambda optimizer: OneCycleLR(optimizer, 0.4, total_steps=30))
    run(3, lambda optimizer: OneCycleLR(optimizer, 0.4, total_steps=29))  # it may be meant


def test_an_average_is_tested_in_place_of_the_model():
    model, average, history = run(averaged=True)
    loader = TensorLoader(noise(30, seed=9), 16)
    assert isinstance(average, AveragedModel) and average.n_averaged == 9
    assert history["test_loss"].iloc[-1] == test(average, "cpu", loader)[0] != test(model, "cpu", loader)[0]


# ---- The checkpoint

# Processes that find the libraries loaded; Windows has none of that kind.
KIND = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
SERVER = multiprocessing.get_context(KIND)
if KIND == "forkserver":
    SERVER.set_forkserver_preload(["helpers"])


def train_all_of_it(ours: bool, folder: Path, started) -> None:
    """Train from the checkpoint in a folder, where there is one, and save what came of it."""
    torch.set_num_threads(1)
    model, data, epochs, average = small_net(), noise(320), 12, None
    optimizer = sgd(model)
    if ours:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        plan = {"augment": lambda images: images + torch.rand(len(images), 1, 1, 1)}
        loader = TensorLoader(data, 16, shuffle=True, **plan, generator=torch.Generator().manual_seed(3))
        how = {"scheduler": OneCycleLR(optimizer, 0.1, total_steps=20 * epochs), "step_every": "batch"}
    else:
        loader, how = DataLoader(data, 16, shuffle=True), {"scheduler": ReduceLROnPlateau(optimizer, patience=1)}
    started.set()
    how = {"checkpoint": folder / "run.pt", "resume": True, **how}
    test_loader = DataLoader(noise(200, seed=9), 50)
    history = fit(model, "cpu", loader, test_loader, optimizer, epochs=epochs, average=average, **how)
    states = [part.state_dict() for part in (model, optimizer, average) if part]
    torch.save([states, history.drop(columns="seconds").values.tolist()], folder / "result.pt")


def in_a_process(ours: bool, folder: Path, seconds=None) -> float:
    """Run it to its end, or kill it some seconds after there is a checkpoint; return for how long it ran."""
    folder.mkdir(exist_ok=True)
    started = SERVER.Event()
    process = SERVER.Process(target=train_all_of_it, args=(ours, folder, started))
    process.start()
    assert started.wait(60)
    start = time.perf_counter()
    while seconds and process.is_alive() and not (folder / "run.pt").exists():
        time.sleep(0.005)
    process.join(seconds)
    process.kill()
    process.join()
    assert seconds or process.exitcode == 0
    return time.perf_counter() - start


@pytest.mark.parametrize("rounds", [1, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ours", [True, False], ids=["TensorLoader", "DataLoader"])
def test_a_run_killed_three_times_ends_as_one_never_killed(ours, rounds, tmp_path):
    duration = in_a_process(ours, tmp_path / "whole")
    states, history = torch.load(tmp_path / "whole" / "result.pt")
    chance = random.Random(0)
    for count in range(rounds):
        folder = tmp_path / str(count)
        for _ in range(3):
            in_a_process(ours, folder, chance.uniform(0, duration / 4))
        in_a_process(ours, folder)
        again, rows = torch.load(folder / "result.pt")
        assert rows == history
        torch.testing.assert_close(again, states, rtol=0, atol=0)


class Rows(nn.Module):
    """An LSTM that reads an image row by row."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.read, self.last = nn.LSTM(28, 16, num_layers=2, dropout=0.2, batch_first=True), nn.Linear(16, 10)

    def forward(self, x):
        return self.last(self.read(x.squeeze(1))[0][:, -1])


def test_an_lstm_is_resumed_to_the_bit_and_a_complete_run_is_read_back(tmp_path, capsys):
    whole, _, history = run(4, net=Rows)
    path, lengths = tmp_path / "in a new folder" / "run.pt", []
    how = {"checkpoint": path, "resume": True, "net": Rows}
    run(2, **how)
    assert "goes on" not in capsys.readouterr().out  # there was no file: it started anew
    for _ in range(2):
        model, _, again = run(4, after_epoch=lambda rows: lengths.append(len(rows)), **how)
        assert same_state(model, whole) and again["test_loss"].tolist() == history["test_loss"].tolist()
    out = capsys.readouterr().out
    assert "goes on after its epoch 2" in out and "goes on after its epoch 4" in out
    assert lengths == [2, 3, 4, 4] and list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError, match="holds 4 epochs, more than the 2"):
        run(2, **how)


def test_a_run_with_numpy_s_numbers_goes_on_from_the_home_folder(tmp_path, monkeypatch, capsys):
    def make_scheduler(optimizer):
        optimizer.param_groups[0]["lr"] = np.logspace(-3, -1, 3)[1]
        return MultiStepLR(optimizer, np.arange(1, 3), gamma=np.float32(0.5))

    monkeypatch.setenv("HOME", str(tmp_path))
    whole, _, history = run(3, make_scheduler)
    run(1, make_scheduler, checkpoint="~/run.pt")
    model, _, again = run(3, make_scheduler, checkpoint=tmp_path / "run.pt", resume=True)
    assert same_state(model, whole) and again["lr"].tolist() == history["lr"].tolist() == [0.01, 0.005, 0.0025]
    assert "run.pt: this run goes on after its epoch 1" in capsys.readouterr().out


def test_without_resume_a_file_is_replaced_by_a_complete_epoch_only(tmp_path, capsys):
    path = tmp_path / "run.pt"
    run(2, checkpoint=path)
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(helpers, "test", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(2, checkpoint=path)
    assert "holds 2 epochs" in capsys.readouterr().out and path.read_bytes() == before
    assert same_state(run(1, checkpoint=path)[0], run(1)[0])
    assert len(torch.load(path, weights_only=True)["history"]) == 1


@pytest.mark.parametrize("resume", [True, False])
def test_what_is_no_checkpoint_is_named_and_left_alone(resume, tmp_path, capsys):
    torch.save(small_net().state_dict(), tmp_path / "weights.pt")
    torch.save({"history": [], "parts": [small_net()]}, tmp_path / "object.pt")  # which could run code
    (tmp_path / "empty.pt").touch()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for path in (tmp_path, *before):
        with pytest.raises(ValueError, match=f"{path.name} is no checkpoint") as error:
            run(1, checkpoint=path, resume=resume)
        assert path.name != "object.pt" or isinstance(error.value.__cause__, pickle.UnpicklingError)
    for path in (tmp_path / "empty.pt" / "run.pt", tmp_path / ("long" * 63)):  # neither can be written
        with pytest.raises(OSError, match="empty.pt|long"):
            run(1, checkpoint=path)
    assert capsys.readouterr().out == ""  # said before an epoch is trained
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


# ---- Figures


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_digits_mistakes_and_confusion_show_what_they_are_given():
    images, labels = noise(12).tensors
    figure = helpers.plot_digits(images, labels)
    assert titles(figure) == [str(n % 10) for n in range(12)] and len(figure.axes) == 20
    assert torch.equal(torch.tensor(figure.axes[11].images[0].get_array()), images[11, 0])
    assert titles(helpers.plot_digits(images[:, 0, :9])) == []
    colours = torch.stack([images[:, 0, :9]] * 3, 1)
    drawn = torch.tensor(helpers.plot_digits(colours).axes[11].images[0].get_array())
    assert torch.allclose(drawn[..., 2], (colours[11, 2] - colours.min()) / (colours.max() - colours.min()))

    sure = torch.tensor([0.5, 0.9, 0.7, 0.6])
    answers = torch.stack([1 - sure, sure], 1).log()
    figure = helpers.plot_mistakes(images[:4], torch.tensor([0, 0, 1, 0]), answers, count=2)
    assert titles(figure) == ["0 → 1\n90%", "0 → 1\n60%"]  # the most confident first
    with pytest.raises(ValueError, match="no mistake"):
        helpers.plot_mistakes(images[:4], answers.argmax(1), answers)

    figure = helpers.plot_confusion(torch.tensor([1, 2, 2, 2, 3]), torch.tensor([1, 1, 1, 2, 3]))
    texts = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in figure.axes[0].texts}
    assert (texts[2, 1], texts[1, 1], texts[1, 2]) == ("2", "1", "·") and len(texts) == 100
    assert len(helpers.plot_confusion(labels, labels + 14, classes=26).axes[0].texts) == 26**2
    for answers in (labels + 1, labels - 1):
        with pytest.raises(ValueError, match="classes=10, got"):
            helpers.plot_confusion(labels, answers)
    plt.close("all")


def test_curves_show_the_history():
    history = pd.DataFrame([[n, 0.1 / n, 0.2 / n, 98 + n / 9, 0.1 / n, 99 + n / 9, 1.0] for n in (1, 2, 3)])
    history.columns = COLUMNS
    loss, accuracy, rate = helpers.plot_curves(history, "title", 99.28, epochs=5).axes
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert curves["training"] == history[f"train_{name}"].tolist()
        assert curves["test"] == history[f"test_{name}"].tolist()
    assert accuracy.texts[0].get_text() == "99.28%" and loss.get_title("left") + loss.get_title() == "title"
    assert list(rate.lines[0].get_ydata()) == history["lr"].tolist() and rate.get_xlim() == (0.5, 5.5)
    assert len(helpers.plot_curves(history[:1]).axes[1].lines) == 2
    plt.close("all")


def test_growing_curves_are_one_picture_and_in_a_script_lines(tmp_path, monkeypatch, capsys):
    lines = [helpers.epoch_line([row]) for row in run(3, after_epoch=helpers.LiveCurves(3))[2].to_dict("records")]
    assert capsys.readouterr().out.splitlines() == lines
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell.instance()
    with capture_output() as captured:
        run(3, after_epoch=helpers.LiveCurves(3))
    InteractiveShell.clear_instance()
    assert [output.update for output in captured.outputs] == [False, True, True] and not plt.get_fignums()
    assert len({output.transient["display_id"] for output in captured.outputs}) == 1
    assert [output.data["text/plain"] for output in captured.outputs] == lines
    assert len({output.data["image/png"] for output in captured.outputs}) == 3

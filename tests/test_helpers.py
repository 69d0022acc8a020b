"""helpers.py: data, loaders, training, saving, figures."""

import copy
import errno
import gzip
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from recipes import AS_SUBMITTED, RECIPES, MovingAverage, Net, run_recipe
from results import ROOT

import helpers

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def mnist():
    return helpers.load_mnist(ROOT / "data")


def toy_data(n=70, seed=0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 1, 28, 28, generator=generator), torch.arange(n) % 10)


def toy_model(seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 10),
        nn.LogSoftmax(1),
    )


def sgd(model, lr=0.01):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


# ---------------------------------------------------------------- data


def test_mnist_is_the_whole_of_it(mnist):
    for dataset, count in zip(mnist, (60_000, 10_000)):
        images, labels = dataset.tensors
        assert images.shape == (count, 1, 28, 28) and images.dtype == torch.float32
        assert labels.shape == (count,) and labels.dtype == torch.int64
        assert labels.unique().tolist() == list(range(10))


def test_mnist_is_normalised_by_the_training_set(mnist):
    images = mnist[0].tensors[0].double()
    assert images.mean().abs() < 1e-3 and abs(images.std() - 1) < 1e-3
    assert images.min().item() == pytest.approx(-0.1307 / 0.3081, abs=1e-6)


def test_training_and_test_images_are_disjoint(mnist):
    train_images, test_images = ({image.numpy().tobytes() for image in part.tensors[0]} for part in mnist)
    assert not train_images & test_images


def test_first_image_is_that_of_the_file(mnist):
    with gzip.open(ROOT / "data/MNIST/raw/train-images-idx3-ubyte.gz") as file:
        pixels = torch.frombuffer(bytearray(file.read(16 + 784)[16:]), dtype=torch.uint8).reshape(1, 28, 28)
    assert torch.equal(mnist[0].tensors[0][0], helpers.normalise(pixels)[0])


# ---------------------------------------------------------------- TensorLoader


def test_loader_gives_every_sample_once_and_a_short_last_batch():
    data = toy_data(70)
    loader = helpers.TensorLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(1))
    batches = list(loader)
    assert len(loader) == 3 and [len(labels) for _, labels in batches] == [32, 32, 6]
    seen = torch.cat([images for images, _ in batches]).flatten(1)
    assert torch.equal(seen.sum(1).sort().values, data.tensors[0].flatten(1).sum(1).sort().values)
    first, second = (torch.cat([labels for _, labels in loader]) for _ in range(2))
    assert not torch.equal(first, second)


def test_one_image_is_a_batch():
    assert [len(labels) for _, labels in helpers.TensorLoader(toy_data(1), 8)] == [1]


def test_loader_without_shuffle_equals_a_dataloader():
    data = toy_data(70)
    for ours, theirs in zip(helpers.TensorLoader(data, 32), DataLoader(data, 32), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_loader_augments_images_and_leaves_the_dataset_alone():
    data = toy_data(40)
    before = data.tensors[0].clone()
    images, labels = next(iter(helpers.TensorLoader(data, 32, augment=lambda images: images + 1)))
    assert torch.equal(images, before[:32] + 1) and torch.equal(labels, data.tensors[1][:32])
    assert torch.equal(data.tensors[0], before)


def test_a_loader_augments_its_first_passes():
    loader = helpers.TensorLoader(toy_data(8), 8, augment=torch.zeros_like, augment_epochs=2)
    assert [not images.any() for _ in range(3) for images, _ in loader] == [True, True, False]


# ---------------------------------------------------------------- train and test


def test_test_equals_a_computation_by_hand_on_a_short_last_batch():
    data, model = toy_data(70), toy_model().eval()
    loss, accuracy = helpers.test(model, "cpu", helpers.TensorLoader(data, 32))
    images, labels = data.tensors
    with torch.no_grad():
        log_probabilities = model(images)
    by_hand = -sum(log_probabilities[i, labels[i]].item() for i in range(70)) / 70
    right = sum(int(log_probabilities[i].argmax()) == int(labels[i]) for i in range(70))
    assert loss == pytest.approx(by_hand, rel=1e-5)
    assert accuracy == pytest.approx(100 * right / 70)


def test_train_equals_a_computation_by_hand_on_a_short_last_batch():
    data = toy_data(70)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))
    weight, bias = model[1].weight.detach().clone(), model[1].bias.detach().clone()
    loss, accuracy = helpers.train(
        model, "cpu", helpers.TensorLoader(data, 32), torch.optim.SGD(model.parameters(), 0.01)
    )
    loss_sum = right = 0
    for start in (0, 32, 64):  # the gradient of softmax and NLL in closed form: (p - one_hot) x
        x, y = data.tensors[0][start : start + 32].flatten(1), data.tensors[1][start : start + 32]
        p = (x @ weight.T + bias).softmax(1)
        loss_sum -= p[torch.arange(len(y)), y].log().sum().item()
        right += (p.argmax(1) == y).sum().item()
        error = (p - nn.functional.one_hot(y, 10)) / len(y)
        weight, bias = weight - 0.01 * error.T @ x, bias - 0.01 * error.sum(0)
    assert loss == pytest.approx(loss_sum / 70, rel=1e-4)
    assert accuracy == pytest.approx(100 * right / 70)
    assert torch.allclose(model[1].weight, weight, atol=1e-5) and torch.allclose(model[1].bias, bias, atol=1e-5)


def test_test_changes_nothing():
    model = toy_model()
    before = copy.deepcopy(model.state_dict())
    helpers.test(model, "cpu", helpers.TensorLoader(toy_data(), 32))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_train_steps_its_scheduler_after_every_batch():
    loader = helpers.TensorLoader(toy_data(70), 32)
    model = toy_model()
    optimizer = sgd(model)
    cycle = OneCycleLR(optimizer, 0.1, total_steps=6)
    helpers.train(model, "cpu", loader, optimizer, cycle)
    assert cycle.last_epoch == 3


def test_a_dataloader_serves_as_well():
    data = toy_data(70)
    results = []
    for loader in (helpers.TensorLoader(data, 32), DataLoader(data, 32)):
        model = toy_model(1)
        model[3] = nn.Identity()  # a DataLoader draws from the random numbers that dropout would get
        results.append(helpers.fit(model, "cpu", loader, loader, sgd(model), epochs=2).drop(columns="seconds"))
    pd.testing.assert_frame_equal(*results)


# ---------------------------------------------------------------- fit


def run_fit(make_scheduler, epochs=4, average=False, step_every="epoch"):
    model = toy_model(2)
    optimizer = sgd(model, 0.1)
    loader = helpers.TensorLoader(toy_data(), 32, shuffle=True, generator=torch.Generator().manual_seed(2))
    averaged = AveragedModel(model, use_buffers=True) if average else None
    history = helpers.fit(
        model,
        "cpu",
        loader,
        helpers.TensorLoader(toy_data(30, seed=1), 16),
        optimizer,
        make_scheduler(optimizer),
        epochs,
        averaged,
        step_every=step_every,
    )
    return model, averaged, history


def test_history_has_one_row_an_epoch():
    _, _, history = run_fit(lambda optimizer: None, epochs=3)
    assert list(history.columns) == [
        "epoch",
        "lr",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "seconds",
    ]
    assert history["epoch"].tolist() == [1, 2, 3] and (history["seconds"] > 0).all()
    assert history["train_accuracy"].between(0, 100).all() and history["train_accuracy"].max() > 1


def test_every_scheduler_steps_as_its_class_expects():
    assert run_fit(lambda optimizer: StepLR(optimizer, 2, gamma=0.1))[2]["lr"].tolist() == pytest.approx(
        [0.1, 0.1, 0.01, 0.01]
    )
    one_cycle = run_fit(lambda optimizer: OneCycleLR(optimizer, 0.4, epochs=4, steps_per_epoch=3), step_every="batch")[
        2
    ]["lr"]
    assert one_cycle[0] == pytest.approx(0.4 / 25) and one_cycle.idxmax() == 1 and one_cycle[3] < one_cycle[2]
    # A loss that can't get under the threshold halves the rate after patience + 1 epochs without improvement.
    plateau = run_fit(lambda optimizer: ReduceLROnPlateau(optimizer, "min", patience=0, factor=0.5, threshold=0.999))[2]
    assert plateau["lr"].tolist() == pytest.approx([0.1, 0.1, 0.05, 0.025])
    # In mode "max" it is given the accuracy, which can't rise by that much either; of a loss it would keep the best.
    rising = run_fit(
        lambda optimizer: ReduceLROnPlateau(
            optimizer, "max", patience=0, factor=0.5, threshold=99, threshold_mode="abs"
        )
    )[2]
    assert rising["lr"].tolist() == pytest.approx([0.1, 0.1, 0.05, 0.025])
    cosine = run_fit(lambda optimizer: CosineAnnealingLR(optimizer, T_max=12), step_every="batch")[2]["lr"]
    assert cosine.tolist() == pytest.approx([0.1 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)])


def test_a_cyclic_rate_goes_up_and_down_by_batches():
    rates = run_fit(
        lambda optimizer: CyclicLR(optimizer, 0.1, 0.4, step_size_up=6, step_size_down=6), step_every="batch"
    )[2]["lr"]
    assert rates.tolist() == pytest.approx([0.1, 0.25, 0.4, 0.25])  # of 3 batches an epoch


def test_the_schedule_steps_on_the_test_set():
    class Recorder(ReduceLROnPlateau):
        def step(self, metrics):
            seen.append(metrics)
            super().step(metrics)

    for mode, column in (("min", "test_loss"), ("max", "test_accuracy")):
        seen = []
        history = run_fit(lambda optimizer: Recorder(optimizer, mode))[2]
        assert seen == history[column].tolist()


def test_test_columns_are_the_averages():
    model, averaged, history = run_fit(lambda optimizer: None, average=True)
    loader = helpers.TensorLoader(toy_data(30, seed=1), 16)
    assert history["test_loss"].iloc[-1] == helpers.test(averaged, "cpu", loader)[0]
    assert history["test_loss"].iloc[-1] != helpers.test(model, "cpu", loader)[0]
    assert averaged.n_averaged == 4 * 3


def test_the_average_of_the_final_recipe_forgets_its_start():
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model)
    for count in range(51):
        nn.init.constant_(model.weight, 0.0 if count == 0 else 1.0)
        average.update_parameters(model)
    share = math.prod((1 + n) / (10 + n) for n in range(1, 51))  # the start's
    assert average.module.weight.item() == pytest.approx(1 - share, abs=1e-5)
    average.n_averaged.fill_(20_000)
    before = average.module.weight.item()
    nn.init.constant_(model.weight, 2.0)
    average.update_parameters(model)
    late = before + 0.001 * (2 - before)  # a batch counts for a thousandth
    assert average.module.weight.item() == pytest.approx(late, abs=1e-5)


def test_same_seed_same_weights_to_the_bit(mnist):
    small = TensorDataset(*(tensor[:128] for tensor in mnist[0].tensors))
    for name in ("as submitted", "final"):
        recipe = RECIPES[name]
        (one, first), (two, second) = (run_recipe(recipe, small, small, seed=3, epochs=2) for _ in range(2))
        other, _ = run_recipe(recipe, small, small, seed=4, epochs=2)
        pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))
        assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
        assert not all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


def test_in_a_terminal_a_line_tells_how_far_a_run_is(tmp_path, capsys):
    def line(epochs):
        model, data = toy_model(), helpers.TensorLoader(toy_data(), 35)
        history = helpers.fit(model, "cpu", data, data, sgd(model), epochs=epochs, checkpoint=tmp_path / "run.pt")
        return capsys.readouterr().err.split("\r")[-1], history.iloc[-1]

    shown, last = line(2)
    assert shown.startswith("2/2 epochs") and f"test accuracy {last['test_accuracy']:.2f}%" in shown
    assert f"loss {last['train_loss']:.4f} in training, {last['test_loss']:.4f} in test" in shown
    assert "resumed" not in shown
    shown, last = line(3)
    assert shown.startswith("3/3 epochs") and "resumed after epoch 2" in shown


def test_one_epoch_of_the_brief_learns(mnist):
    part = TensorDataset(*(tensor[:6400] for tensor in mnist[0].tensors))
    _, history = run_recipe(AS_SUBMITTED, part, mnist[1], seed=1, epochs=1)
    assert history["test_accuracy"].iloc[0] > 60


def test_a_compiled_model_trains_as_the_model_does(tmp_path):
    def history(compiled):
        model = toy_model()
        model = torch.compile(model, backend="eager") if compiled else model
        loader = helpers.TensorLoader(toy_data(), 32)
        average = MovingAverage(model)
        fitted = helpers.fit(model, "cpu", loader, loader, sgd(model), epochs=2, average=average)
        return fitted.drop(columns="seconds")

    pd.testing.assert_frame_equal(history(True), history(False))
    compiled = torch.compile(Net(), backend="eager")
    assert helpers.receptive_field(compiled)["receptive_field"].tolist() == [3, 5, 9, 11, 19, 27, 43]
    assert helpers.measured_receptive_field(compiled) == (28, 28)
    helpers.save_model(compiled, tmp_path / "compiled.pt")
    assert helpers.load_model(Net(), tmp_path / "compiled.pt")


def test_a_notebook_shows_one_line_and_one_picture_and_updates_them(monkeypatch):
    shown, updates = [], []

    class Handle:
        def __init__(self, thing):
            shown.append(thing)

        def update(self, thing, raw):
            updates.append((thing, raw))

    class Shell:
        kernel = None

    monkeypatch.setattr(helpers, "get_ipython", Shell)
    monkeypatch.setattr(helpers.display, "display", lambda thing, display_id, raw: Handle(thing))
    _, _, history = run_fit(lambda optimizer: None, epochs=3)
    line, picture = shown
    assert "1/3 epochs" in line["text/plain"] and "resumed" not in line["text/plain"]
    assert [raw for _, raw in updates] == [True, False] * 3
    last_line, last_picture = (thing for thing, _ in updates[-2:])
    assert f"test accuracy {history['test_accuracy'].iloc[-1]:.2f}%" in last_line["text/plain"]
    loss, accuracy = last_picture.axes
    assert loss.lines[1].get_ydata().tolist() == history["test_loss"].tolist() and loss.get_xlim() == (0.5, 3.5)
    assert accuracy.lines[0].get_ydata().tolist() == history["train_accuracy"].tolist()


# ---------------------------------------------------------------- saving


def test_saved_weights_come_back(tmp_path):
    model = toy_model(1)
    helpers.save_model(model, tmp_path / "model.pt")
    loaded = helpers.load_model(toy_model(2), tmp_path / "model.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values()))
    assert not loaded.training and [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    averaged = AveragedModel(model, use_buffers=True)
    averaged.update_parameters(toy_model(3))
    helpers.save_model(averaged, tmp_path / "model.pt")
    loaded = helpers.load_model(toy_model(2), tmp_path / "model.pt")
    assert torch.equal(loaded[0].weight, toy_model(3)[0].weight)


def test_a_full_disk_leaves_the_last_weights(tmp_path, monkeypatch):
    helpers.save_model(toy_model(1), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()

    def fill(state, path):
        Path(path).write_bytes(before[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(OSError, match="No space"):
        helpers.save_model(toy_model(2), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before


# ---------------------------------------------------------------- wrong inputs: what a student could pass by mistake


def fit_toy(model=None, data=None, **changes):
    model = model or toy_model()
    loader = changes.pop("loader", None) or helpers.TensorLoader(data or toy_data(), 32)
    optimizer = changes.pop("optimizer", None) or sgd(model)
    return helpers.fit(model, "cpu", loader, loader, optimizer, **{"epochs": 1, **changes})


def scheduled(make_scheduler, **changes):
    optimizer = sgd(model := toy_model())
    return fit_toy(model, optimizer=optimizer, scheduler=make_scheduler(optimizer), **changes)


def twice(make_scheduler, **changes):
    optimizer = sgd(model := toy_model())
    scheduler = make_scheduler(optimizer)
    for _ in range(2):
        fit_toy(model, optimizer=optimizer, scheduler=scheduler, **changes)


def with_a_new_head():
    """A layer is exchanged after the optimizer was made, which goes on moving the old one."""
    optimizer = sgd(model := toy_model())
    model[5] = nn.Linear(4 * 8 * 8, 10)
    fit_toy(model, optimizer=optimizer)


def with_a_used_average(path=None):
    average = AveragedModel(toy_model(), use_buffers=True)
    average.update_parameters(toy_model(1))
    fit_toy(average=average, checkpoint=path)


def with_tensors(images=None, labels=None):
    data = toy_data(64)
    return TensorDataset(data.tensors[0] if images is None else images, data.tensors[1] if labels is None else labels)


def late_label(value):
    labels = torch.zeros(64, dtype=torch.int64)
    labels[-1] = value
    return with_tensors(labels=labels)


def saved(path, what):
    torch.save(what, path)
    return path


noise = torch.randn(64, 1, 28, 28)
# What is passed, and what the error must say: ours where PyTorch would go on in silence or be obscure, else its own.
CASES = {
    # data
    "no such device": (lambda _: helpers.load_mnist(ROOT / "data", "cuda:7"), "NVIDIA|CUDA|cuda"),
    "no device at all": (lambda _: helpers.load_mnist(ROOT / "data", "gpu"), "gpu"),
    "images normalised twice": (lambda _: helpers.normalise(noise), "uint8"),
    "images with a channel": (lambda _: helpers.normalise(noise.to(torch.uint8)), r"\(N, 28, 28\); got .*1, 28, 28"),
    "labels and images of other counts": (
        lambda _: helpers.plot_digits(noise[:3], ["1", "2"]),
        "3 images need as many titles",
    ),
    # schedules
    "one-cycle by epoch": (
        lambda _: scheduled(lambda o: OneCycleLR(o, 0.1, total_steps=9), epochs=3),
        "made for 9 steps.*makes 3",
    ),
    "one-cycle of another length": (
        lambda _: scheduled(lambda o: OneCycleLR(o, 0.1, total_steps=8), epochs=3, step_every="batch"),
        "made for 8.*makes 9",
    ),
    "cosine by epoch, made for batches": (
        lambda _: scheduled(lambda o: CosineAnnealingLR(o, 9), epochs=3),
        "made for 9",
    ),
    "one-cycle within a sequence": (
        lambda _: scheduled(
            lambda o: SequentialLR(o, [StepLR(o, 1), OneCycleLR(o, 0.1, total_steps=9)], [1]), epochs=3
        ),
        "OneCycleLR was made for 9",
    ),
    "cosine that ends early": (
        lambda _: scheduled(lambda o: CosineAnnealingLR(o, 3), epochs=3, step_every="batch"),
        "made for 3 steps.*makes 9",
    ),
    "a polynomial by epoch, made for batches": (
        lambda _: scheduled(lambda o: PolynomialLR(o, 9), epochs=3),
        "made for 9 steps.*makes 3",
    ),
    "a plateau by batch": (
        lambda _: scheduled(ReduceLROnPlateau, epochs=3, step_every="batch"),
        'ReduceLROnPlateau needs step_every="epoch"',
    ),
    "the fit cell again, without a checkpoint": (
        lambda _: twice(lambda o: CosineAnnealingLR(o, 3), epochs=3),
        "stepped before",
    ),
    "cyclic by epoch": (
        lambda _: scheduled(lambda o: CyclicLR(o, 0.01, 0.1), epochs=3),
        'CyclicLR needs step_every="batch"',
    ),
    "steps at no known time": (lambda _: fit_toy(step_every="step"), "step_every must be"),
    # TensorLoader
    "empty dataset": (lambda _: helpers.TensorLoader(TensorDataset(noise[:0], torch.zeros(0).long()), 8), "not empty"),
    "images without labels": (lambda _: helpers.TensorLoader(TensorDataset(noise), 8), "images and labels"),
    "a dataset of pictures": (lambda _: helpers.TensorLoader([(noise[0], 3)], 8), "TensorDataset"),
    "an augmentation in shuffle's place": (lambda _: helpers.TensorLoader(toy_data(), 8, torch.neg), "positional"),
    "zero batch size": (lambda _: helpers.TensorLoader(toy_data(), 0), "batch_size"),
    "fraction of a batch": (lambda _: helpers.TensorLoader(toy_data(), 6.4), "batch_size"),
    "labels below zero": (lambda _: helpers.TensorLoader(late_label(-100), 32), "labels must be 0 or more, got -100"),
    # train, test, fit
    "a list of batches": (lambda _: fit_toy(loader=[(noise, torch.zeros(64).long())]), "TensorLoader or a DataLoader"),
    "a test that augments": (
        lambda _: fit_toy(loader=helpers.TensorLoader(toy_data(), 32, augment=torch.neg)),
        "without augment",
    ),
    "empty loader": (lambda _: helpers.test(toy_model(), "cpu", []), "no batch"),
    "images and labels swapped": (
        lambda _: fit_toy(data=TensorDataset(torch.arange(64) % 10, noise)),
        "labels must be 0 or more",
    ),
    "raw pixels": (lambda _: fit_toy(data=with_tensors(noise.to(torch.uint8))), "dtype|type"),
    "images without channel": (lambda _: fit_toy(data=with_tensors(noise[:, 0])), "channels"),
    "images too large": (lambda _: fit_toy(Net(), with_tensors(torch.zeros(64, 1, 96, 96))), "batch_size"),
    "images too small": (lambda _: fit_toy(Net(), with_tensors(torch.zeros(64, 1, 8, 8))), "too small|Kernel size"),
    "one label short": (lambda _: with_tensors(labels=torch.zeros(63)), "Size mismatch"),
    "labels out of range": (lambda _: fit_toy(data=with_tensors(labels=torch.full((64,), 10))), r"0\.\.9"),
    "one late label out of range": (lambda _: fit_toy(data=late_label(10)), "Target 10 is out of bounds"),
    "labels as floats": (lambda _: fit_toy(data=with_tensors(labels=torch.zeros(64))), "Long|int64"),
    "one-hot labels": (lambda _: fit_toy(data=with_tensors(labels=torch.zeros(64, 10))), "1D target"),
    "a model of 5 classes": (
        lambda _: fit_toy(nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.LogSoftmax(1))),
        r"0\.\.4",
    ),
    "logits, not log-probabilities": (lambda _: fit_toy(toy_model()[:-1]), "log_softmax"),
    "probabilities": (lambda _: fit_toy(nn.Sequential(*toy_model()[:-1], nn.Softmax(1))), "log_softmax"),
    "logits in a test": (
        lambda _: helpers.test(toy_model()[:-1], "cpu", helpers.TensorLoader(toy_data(), 70)),
        "log_softmax",
    ),
    "softmax over the batch": (lambda _: fit_toy(nn.Sequential(*toy_model()[:-1], nn.LogSoftmax(0))), "dim=1"),
    "nan in the images": (lambda _: fit_toy(data=with_tensors(noise * math.nan)), "nan"),
    "learning rate too high": (
        lambda _: fit_toy(optimizer=sgd(model := toy_model(), 1e38), model=model),
        "learning rate",
    ),
    "another model's optimizer": (lambda _: fit_toy(optimizer=sgd(toy_model())), "model.parameters"),
    "a layer exchanged after the optimizer was made": (lambda _: with_a_new_head(), "not this model's"),
    "an average that another run used": (lambda _: with_a_used_average(), "average was used before"),
    "another optimizer's scheduler": (lambda _: fit_toy(scheduler=StepLR(sgd(toy_model()), 1)), "another optimizer"),
    "average without buffers": (lambda _: fit_toy(average=AveragedModel(toy_model())), "use_buffers"),
    "zero epochs": (lambda _: fit_toy(epochs=0), "epochs"),
    "no folder for the checkpoint": (
        lambda path: fit_toy(checkpoint=path / "nowhere" / "run.pt"),
        "a folder that exists, got .*nowhere",
    ),
    "an empty name for the checkpoint": (lambda _: fit_toy(checkpoint=""), "must be a file"),
    "a folder for the checkpoint": (lambda path: fit_toy(checkpoint=path), "must be a file"),
    "epochs as text": (lambda _: fit_toy(epochs="20"), "epochs.*'20'"),
    # saving and loading
    "no such folder": (lambda path: helpers.save_model(toy_model(), path / "nowhere" / "model.pt"), "nowhere"),
    "no such file": (lambda path: helpers.load_model(toy_model(), path / "model.pt"), "model.pt"),
    "no weights": (
        lambda path: helpers.load_model(toy_model(), saved(path / "m.pt", toy_model())),
        "m.pt holds more than tensors",
    ),
    "another network's weights": (
        lambda path: helpers.load_model(toy_model(), saved(path / "m.pt", Net().state_dict())),
        "conv1.weight",
    ),
    "a checkpoint as weights": (
        lambda path: helpers.load_model(toy_model(), saved(path / "m.pt", {"sums": {}, "history": []})),
        "m.pt is a checkpoint of fit",
    ),
    # receptive field
    "no channel in input_size": (lambda _: helpers.receptive_field(Net(), (28, 28)), "channels, height, width"),
    "input_size too small": (lambda _: helpers.receptive_field(Net(), (1, 8, 8)), "can't be traced"),
    "no such layer": (lambda _: helpers.measured_receptive_field(Net(), (1, 28, 28), "conv9"), "no layer 'conv9'"),
    # figures
    "no digits": (lambda _: helpers.plot_digits(noise[:0]), "no digit"),
    "no mistakes": (
        lambda _: helpers.plot_mistakes(noise[:1], torch.tensor([0]), torch.eye(10)[:1].log()),
        "no mistake",
    ),
    "probabilities for their logarithms": (
        lambda _: helpers.plot_mistakes(noise[:1], torch.tensor([1]), torch.eye(10)[:1]),
        "log_softmax",
    ),
    "answers of nan": (
        lambda _: helpers.plot_mistakes(noise[:1], torch.tensor([1]), torch.full((1, 10), math.nan)),
        "log_softmax",
    ),
    "logits below zero for log-probabilities": (
        lambda _: helpers.plot_mistakes(noise[:1], torch.tensor([1]), torch.full((1, 10), -7.0)),
        "log_softmax",
    ),
    "the labels of fewer images": (
        lambda _: helpers.plot_mistakes(noise[:2], torch.tensor([1]), torch.full((2, 10), 0.1).log()),
        r"equally many, got \[1, 2\]",
    ),
    "labels in a column": (
        lambda _: helpers.plot_confusion(torch.ones(3, 1).long(), torch.ones(3).long()),
        "equally many",
    ),
    "an answer that is no digit": (
        lambda _: helpers.plot_confusion(torch.tensor([1]), torch.tensor([15])),
        "digits, 0 to 9",
    ),
    "no history": (lambda _: helpers.plot_curves(pd.DataFrame()), "epoch"),
    "answers not chosen": (
        lambda _: helpers.plot_confusion(torch.zeros(64).long(), torch.zeros(64, 10)),
        "equally many",
    ),
}


# Errors of PyTorch and pandas, clear as they are; all others are our ValueError.
THEIRS = {
    "an augmentation in shuffle's place": TypeError,
    "no such device": (RuntimeError, AssertionError),  # the latter where PyTorch was built without CUDA
    "no device at all": RuntimeError,
    "raw pixels": RuntimeError,
    "images without channel": RuntimeError,
    "images too small": RuntimeError,
    "one label short": AssertionError,
    "one late label out of range": IndexError,
    "labels as floats": RuntimeError,
    "one-hot labels": RuntimeError,
    "no such folder": RuntimeError,
    "another network's weights": RuntimeError,
    "no history": KeyError,
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_named(case, tmp_path):
    call, message = CASES[case]
    with pytest.raises(THEIRS.get(case, ValueError), match=message):
        call(tmp_path)


def test_a_refused_run_leaves_no_file(tmp_path):
    """Else the next call, with everything made anew as advised, would read the used average back."""
    with pytest.raises(ValueError, match="used before"):
        with_a_used_average(tmp_path / "run.pt")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- figures


def test_figures_show_what_they_are_given():
    _, _, history = run_fit(lambda optimizer: StepLR(optimizer, 1), epochs=3)
    curves = helpers.plot_curves(history, "title")
    assert [axes.get_ylabel() for axes in curves.axes] == [
        "loss (nats, log scale)",
        "accuracy (%)",
        "learning rate\nat the epoch's start",
    ]
    assert curves.axes[1].lines[1].get_ydata().tolist() == history["test_accuracy"].tolist()
    assert curves.axes[2].get_xlim() == (0.5, 3.5)
    assert [text.get_text() for text in curves.axes[1].get_legend().get_texts()] == ["training", "test", "99.28%"]

    log_probabilities = torch.eye(10)[torch.tensor([1, 1, 3])].mul(0.9).add(0.01).log()
    labels = torch.tensor([1, 2, 3])
    mistakes = helpers.plot_mistakes(torch.zeros(3, 1, 28, 28), labels, log_probabilities)
    assert [axes.get_title() for axes in mistakes.axes if axes.get_title()] == ["2 → 1\n91%"]

    sure = torch.tensor([0.5, 0.9, 0.7, 0.6])
    answers = torch.stack([1 - sure, sure], 1).log()
    worst = helpers.plot_mistakes(torch.zeros(4, 1, 28, 28), torch.tensor([0, 0, 1, 0]), answers, count=2)
    assert [axes.get_title() for axes in worst.axes if axes.get_title()] == ["0 → 1\n90%", "0 → 1\n60%"]

    confusion = helpers.plot_confusion(labels, log_probabilities.argmax(1))
    shown = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in confusion.axes[0].texts}
    assert shown[2, 1] == "1" and shown[1, 1] == "1" and shown[2, 2] == "·"

    fields = helpers.plot_receptive_field(helpers.receptive_field(Net()), torch.zeros(28, 28))
    frames = [axes.patches[-1] for axes in fields.axes if axes.patches]
    assert [frame.get_width() for frame in frames] == [3, 5, 9, 11, 19, 27, 43]
    assert [frame.get_x() for frame in frames] == [13, 11, 9, 9, 5, -3, -11]  # where they lie, not centred
    matplotlib.pyplot.close("all")


def test_figures_take_what_a_student_has():
    labels = torch.tensor([3, 4])
    assert [axes.get_title() for axes in helpers.plot_digits(noise[:2], labels, columns=2).axes] == ["3", "4"]
    for epochs in (1, 100):
        rows = [
            {
                "epoch": epoch,
                "lr": 0.1,
                "train_loss": 0.1,
                "train_accuracy": 99.0,
                "test_loss": 0.1,
                "test_accuracy": 99.0,
                "seconds": 1.0,
            }
            for epoch in range(1, epochs + 1)
        ]
        curves = helpers.plot_curves(pd.DataFrame(rows), target=None)
        assert len(curves.axes[1].lines) == 2 and len(curves.axes[2].get_xticks()) < 20
    table = helpers.receptive_field(
        nn.Sequential(nn.Conv2d(1, 1, (3, 5), stride=(1, 2)), nn.MaxPool2d((1, 2))), (1, 20, 40)
    )
    frames = [
        axes.patches[-1] for axes in helpers.plot_receptive_field(table, torch.zeros(1, 20, 40)).axes if axes.patches
    ]
    assert [(frame.get_height(), frame.get_width()) for frame in frames] == [(3, 5), (3, 7)]
    matplotlib.pyplot.close("all")


def test_numbers_of_numpy_are_numbers(tmp_path):
    """A learning rate, a count of epochs and a batch size as numpy gives them: trained, saved, and read again."""

    def run(epochs):
        model = toy_model()
        optimizer = sgd(model, np.float64(0.01))
        loader = helpers.TensorLoader(toy_data(), np.int64(32))
        schedule = StepLR(optimizer, 2, gamma=np.float32(0.5))
        return helpers.fit(
            model, "cpu", loader, loader, optimizer, schedule, np.int64(epochs), checkpoint=tmp_path / "run.pt"
        )

    first, second = run(2), run(3)
    assert second["train_loss"].tolist()[:2] == first["train_loss"].tolist() and len(second) == 3


def test_half_precision_is_summed_in_full():
    data = toy_data(640)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))
    expected = helpers.test(model, "cpu", helpers.TensorLoader(data, 32))[0]
    half = TensorDataset(data.tensors[0].bfloat16(), data.tensors[1])
    assert helpers.test(model.bfloat16(), "cpu", helpers.TensorLoader(half, 32))[0] == pytest.approx(expected, rel=0.02)
    helpers.train(model, "cpu", helpers.TensorLoader(half, 32), sgd(model))

"""Helpers of the MNIST walkthrough (S6_Part2.ipynb): data, training, receptive field, figures.

Images are float32 tensors (N, 1, 28, 28), labels int64 tensors (N,). Accuracy is in percent, 0 to 100.
"""
import contextlib
import copy
import io
import math
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import display, get_ipython
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import TensorDataset
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to 0..1


def _require(condition, message: str) -> None:
    """Raise ValueError with the message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


# ---------------------------------------------------------------- data
def read_mnist(root="data") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return MNIST as stored: train images (60000, 28, 28) uint8, train labels, test images, test labels.

    Missing or damaged .gz files in root/MNIST/raw are downloaded, a damaged one kept under another name; all are
    extracted in a temporary folder. Raises RuntimeError, naming the files.
    """
    raw = Path(root, "MNIST", "raw")
    bad = [raw / name for name, md5 in MNIST.resources if not check_integrity(raw / name, md5)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            copies = Path(folder, "MNIST", "raw")
            copies.mkdir(parents=True)
            for path in raw.glob("*.gz"):
                shutil.copyfile(path, copies / path.name)
            train_set, test_set = (MNIST(folder, train=part, download=True) for part in (True, False))
            with contextlib.suppress(OSError):  # keep the download, where root can be written
                raw.mkdir(parents=True, exist_ok=True)
                for path in bad:
                    if path.exists():
                        path.rename(f"{path}.damaged-{time.time_ns()}")
                    shutil.copyfile(copies / path.name, path)
    except (OSError, RuntimeError) as error:
        found = "; ".join(f"{path} is {'damaged' if path.exists() else 'missing'}" for path in bad)
        raise RuntimeError(f"MNIST can't be read: {found or error}. Remedy: connect to the internet, or put sound "
                           "copies there; 60 MB of disk must be free") from error
    return train_set.data, train_set.targets, test_set.data, test_set.targets


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 images (N, 28, 28) into float32 (N, 1, 28, 28) with mean 0 and standard deviation 1."""
    _require(images.dtype == torch.uint8, f"images must be uint8 pixels, 0 to 255; got {images.dtype}")
    return images.unsqueeze(1).float().div(255).sub(MEAN).div(STD)


def load_mnist(root="data", device="cpu") -> tuple[TensorDataset, TensorDataset]:
    """Return (train, test): normalised images (N, 1, 28, 28) and labels (N,), held on the device."""
    data = read_mnist(root)
    return tuple(TensorDataset(normalise(x).to(device), y.to(device)) for x, y in (data[:2], data[2:]))


class TensorLoader:
    """Batches of a TensorDataset (images, labels) that already lies on its device; len() counts batches.

    augment is called on each batch of images in the first augment_epochs passes; generator (CPU) fixes the order.
    """
    def __init__(self, dataset, batch_size, shuffle=False, augment=None, generator=None, augment_epochs=math.inf):
        _require(isinstance(dataset, TensorDataset) and len(dataset) > 0 and len(dataset.tensors) == 2,
                 f"dataset must be a TensorDataset of images and labels, not empty; got {type(dataset).__name__}")
        _require(dataset.tensors[1].min() >= 0, f"labels must be 0 or more, got {dataset.tensors[1].min()}")
        _require(isinstance(batch_size, int) and batch_size > 0, f"batch_size must be 1 or more, got {batch_size!r}")
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.augment, self.generator, self.augment_epochs, self.epoch = augment, generator, augment_epochs, 0

    def __len__(self):
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self):
        (images, labels), self.epoch = self.dataset.tensors, self.epoch + 1
        augment = self.augment if self.epoch <= self.augment_epochs else None
        order = torch.randperm(len(labels), generator=self.generator) if self.shuffle else torch.arange(len(labels))
        for batch in order.to(labels.device).split(self.batch_size):
            yield augment(images[batch]) if augment else images[batch], labels[batch]


# ---------------------------------------------------------------- training
def train(model: nn.Module, device, loader, optimizer, scheduler=None, average=None) -> tuple[float, float]:
    """Train for one epoch; return (loss, accuracy in %), averaged over the samples seen.

    model maps images to log-probabilities (N, classes); scheduler steps here only if its class steps every batch;
    average, an AveragedModel, takes in the weights after each batch. Raises ValueError for wrong inputs, a nan loss.
    """
    held = {weights for group in optimizer.param_groups for weights in group["params"]}
    _require(held & set(model.parameters()), "optimizer holds none of the model's weights: give it model.parameters()")
    model.train()
    loss_sum = correct = samples = 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        output = model(images)
        if samples == 0:
            _check(labels, output)
        loss = F.nll_loss(output, labels)
        loss.backward()
        optimizer.step()
        if isinstance(scheduler, (OneCycleLR, CyclicLR)):
            scheduler.step()
        if average is not None:
            average.update_parameters(model)
        # The sums stay on the device: with .item() here a GPU would wait for every batch.
        loss_sum += loss.detach() * len(labels)
        correct += (output.argmax(1) == labels).sum()
        samples += len(labels)
    _require(samples > 0, "loader gave no batch: its dataset is empty")
    _require(math.isfinite(loss_sum), "the loss became nan or infinite: lower the learning rate or look at the images")
    return float(loss_sum) / samples, 100 * int(correct) / samples


@torch.no_grad()
def test(model: nn.Module, device, loader) -> tuple[float, float]:
    """Return (loss, accuracy in %) of the model over all samples of the loader; nothing is learned."""
    model.eval()
    batches = [(model(images.to(device)), labels.to(device)) for images, labels in loader]
    _require(batches, "loader gave no batch: its dataset is empty")
    output, labels = (torch.cat(parts) for parts in zip(*batches))
    _check(labels, output)
    loss, correct = F.nll_loss(output, labels), (output.argmax(1) == labels).sum()
    _require(math.isfinite(loss), "the loss became nan or infinite: lower the learning rate or look at the images")
    return float(loss), 100 * int(correct) / len(labels)


def _check(labels: torch.Tensor, output: torch.Tensor) -> None:
    """Refuse labels and output that would run without an error and give a wrong result."""
    _require(0 <= labels.min() and labels.max() < output.shape[1],
             f"labels must lie in 0..{output.shape[1] - 1}, got {labels.min()}..{labels.max()}")
    _require(not (output.detach().exp().sum(1) - 1).abs().max() > 0.01,  # nan passes here, and fails as a nan loss
             "model must return log-probabilities: end its forward with F.log_softmax(x, dim=1)")


def fit(model: nn.Module, device, train_loader, test_loader, optimizer, scheduler=None, epochs: int = 20,
        average=None, checkpoint=None) -> pd.DataFrame:
    """Train for some epochs, testing after each; return the history, a DataFrame with one row an epoch.

    Columns: epoch, lr (at the epoch's start), train_loss, train_accuracy, test_loss, test_accuracy, seconds (of
    training only). With average, an AveragedModel, the test columns are the average's. Every epoch is saved in the
    file checkpoint; the same call, with everything built anew from the same seed, goes on from there. Raises
    ValueError if that file is damaged or another run's.
    """
    _require(isinstance(epochs, int) and epochs > 0, f"epochs must be a whole number of at least 1, got {epochs!r}")
    _require(scheduler is None or scheduler.optimizer is optimizer, "scheduler was made for another optimizer")
    _require(average is None or average.use_buffers or not list(model.buffers()),
             "average needs use_buffers=True: without it BatchNorm's statistics are not averaged")
    parts = [part for part in (model, optimizer, scheduler, average) if part is not None]
    generators = [g for g in (torch.default_generator, train_loader.generator, *torch.cuda.default_generators) if g]
    run = checkpoint and fingerprint(model, device, train_loader, test_loader, optimizer, scheduler, epochs, average)
    history = _resume(checkpoint, run, parts, generators) if checkpoint and os.path.exists(checkpoint) else []
    train_loader.epoch = len(history)
    resumed = f", resumed after epoch {len(history)}" if history else ""
    # In a notebook the bar is a line of text, updated in place: tqdm's own bars store a widget or a trail.
    in_notebook = hasattr(get_ipython(), "kernel")
    with tqdm(total=epochs, initial=len(history), file=io.StringIO() if in_notebook else None, ascii=False,
              bar_format="{n_fmt}/{total_fmt} epochs |{bar:20}| {elapsed}, {remaining} left{postfix}" + resumed) as bar:
        line = display.display({"text/plain": str(bar)}, raw=True, display_id=True) if in_notebook else None
        for epoch in range(len(history) + 1, epochs + 1):
            lr, start = optimizer.param_groups[0]["lr"], time.perf_counter()
            train_loss, train_accuracy = train(model, device, train_loader, optimizer, scheduler, average)
            seconds = time.perf_counter() - start
            test_loss, test_accuracy = test(model if average is None else average, device, test_loader)
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(test_loss)
            elif scheduler is not None and not isinstance(scheduler, (OneCycleLR, CyclicLR)):
                scheduler.step()
            history.append({"epoch": epoch, "lr": lr, "train_loss": train_loss, "train_accuracy": train_accuracy,
                            "test_loss": test_loss, "test_accuracy": test_accuracy, "seconds": seconds})
            if checkpoint:
                saved = {"run": run, "history": history, "states": [part.state_dict() for part in parts],
                         "random": [generator.get_state() for generator in generators]}
                torch.save(saved, f"{checkpoint}.{os.getpid()}")
                os.replace(f"{checkpoint}.{os.getpid()}", checkpoint)  # so the file is whole at any moment
            bar.set_postfix_str(f"loss {train_loss:.4f} in training, {test_loss:.4f} in test; "
                                f"test accuracy {test_accuracy:.2f}%", refresh=False)
            bar.update()
            if in_notebook:
                line.update({"text/plain": str(bar)}, raw=True)
    return pd.DataFrame(history)


def fingerprint(model, device, loader, test_loader, optimizer, scheduler=None, epochs=20, average=None) -> str:
    """A checksum of what makes a run; of functions the names count, of data without tensors only the length."""
    data = [getattr(each.dataset, "tensors", ()) for each in (loader, test_loader)]
    sums = [zlib.crc32(tensor.cpu().numpy().tobytes()) for tensor in (*model.state_dict().values(), *data[0], *data[1])]
    settings = [model, device, {**vars(loader), "dataset": len(loader.dataset), "epoch": 0}, len(test_loader.dataset),
                optimizer, type(scheduler), scheduler and scheduler.state_dict(), epochs, sums, torch.initial_seed(),
                loader.generator and loader.generator.initial_seed(), average and vars(average)]
    with contextlib.suppress(Exception):  # some networks can't be traced; then the layers must do
        settings.append(torch.fx.symbolic_trace(model).code)
    return f"{zlib.crc32(re.sub(' at 0x[0-9A-Fa-f]+', '', repr(settings)).encode()):08x}"  # without addresses in memory


def _resume(path, run: str, parts: list, generators: list) -> list[dict]:
    """Bring all parts of a run to where its checkpoint left them; return the history so far."""
    saved = _load(path)
    _require(isinstance(saved, dict) and saved.get("run") == run,
             f"{path} is of another run, with other data, weights, recipe, seed or epochs: delete it to start anew")
    for part, state in zip(parts, saved["states"]):
        part.load_state_dict(state)
    for generator, state in zip(generators, saved["random"]):
        generator.set_state(state)
    return saved["history"]


def _load(path) -> dict:
    """Read a file of torch.save, running none of what it holds as code."""
    try:
        with zipfile.ZipFile(path) as file:
            _require(not file.testzip(), "a checksum is wrong")  # torch.load itself passes over flipped bits
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is missing, damaged, or not written by these helpers: make it anew") from error


def save_model(model: nn.Module, path) -> None:
    """Write the model's weights (its state_dict) to path."""
    torch.save(model.state_dict(), path)


def load_model(model: nn.Module, path, device="cpu") -> nn.Module:
    """Read weights from path into a model of the same class; return it on the device, in eval mode."""
    model.load_state_dict(_load(path))
    return model.to(device).eval()


# ---------------------------------------------------------------- receptive field
# Layers by what they do to a map: modules, functions and methods in one spelling, lower case without underscores.
# Windows slide, and the functions take these arguments; the next see the whole map, where one position is left.
WINDOWS = {"conv2d": "input weight bias stride padding dilation", "avgpool2d": "input kernel_size stride padding",
           "maxpool2d": "input kernel_size stride padding dilation"}
WHOLE_MAP = set("flatten view reshape mean adaptiveavgpool2d adaptivemaxpool2d".split())
POINTWISE = set("""add sub mul truediv neg abs clamp contiguous cat identity batchnorm batchnorm2d dropout dropout2d
    relu relu6 leakyrelu prelu elu gelu silu sigmoid tanh hardswish hardsigmoid hardtanh softplus mish""".split())


def _window(node, module) -> list[np.ndarray]:
    """Kernel size, stride, padding (top, left) and dilation of a node, each a pair; 1, 1, 0, 1 if pointwise."""
    kind = getattr(type(module) if module else node.target, "__name__", node.target).replace("_", "").lower()
    largest = np.max([source.meta["size"] for source in node.all_input_nodes], axis=0)
    same_size, one_position = np.array_equal(node.meta["size"], largest), np.all(node.meta["size"] == 1)
    given = {"stride": 1}
    if kind in WINDOWS:
        given = vars(module) if module else dict(zip(WINDOWS[kind].split(), node.args), **node.kwargs)
        kernel = given["weight"].meta["shape"][2:] if "weight" in given else given["kernel_size"]
    elif kind in POINTWISE and same_size and getattr(module, "track_running_stats", True):
        kernel = 1
    elif one_position and (same_size or kind in WHOLE_MAP):
        kernel = largest  # the whole map in one window
    else:
        raise ValueError(f"receptive_field does not understand layer {node.name!r} ({kind})")
    stride = given.get("stride") or (1 if kind == "conv2d" else kernel)  # pooling steps by its kernel
    kernel, dilation, padding = np.broadcast_to(kernel, 2), given.get("dilation", 1), given.get("padding", 0)
    padding = {"valid": 0, "same": (kernel - 1) * dilation // 2}[padding] if isinstance(padding, str) else padding
    return [np.broadcast_to(value, 2) for value in (kernel, stride, padding, dilation)]


def receptive_field(model: nn.Module, input_size=(1, 28, 28)) -> pd.DataFrame:
    """Receptive field after every layer that changes geometry, in the order of the calls.

    For kernel k, dilation d, stride s, field r and jump j (input pixels between neighbouring outputs):
    r += (k - 1) * d * j, then j *= s (Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural
    Networks, Distill 2019). Where branches meet, the field holds them all, in a row of its own if it is not the last
    row's. Padding counts as seen. Values are ints where height and width agree, else pairs. Raises ValueError, naming
    the layer, for what it does not understand.
    """
    _require(len(input_size) == 3, f"input_size must be (channels, height, width), got {input_size}")
    traced = torch.fx.symbolic_trace(copy.deepcopy(model).cpu().float().eval())
    ShapeProp(traced).propagate(torch.zeros(1, *input_size))  # fills in meta["tensor_meta"]
    seen, rows = {}, []  # node -> (jump, first and last pixel that its first output sees), each a pair
    for node in traced.graph.nodes:
        node.meta["shape"] = getattr(node.meta.get("tensor_meta"), "shape", ())  # () for what is no tensor
        node.meta["size"] = np.broadcast_to(node.meta["shape"][2:4] or 1, 2)  # a flat (N, features) is one position
        if node.op == "placeholder":
            seen[node] = np.array([[1, 1], [0, 0], [0, 0]])
        sources = [seen[source] for source in node.all_input_nodes if source in seen]
        if node.op == "output" or not sources or "tensor_meta" not in node.meta:
            continue  # a parameter, or a number such as x.size(0)
        module = traced.get_submodule(node.target) if node.op == "call_module" else None
        kernel, stride, padding, dilation = _window(node, module)
        if node.meta["shape"][:1] != (1,):
            break  # a view that cuts one image into several rows, where input_size does not fit the model
        jumps, firsts, lasts = np.stack(sources, axis=1)
        _require(np.all(jumps == jumps[0]), f"branches with different jumps meet in {node.name!r}: {jumps.tolist()}")
        first = firsts.min(0) - padding * jumps[0]
        last = lasts.max(0) + ((kernel - 1) * dilation - padding) * jumps[0]
        seen[node] = jumps[0] * stride, first, last
        pairs = kernel, stride, padding, node.meta["size"], jumps[0] * stride, last - first + 1
        shown = [int(pair[0]) if pair[0] == pair[1] else tuple(pair.tolist()) for pair in pairs]
        if np.any([kernel > 1, stride > 1, padding > 0]) or (len(sources) > 1 and rows and shown[-1] != rows[-1][-1]):
            rows.append([node.target if module else node.name, *shown])
    return pd.DataFrame(rows, columns="layer kernel stride padding output_size jump receptive_field".split())


def measured_receptive_field(model: nn.Module, input_size=(1, 28, 28), layer=None) -> tuple[int, int]:
    """(height, width) of the input pixels that can change one central output of a layer (default: the last).

    They are the pixels where that output's gradient is not zero, in a copy with random positive weights. A maximum's
    gradient reaches one pixel only: so the image brightens towards one corner, then towards the opposite one, and the
    maximum moves from corner to corner of its window. Clipped to the image: a large field needs a large one.
    """
    _require(len(input_size) == 3, f"input_size must be (channels, height, width), got {input_size}")
    traced = torch.fx.symbolic_trace(copy.deepcopy(model).cpu().eval()).double()
    *nodes, output = [node for node in traced.graph.nodes if node.op.startswith(("call_", "output"))]
    chosen = [node for node in nodes if layer in (None, node.name, node.target)]
    _require(chosen, f"the model has no layer {layer!r}, only {[node.name for node in nodes]}")
    output.args = (chosen[-1],)  # of several calls of a layer, the last
    traced.apply(lambda module: module.reset_running_stats() if isinstance(module, nn.BatchNorm2d) else None)
    for name, values in traced.named_parameters():
        scale = 0 if name.endswith("bias") else 0.3 / math.prod(values.shape[1:])
        values.data = scale * (torch.rand_like(values) + 0.5)
    probe = torch.zeros(1, *input_size, dtype=torch.float64, requires_grad=True)
    ramp = torch.outer(*(torch.linspace(0.5, 1, length).double() for length in input_size[1:]))
    for image in (ramp, ramp.flip(0, 1), ramp**100, ramp.flip(0, 1)**100):  # steep too, to outweigh padding
        result = torch.fx.Interpreter(traced).run(image + probe)
        _require(len(result) == 1, f"layer {chosen[-1].name!r} does not give one row for one image")
        centre = result[:, :, result.shape[2] // 2, result.shape[3] // 2] if result.ndim == 4 else result
        (centre * torch.rand_like(centre)).sum().backward()
    rows, columns = probe.grad.sum((0, 1)).nonzero(as_tuple=True)
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


# ---------------------------------------------------------------- figures, in the colours C0 to C4 of the style in use
def plot_curves(history: pd.DataFrame, title="", target=99.28) -> plt.Figure:
    """Loss, accuracy and learning rate by epoch, from fit's history; target is a line across the accuracy."""
    figure, panels = plt.subplots(3, 1, figsize=(7, 7), sharex=True, height_ratios=[3, 3, 1.3])
    rows = history.set_index("epoch")
    low = min(99, target, rows.filter(like="accuracy").iloc[-1].min()) - 1  # the first epochs are out of sight
    look = {"style": ["C3o-", "C0s-"], "markersize": 4}
    rows.filter(like="loss").plot(ax=panels[0], ylabel="loss (nats, log scale)", logy=True, title=title, **look)
    rows.filter(like="accuracy").plot(ax=panels[1], ylabel="accuracy (%)", ylim=(low, 100.1), **look)
    rows["lr"].plot(ax=panels[2], ylabel="learning rate", logy=True, style="C2", ds="steps-mid", xticks=rows.index)
    panels[1].axhline(target, color="C4", linewidth=1)
    panels[1].text(rows.index.to_numpy().mean(), target, f"the brief: {target}%", ha="center", va="bottom")
    for axes in panels[[0, 2]]:
        axes.yaxis.set(major_locator=plt.LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
    return figure


def plot_digits(images: torch.Tensor, titles=None, columns=10) -> plt.Figure:
    """A grid of digits, images (N, 1, 28, 28) or (N, 28, 28), each under its title."""
    _require(len(images), "images holds no digit to show")
    rows = math.ceil(len(images) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(7, rows * (7 / columns + 0.35 * (titles is not None))),
                                squeeze=False, subplot_kw={"xticks": [], "yticks": [], "frame_on": False})
    for axes, image, title in zip(grid.flat, images, titles or [""] * len(images)):
        axes.imshow(image.reshape(28, 28).cpu(), cmap="gray_r")
        axes.set_title(title, fontsize=9, loc="center")
    return figure


def plot_mistakes(images, labels, log_probabilities, count=20) -> plt.Figure:
    """The wrong answers given with most confidence: label, answer, and the answer's probability in %."""
    confidence, answers = log_probabilities.exp().max(1)
    wrong = (answers != labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)][:count]
    return plot_digits(images[worst], [f"{labels[i]} → {answers[i]}\n{100 * confidence[i]:.0f}%" for i in worst])


def plot_confusion(labels, answers, title="") -> plt.Figure:
    """Counts of the answers (columns) given to each label (rows, 0 to 9), both (N,); colour marks the mistakes."""
    counts = torch.bincount(labels.cpu() * 10 + answers.cpu(), minlength=100).reshape(10, 10)
    mistakes = counts.clone().fill_diagonal_(0)
    figure, axes = plt.subplots(figsize=(5.2, 4.8))
    axes.imshow(mistakes, cmap="Blues", vmax=2 * mistakes.max())  # the lighter half: black is legible on it
    for (row, column), count in np.ndenumerate(counts.numpy()):
        axes.text(column, row, count or "·", ha="center", va="center")
    axes.set(xlabel="answer", ylabel="label", xticks=range(10), yticks=range(10), title=title)
    return figure


def plot_receptive_field(table: pd.DataFrame, image: torch.Tensor, title="") -> plt.Figure:
    """Each layer's field, from receptive_field's table, as a frame around the centre of a digit."""
    figure, axes = plt.subplots(figsize=(7, 5.4))
    axes.imshow(image.reshape(28, 28).cpu(), cmap="gray_r", extent=(0, 28, 28, 0), alpha=0.5)
    axes.plot([0, 28, 28, 0, 0], [0, 0, 28, 28, 0], "C4:")
    axes.text(0, 28.3, "the image, 28×28", color="C4", va="top")
    places = np.linspace(0, 1, len(table))  # along the colour map, and of the names up the right side
    for layer, field, place in zip(table["layer"], table["receptive_field"], places):
        corner, colour = 14 - field / 2, plt.get_cmap("viridis")(0.75 * place)
        axes.add_patch(plt.Rectangle((corner, corner), field, field, fill=False, color=colour, linewidth=1.6))
        axes.annotate(f"{layer}: {field}", (corner + field, corner), (1.04, 0.5 + place / 2), color=colour, va="center",
                      textcoords="axes fraction", arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8})
    axes.autoscale_view()
    axes.set(xlabel="input column (pixels)", ylabel="input row (pixels)", title=title)
    return figure

"""Helpers of the MNIST walkthrough (S6_Part2.ipynb): data, training, receptive field, figures.

Images are float32 tensors (N, 1, 28, 28), labels int64 tensors (N,). Accuracy is in percent, 0 to 100.
"""
import contextlib
import copy
import io
import math
import os
import pickle
import re
import shutil
import tempfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import get_ipython
from IPython.display import display
from matplotlib.ticker import LogLocator, MaxNLocator
from torch import nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import TensorDataset
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to 0..1


# ---------------------------------------------------------------- data
def read_mnist(root="data") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return MNIST as stored: train images (60000, 28, 28) uint8, train labels, test images, test labels.

    torchvision checks the .gz files in root/MNIST/raw, and downloads what is missing or damaged. It works on
    copies in a temporary folder, so nothing in root is half written. Raises RuntimeError, naming the files.
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
            for path in bad:
                whole = Path(f"{path}.{os.getpid()}")
                with contextlib.suppress(OSError):  # keep the download, where root can be written
                    raw.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(copies / path.name, whole)
                    if path.exists() and not Path(f"{path}.damaged").exists():
                        path.replace(f"{path}.damaged")
                    whole.replace(path)
                whole.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        found = [f"{path} is {'damaged' if path.exists() else 'missing'}" for path in bad] or ["the files are sound"]
        reason = str(error).partition("\n")[0]
        raise RuntimeError(f"MNIST can't be read: {'; '.join(found)} ({reason}). Remedy: connect to the internet, or "
                           "put sound copies there; extracting needs 60 MB of free disk") from error
    return train_set.data, train_set.targets, test_set.data, test_set.targets


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 images (N, 28, 28) into float32 (N, 1, 28, 28) with mean 0 and standard deviation 1."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8 pixels, 0 to 255, as read_mnist returns them; got {images.dtype}")
    return images.unsqueeze(1).float().div(255).sub(MEAN).div(STD)


def load_mnist(root="data", device="cpu") -> tuple[TensorDataset, TensorDataset]:
    """Return (train, test): normalised images (N, 1, 28, 28) and labels (N,), held on the device."""
    data = read_mnist(root)
    return tuple(TensorDataset(normalise(x).to(device), y.to(device)) for x, y in (data[:2], data[2:]))


class TensorLoader:
    """Batches of a TensorDataset (images, labels) that already lies on its device; len() counts batches.

    augment, if given, is called on each batch of images in the first augment_epochs passes; generator, one of the
    CPU, fixes the order of shuffling.
    """

    def __init__(self, dataset, batch_size, shuffle=False, augment=None, generator=None, augment_epochs=math.inf):
        if not isinstance(dataset, TensorDataset) or len(dataset.tensors) != 2 or len(dataset) == 0:
            raise ValueError(f"dataset must be a TensorDataset of images and labels, got {type(dataset).__name__} of "
                             f"length {len(dataset)}; others need a DataLoader")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        if dataset.tensors[1].min() < 0:  # nll_loss would pass over a label of -100 without a word
            raise ValueError(f"labels must not be negative, got {dataset.tensors[1].min()}")
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.augment, self.generator, self.augment_epochs, self.epoch = augment, generator, augment_epochs, 0

    def __len__(self):
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self):
        images, labels = self.dataset.tensors
        count, self.epoch = len(labels), self.epoch + 1
        augment = self.augment if self.epoch <= self.augment_epochs else None
        order = torch.randperm(count, generator=self.generator) if self.shuffle else torch.arange(count)
        for batch in order.to(labels.device).split(self.batch_size):
            yield augment(images[batch]) if augment else images[batch], labels[batch]


# ---------------------------------------------------------------- training
def train(model, device, loader, optimizer, scheduler=None, average=None) -> tuple[float, float]:
    """Train for one epoch; return (loss, accuracy in %), averaged over the samples seen.

    model maps images to log-probabilities (N, classes). scheduler steps here only if its class steps every
    batch; average, an AveragedModel, takes in the weights after every batch. Raises ValueError for inputs
    that would train wrongly, FloatingPointError when the loss is no longer a number.
    """
    if not set(model.parameters()) & {weights for group in optimizer.param_groups for weights in group["params"]}:
        raise ValueError("optimizer holds none of this model's parameters: make it from model.parameters()")
    model.train()
    loss_sum = correct = samples = 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        output = model(images)
        if samples == 0:
            _check_batch(images, labels, output)
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
    return _averages(loss_sum, correct, samples)


def test(model, device, loader) -> tuple[float, float]:
    """Return (loss, accuracy in %) of the model over all samples of the loader; nothing is learned."""
    model.eval()
    loss_sum = correct = samples = 0
    with torch.no_grad():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            output = model(images)
            if samples == 0:
                _check_batch(images, labels, output)
            loss_sum += F.nll_loss(output, labels, reduction="sum")
            correct += (output.argmax(1) == labels).sum()
            samples += len(labels)
    return _averages(loss_sum, correct, samples)


def _check_batch(images, labels, output) -> None:
    """Refuse a first batch that would run without an error and give a wrong result."""
    if output.ndim != 2 or len(output) != len(images):
        raise ValueError(f"model returned {tuple(output.shape)} for {len(images)} images, not log-probabilities "
                         "(N, classes): check the images' size and the model's view or flatten")
    if labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({len(images)},), got {labels.dtype} {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= output.shape[1]:
        raise ValueError(f"labels must lie in 0..{output.shape[1] - 1}, got {labels.min()}..{labels.max()}")
    if (output.detach().exp().sum(1) - 1).abs().max() > 0.01:  # nan passes here, and fails as a nan loss
        raise ValueError("model must return log-probabilities: end its forward with F.log_softmax(x, dim=1)")


def _averages(loss_sum, correct, samples) -> tuple[float, float]:
    """Turn sums over samples into (loss, accuracy in %)."""
    if samples == 0:
        raise ValueError("loader gave no batch: its dataset is empty")
    if not math.isfinite(loss_sum):
        raise FloatingPointError("the loss became nan or infinite: lower the learning rate, or look at the images")
    return float(loss_sum) / samples, 100 * int(correct) / samples


def fit(model, device, train_loader, test_loader, optimizer, scheduler=None, epochs=20, average=None, checkpoint=None):
    """Train for some epochs, testing after each; return the history, a DataFrame with one row an epoch.

    Columns: epoch, lr (at the epoch's start), train_loss, train_accuracy, test_loss, test_accuracy, seconds
    (of training only). With average, an AveragedModel, the test columns are the average's. With checkpoint, a
    file's path, all that the run needs is written there after each epoch; a later call with the same recipe,
    seed and epochs goes on from it. Raises ValueError if the file is damaged or another run's.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be a whole number of at least 1, got {epochs!r}")
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError("scheduler was made for another optimizer: make it from the one given here")
    if average is not None and not average.use_buffers and any(True for _ in model.buffers()):
        raise ValueError("average needs use_buffers=True: without it BatchNorm's statistics are not averaged")
    if checkpoint and not Path(checkpoint).absolute().parent.is_dir():
        raise ValueError(f"checkpoint is to be {checkpoint}, but there is no such folder: make it first")
    parts = [part for part in (model, optimizer, scheduler, average) if part is not None]
    run = model, device, train_loader, test_loader, optimizer, scheduler, epochs, average
    settings = run_settings(*run) if checkpoint else {}
    history = _resume(checkpoint, settings, parts, train_loader) if checkpoint and os.path.exists(checkpoint) else []
    resumed = f", resumed after epoch {len(history)}" if history else ""
    # In a notebook the bar is a line of text, updated in place: tqdm's own bars store a widget or a trail.
    in_notebook = hasattr(get_ipython(), "kernel")
    with tqdm(total=epochs, initial=len(history), file=io.StringIO() if in_notebook else None, ascii=False,
              bar_format="{n_fmt}/{total_fmt} epochs |{bar:20}| {elapsed}, {remaining} left{postfix}" + resumed) as bar:
        line = display({"text/plain": str(bar)}, raw=True, display_id=True) if in_notebook else None
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
                _save({"settings": settings, "history": history, "states": [part.state_dict() for part in parts],
                       "random": (torch.get_rng_state(), torch.cuda.get_rng_state_all()),
                       "order": train_loader.generator and train_loader.generator.get_state()}, checkpoint)
            bar.set_postfix_str(f"loss {train_loss:.4f} in training, {test_loss:.4f} in test; "
                                f"test accuracy {test_accuracy:.2f}%", refresh=False)
            bar.update()
            if in_notebook:
                line.update({"text/plain": str(bar)}, raw=True)
    return pd.DataFrame(history)


def run_settings(model, device, loader, test_loader, optimizer, scheduler=None, epochs=20, average=None) -> dict:
    """What makes a run the run it is, before it starts: only the same words and checksums may share a checkpoint.

    Of functions (augmentation, averaging) only the names count, and of a dataset only its tensors, if it has any.
    """
    def checksums(tensors):
        return [zlib.crc32(tensor.cpu().numpy().tobytes()) for tensor in tensors]

    code = None
    with contextlib.suppress(Exception):  # some networks can't be traced; then the layers must do
        code = torch.fx.symbolic_trace(model).code  # the forward pass, as code
    words = {"network": (model, code), "weights": checksums(model.state_dict().values()), "device": device,
             "optimizer": optimizer, "average": average and (average.avg_fn, average.multi_avg_fn), "epochs": epochs,
             "scheduler": scheduler and (type(scheduler).__name__, scheduler.state_dict()),
             "data": (loader.batch_size, len(loader.dataset), checksums(getattr(loader.dataset, "tensors", ()))),
             "test data": (len(test_loader.dataset), checksums(getattr(test_loader.dataset, "tensors", ()))),
             "augmentation": (getattr(loader, "augment", None), getattr(loader, "augment_epochs", None)),
             "seed": (torch.initial_seed(), loader.generator and loader.generator.initial_seed())}
    return {name: re.sub(r" at 0x\w+", "", repr(value)) for name, value in words.items()}


def _resume(path, settings: dict, parts: list, loader) -> list[dict]:
    """Bring all parts of a run to where its checkpoint left them; return the history so far."""
    saved = _load(path, "cpu")
    known = saved.get("settings", {}) if isinstance(saved, dict) else {}
    if other := [name for name in settings if known.get(name) != settings[name]]:
        raise ValueError(f"{path} is of another run, it differs in {', '.join(other)}: delete it to start anew")
    for part, state in zip(parts, saved["states"]):
        part.load_state_dict(state)
    torch.set_rng_state(saved["random"][0])
    torch.cuda.set_rng_state_all(saved["random"][1])
    if loader.generator:
        loader.generator.set_state(saved["order"])
    loader.epoch = len(saved["history"])
    return saved["history"]


def _save(state: dict, path) -> None:
    """Write a file whole or not at all: under another name first."""
    temporary = Path(f"{path}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _load(path, device) -> dict:
    """Read a file of torch.save, running none of what it holds as code."""
    try:
        with zipfile.ZipFile(path) as file:
            if part := file.testzip():  # torch.load itself passes over flipped bits
                raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged, or not written by these helpers: delete it and make it anew") from error


def save_model(model: nn.Module, path) -> None:
    """Write the model's weights (its state_dict) to path."""
    _save(model.state_dict(), path)


def load_model(model: nn.Module, path, device="cpu") -> nn.Module:
    """Read weights from path into a model of the same class; return it on the device, in eval mode."""
    model.load_state_dict(_load(path, device))
    return model.to(device).eval()


# ---------------------------------------------------------------- receptive field
# Layers by what they do to a map: modules, functions and methods in one spelling, lower case without underscores.
WINDOWS = {"conv2d": "input weight bias stride padding dilation", "avgpool2d": "input kernel_size stride padding",
           "maxpool2d": "input kernel_size stride padding dilation"}  # and the arguments that functions take
WHOLE_MAP = set("flatten view reshape mean adaptiveavgpool2d adaptivemaxpool2d".split())  # where one position is left
POINTWISE = set("""add sub mul truediv neg abs clamp contiguous cat identity batchnorm batchnorm2d dropout dropout2d
    relu relu6 leakyrelu prelu elu gelu silu sigmoid tanh hardswish hardsigmoid hardtanh softplus mish""".split())


def _trace(model, input_size) -> torch.fx.GraphModule:
    """The graph of a copy of the model in eval mode; each node's meta has its kind, module, result's shape and size."""
    if len(input_size) != 3:
        raise ValueError(f"input_size must be (channels, height, width), got {input_size}")
    try:
        traced = torch.fx.symbolic_trace(copy.deepcopy(model).cpu().float().eval())
    except torch.fx.proxy.TraceError as error:
        raise ValueError(f"model can't be traced, its forward depends on the data: {error}") from error
    ShapeProp(traced).propagate(torch.zeros(1, *input_size))  # fills in meta["tensor_meta"], with the result's shape
    for node in traced.graph.nodes:
        node.meta["module"] = traced.get_submodule(node.target) if node.op == "call_module" else None
        kind = type(node.meta["module"]) if node.meta["module"] else node.target
        node.meta["kind"] = getattr(kind, "__name__", str(kind)).replace("_", "").lower()
        node.meta["shape"] = getattr(node.meta.get("tensor_meta"), "shape", ())  # () for what is no tensor
        node.meta["size"] = np.broadcast_to(node.meta["shape"][2:4] or 1, 2)  # a flat (N, features) is one position
    return traced


def _window(node) -> list[np.ndarray]:
    """Kernel size, stride, padding (top, left) and dilation of a node, each a pair; 1, 1, 0, 1 if pointwise."""
    kind, module, size = node.meta["kind"], node.meta["module"], node.meta["size"]
    largest = np.max([source.meta["size"] for source in node.all_input_nodes], axis=0)
    given = {"stride": 1}
    if kind in WINDOWS:
        given = vars(module) if module else dict(zip(WINDOWS[kind].split(), node.args), **node.kwargs)
        kernel = given["weight"].meta["shape"][2:] if "weight" in given else given["kernel_size"]
    elif kind in POINTWISE and np.array_equal(size, largest) and getattr(module, "track_running_stats", True):
        kernel = 1
    elif np.all(size == 1) and (kind in WHOLE_MAP or np.all(largest == 1)):
        kernel = largest  # the whole map in one window
    else:
        raise ValueError(f"receptive_field does not understand layer {node.name!r} ({kind})")
    stride = given.get("stride") or (1 if kind == "conv2d" else kernel)  # pooling steps by its kernel
    kernel, dilation, padding = np.broadcast_to(kernel, 2), given.get("dilation", 1), given.get("padding", 0)
    padding = (kernel - 1) * dilation // 2 * (padding == "same") if isinstance(padding, str) else padding
    return [np.broadcast_to(value, 2) for value in (kernel, stride, padding, dilation)]


def receptive_field(model: nn.Module, input_size=(1, 28, 28)) -> pd.DataFrame:
    """Receptive field after every layer that changes geometry, in the order of the calls.

    For kernel k, dilation d and stride s, the field r and the jump j (input pixels between neighbouring
    outputs) grow as r += (k - 1) * d * j, then j *= s (Araujo, Norris and Sim, Computing Receptive Fields of
    Convolutional Neural Networks, Distill 2019). Where branches meet, the field is the smallest that holds
    them all; it has a row of its own where it is not the last row's. Flatten and global pooling see the whole
    map. Padding counts as seen, also where a field has grown larger than the image.

    Returns the columns layer, kernel, stride, padding, output_size, jump, receptive_field: an int where height
    and width agree, else a pair. Raises ValueError, naming the layer, for what it does not understand.
    """
    seen, rows = {}, []  # node -> (jump, first and last pixel that its first output sees), each a pair
    for node in _trace(model, input_size).graph.nodes:
        if node.op == "placeholder":
            seen[node] = np.array([[1, 1], [0, 0], [0, 0]])
        sources = [seen[source] for source in node.all_input_nodes if source in seen]
        if node.op == "output" or not sources or "tensor_meta" not in node.meta:
            continue  # a parameter, or a number such as x.size(0)
        kernel, stride, padding, dilation = _window(node)
        if node.meta["shape"][:1] != (1,):
            warnings.warn(f"layer {node.name!r} gives no single row an image: the table ends before it", stacklevel=2)
            break
        jumps, firsts, lasts = np.stack(sources, axis=1)
        if np.any(jumps != jumps[0]):
            raise ValueError(f"branches with different jumps meet in layer {node.name!r}: {jumps.tolist()}")
        first = firsts.min(0) - padding * jumps[0]
        last = lasts.max(0) + ((kernel - 1) * dilation - padding) * jumps[0]
        seen[node] = jumps[0] * stride, first, last
        pairs = kernel, stride, padding, node.meta["size"], jumps[0] * stride, last - first + 1
        shown = [int(pair[0]) if pair[0] == pair[1] else tuple(pair.tolist()) for pair in pairs]
        if np.any([kernel > 1, stride > 1, padding > 0]) or len(sources) > 1 and rows and shown[-1] != rows[-1][-1]:
            rows.append([node.target if node.meta["module"] else node.name, *shown])
    return pd.DataFrame(rows, columns="layer kernel stride padding output_size jump receptive_field".split())


def measured_receptive_field(model: nn.Module, input_size=(1, 28, 28), layer=None) -> tuple[int, int]:
    """(height, width) of the input pixels that can change one central output of a layer (default: the last).

    Measured: they are the pixels where that output's gradient is not zero, in a copy with random positive
    weights, and averages for maxima, whose gradient reaches one pixel only. Clipped to the image: a large
    field needs a large input_size. A layer that is called several times is measured at its last call. Raises
    ValueError for no such layer.
    """
    traced = _trace(model, input_size)
    *nodes, output = [node for node in traced.graph.nodes if node.op.startswith(("call_", "output"))]
    chosen = [node for node in nodes if layer in (None, node.name, node.target)]
    if not chosen:
        raise ValueError(f"the model has no layer {layer!r}, only {[node.name for node in nodes]}")
    output.args = (chosen[-1],)
    for node in nodes:
        if "maxpool2d" in node.meta["kind"]:  # adaptive ones too, where they leave one position
            (kernel, stride, padding, dilation), images = _window(node), node.all_input_nodes[0]
            span = (kernel - 1) * dilation + 1
            ceil_mode = np.any(node.meta["size"] > (images.meta["size"] + 2 * padding - span) // stride + 1)
            node.op, node.target, node.kwargs = "call_function", F.avg_pool2d, {}
            node.args = (images, span.tolist(), stride.tolist(), padding.tolist(), bool(ceil_mode))
    for name, parameter in traced.double().named_parameters():
        scale = 0 if name.endswith("bias") else 0.3 / math.prod(parameter.shape[1:])  # small: ReLU6 must not saturate
        parameter.data = scale * (torch.rand_like(parameter) + 0.5)
    traced.apply(lambda module: module.reset_running_stats() if isinstance(module, nn.BatchNorm2d) else None)
    images = (torch.rand(1, *input_size, dtype=torch.float64) + 0.5).requires_grad_()
    result = torch.fx.Interpreter(traced).run(images)
    if result.shape[:1] != (1,):
        raise ValueError(f"layer {chosen[-1].name!r} does not give one row for one image")
    if result.ndim == 4:
        result = result[:, :, result.shape[2] // 2, result.shape[3] // 2]
    (result * torch.rand_like(result)).sum().backward()
    rows, columns = images.grad.abs().sum((0, 1)).nonzero(as_tuple=True)
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


# ---------------------------------------------------------------- figures
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"  # Okabe and Ito


def use_style() -> None:
    """Set the style of all figures: Okabe-Ito colours, 9 pt or larger, 7 inches wide at 110 dpi."""
    plt.rcParams.update({
        "figure.figsize": (7, 3.2), "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 9.5,
        "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, GREY]), "legend.frameon": False})


def plot_curves(history: pd.DataFrame, title="", target=99.28) -> plt.Figure:
    """Loss, accuracy and learning rate by epoch, from fit's history; target is a line across the accuracy."""
    figure, panels = plt.subplots(3, 1, figsize=(7, 7), sharex=True, height_ratios=[3, 3, 1.3])
    epochs = history["epoch"]
    for axes, quantity in zip(panels, ("loss", "accuracy")):
        for part, colour, marker in (("train", RED, "o"), ("test", BLUE, "s")):
            values = history[f"{part}_{quantity}"]
            axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=f"{part} {values.iloc[-1]:.4g}")
        axes.legend(title="last epoch", loc="upper right" if quantity == "loss" else "lower right")
    later = history[["train_accuracy", "test_accuracy"]][min(2, len(history) - 1):].to_numpy()  # epochs 3 on: see more
    panels[1].axhline(target, color=GREY, linewidth=1)
    panels[1].text(epochs.mean(), target, f"the brief: {target}%", ha="center", va="bottom")
    panels[2].step(epochs, history["lr"], where="mid", color=GREEN)
    panels[0].set(title=title, ylabel="loss (nats, log scale)", yscale="log")
    panels[1].set(ylabel="accuracy (%)", ylim=(min(target, later.min()) - 0.3, max(target, later.max()) + 0.3))
    panels[2].set(ylabel="learning rate", yscale="log", xlabel="epoch")
    for axes in panels[[0, 2]]:
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
    panels[2].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def plot_digits(images: torch.Tensor, titles=None, columns=10) -> plt.Figure:
    """A grid of digits, images (N, 1, 28, 28) or (N, 28, 28), each under its title."""
    if len(images) == 0:
        raise ValueError("images holds no digit to show")
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
    """Counts of the answers (columns) given to each label (rows, 0 to 9); colour marks the mistakes."""
    if labels.shape != answers.shape or labels.ndim != 1:
        raise ValueError(f"labels and answers must be (N,), got {tuple(labels.shape)} and {tuple(answers.shape)}")
    counts = torch.bincount(labels.cpu() * 10 + answers.cpu(), minlength=100).reshape(10, 10)
    mistakes = counts.clone().fill_diagonal_(0)
    figure, axes = plt.subplots(figsize=(5.2, 4.8))
    axes.imshow(mistakes, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts.numpy()):
        dark = mistakes[row, column] > mistakes.max() / 2
        axes.text(column, row, count or "·", ha="center", va="center", color="white" if dark else "black")
    axes.set(xlabel="answer", ylabel="label", xticks=range(10), yticks=range(10), title=title)
    return figure


def plot_receptive_field(table: pd.DataFrame, image: torch.Tensor, title="") -> plt.Figure:
    """Each layer's field, from receptive_field's table, as a frame around the centre of a digit."""
    figure, axes = plt.subplots(figsize=(7, 5.4))
    axes.imshow(image.reshape(28, 28).cpu(), cmap="gray_r", extent=(0, 28, 28, 0), alpha=0.5)
    axes.plot([0, 28, 28, 0, 0], [0, 0, 28, 28, 0], color=GREY, linestyle=":")
    axes.text(0, 28.3, "the image, 28×28", color=GREY, va="top")
    reach = max(table["receptive_field"].max(), 28) / 2 + 1
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.75, len(table)))
    heights = np.linspace(14, 15 - reach, len(table))  # of the names, beside the frames
    for colour, name, field, y in zip(colours, table["layer"], table["receptive_field"], heights):
        corner = 14 - field / 2
        axes.add_patch(plt.Rectangle((corner, corner), field, field, fill=False, color=colour, linewidth=1.6))
        axes.annotate(f"{name}: {field}", (corner + field, corner), (15 + reach, y), color=colour, va="center",
                      annotation_clip=False, arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8})
    axes.set(xlim=(14 - reach, 14 + reach), ylim=(14 + reach, 14 - reach), xlabel="input column (pixels)",
             ylabel="input row (pixels)", title=title)
    return figure

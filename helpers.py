# Made from the cells of S6_Part2.ipynb by benchmarks/export.py: change them there, not here.
"""Helpers of the MNIST walkthrough: data, training, receptive field, figures.

Images are float32 tensors (N, 1, 28, 28), labels int64 tensors (N,). Accuracy is in percent, 0 to 100.
"""

import contextlib
import copy
import dis
import functools
import gzip
import io
import math
import numbers
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
import types
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import display, get_ipython
from torch import nn
from torch.fx.node import map_arg
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity, download_url
from tqdm import tqdm


def require(condition, message: str) -> None:
    """Raise ValueError with the message where the condition does not hold."""
    if not condition:
        raise ValueError(message)


def mnist_file(path: Path, md5: str) -> bytes:
    """One of MNIST's files; a missing or damaged one is downloaded, the damaged one kept."""
    if check_integrity(path, md5):
        return path.read_bytes()
    found = "damaged" if path.exists() else "missing"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, path.name)
        for mirror in MNIST.mirrors:
            if not fresh.exists():
                with contextlib.suppress(OSError, RuntimeError):
                    download_url(mirror + path.name, folder, md5=md5)
        if not check_integrity(fresh, md5):
            raise RuntimeError(f"{path} is {found}. Remedy: connect to the internet, or put a sound copy there")
        with contextlib.suppress(OSError):  # keep the download, where the folder can be written
            path.parent.mkdir(parents=True, exist_ok=True)
            if found == "damaged":
                path.rename(f"{path}.damaged-{time.time_ns()}")
            shutil.copyfile(fresh, path)
        return fresh.read_bytes()


def read_mnist(root="data") -> list[torch.Tensor]:
    """MNIST as stored: training images (60000, 28, 28) uint8, labels, test images, test labels.

    Raises RuntimeError where a file in root/MNIST/raw is missing or damaged and can't be downloaded.
    """
    parts = []
    for name, md5 in MNIST.resources:
        data = gzip.decompress(mnist_file(Path(root, "MNIST", "raw", name), md5))
        if "images" in name:  # 16 bytes of header, then a byte for each pixel
            parts.append(np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28))
        else:  # 8 bytes of header, then a byte for each label
            parts.append(np.frombuffer(data, np.uint8, offset=8).astype(np.int64))
    return [torch.tensor(part) for part in parts]


def plot_digits(images: torch.Tensor, titles=None, columns=10) -> plt.Figure:
    """A grid of digits, images (N, 1, 28, 28) or (N, 28, 28), each under its title."""
    require(len(images), "images holds no digit to show")
    titles = titles.tolist() if hasattr(titles, "tolist") else titles or [""] * len(images)
    require(len(titles) == len(images), f"{len(images)} images need as many titles, got {len(titles)}")
    lines = str(titles[0]).count("\n") + 1 if titles[0] != "" else 0
    rows, height = math.ceil(len(images) / columns), 5.4 / columns + 0.2 * lines
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    figure, grid = plt.subplots(
        rows, columns, figsize=(5.4, rows * height), squeeze=False, subplot_kw=bare, layout="constrained"
    )
    for axes, image, title in zip(grid.flat, images, titles):
        axes.imshow(image.reshape(28, 28).cpu(), cmap="gray_r")
        axes.set_title(title, fontsize=9, loc="center")
    return figure


MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to 0..1


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 images (N, 28, 28) into float32 (N, 1, 28, 28), mean 0, standard deviation 1."""
    right = images.dtype == torch.uint8 and images.ndim == 3
    require(right, f"images must be uint8, (N, 28, 28); got {images.dtype}, {tuple(images.shape)}")
    return images.unsqueeze(1).float().div(255).sub(MEAN).div(STD)


def load_mnist(root="data", device="cpu") -> tuple[TensorDataset, TensorDataset]:
    """The training set and the test set: normalised images (N, 1, 28, 28), labels, on the device."""
    train_images, train_labels, test_images, test_labels = read_mnist(root)
    train_set = TensorDataset(normalise(train_images).to(device), train_labels.to(device))
    test_set = TensorDataset(normalise(test_images).to(device), test_labels.to(device))
    return train_set, test_set


def plot_receptive_field(table: pd.DataFrame, image: torch.Tensor, columns=4) -> plt.Figure:
    """The field of each layer's central output, where it lies, from receptive_field's table.

    image is (height, width), or has more dimensions of size 1. What lies in the padding is hatched.
    """
    pairs = {name: np.array([np.broadcast_to(value, 2) for value in table[name]]) for name in table.columns[1:]}
    corners = pairs["start"] + pairs["output_size"] // 2 * pairs["jump"]  # (top, left) of each
    fields, image = pairs["receptive_field"], image.cpu().reshape(image.shape[-2:])
    top, left = np.minimum(corners.min(0), 0) - 1
    bottom, right = np.maximum((corners + fields).max(0), image.shape) + 1
    rows, shape = math.ceil(len(table) / columns), (bottom - top) / (right - left)
    panel = {"xlim": (left, right), "ylim": (bottom, top), "aspect": "equal", "xticks": [], "yticks": []}
    figure, grid = plt.subplots(
        rows, columns, figsize=(5.4, rows * (5.4 / columns * shape + 0.3)), squeeze=False,
        subplot_kw={**panel, "frame_on": False}, layout="constrained",
    )  # fmt: skip
    for axes, layer, (y, x), (height, width) in zip(grid.flat, table["layer"], corners, fields):
        frame = {"xy": (x, y), "width": width, "height": height, "fill": False}
        axes.add_patch(plt.Rectangle(**frame, hatch="/////", edgecolor="#aaaaaa", zorder=1))
        axes.imshow(image, cmap="gray_r", extent=(0, image.shape[1], image.shape[0], 0), zorder=2)
        axes.add_patch(plt.Rectangle((0, 0), image.shape[1], image.shape[0], fill=False, edgecolor="C4", zorder=2))
        axes.add_patch(plt.Rectangle(**frame, edgecolor="C3", linewidth=2, zorder=3))
        axes.set_title(f"{layer}: {height}×{width}", fontsize=10, loc="center")
    for axes in grid.flat[len(table) :]:
        axes.set_axis_off()
    return figure


@dataclass
class Layer:
    """One call in a network's forward pass: what it reads, what it is given, what it puts out."""

    name: str  # the module's name, such as conv1; where no module makes the call, PyTorch's
    kind: str  # PyTorch's name of the operation: conv2d, batch_norm, relu, max_pool2d, add, ...
    inputs: list[int]  # the layers that it reads, by their place in the list
    arguments: dict  # all that it is given, by PyTorch's names: weight, stride, padding, ...
    shape: tuple[int, ...]  # of its output: (1, channels, height, width), or (1, features)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the map that it puts out; (1, 1) for plain features."""
        return tuple(self.shape[-2:]) if len(self.shape) > 3 else (1, 1)

    @property
    def multiplications(self) -> int:
        """Multiplications for one image, in a convolution or a linear layer."""
        counts = self.kind in ("conv2d", "linear")
        return math.prod(self.size) * self.arguments["weight"].numel() if counts else 0


def trace_layers(model: nn.Module, input_size=(1, 28, 28)) -> list[Layer]:
    """Follow one image of input_size (channels, height, width) through a network; list the calls.

    The first layer is the image itself. Raises ValueError where torch.export can't follow.
    """
    require(len(input_size) == 3, f"input_size must be (channels, height, width), got {input_size}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    model = copy.deepcopy(model).cpu().float().eval()
    try:
        program = torch.export.export(model, (torch.zeros(1, *input_size),), strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"an image of {input_size} can't be traced: {reason}") from error
    names, held = program.graph_signature, {**program.state_dict, **program.constants}
    stored = {**names.inputs_to_parameters, **names.inputs_to_buffers}
    stored.update(names.inputs_to_lifted_tensor_constants)
    layers, known = [], {}  # known: a node -> the tensor that it stands for, or its layer's place
    for node in program.graph.nodes:
        if node.name in stored:
            known[node] = held[stored[node.name]]
        elif node.op == "placeholder":
            known[node] = len(layers)
            layers.append(Layer("image", "image", [], {}, (1, *input_size)))
        elif node.op == "call_function":
            layer = _layer_of(node, known, model)
            if layer.inputs:
                known[node] = len(layers)
                layers.append(layer)
            else:  # made of the model's own tensors alone, such as a masked weight
                known[node] = node.target(*map_arg(node.args, known.get), **node.kwargs)
    return layers


def _layer_of(node, known: dict, model: nn.Module) -> Layer:
    """The layer that a node of torch.export's graph makes."""
    kind = getattr(node.target, "_opname", node.target.__name__).rstrip("_")
    module = list(node.meta["nn_module_stack"].values())[-1][0]
    is_leaf = module and not list(model.get_submodule(module).children())
    inputs = [known[source] for source in node.all_input_nodes if isinstance(known[source], int)]
    output = node.meta["val"]
    output = output[0] if isinstance(output, (tuple, list)) else output
    return Layer(module if is_leaf else node.name, kind, inputs, _arguments_of(node, known), tuple(output.shape))


def _arguments_of(node, known: dict) -> dict:
    """All that a node's call is given, by PyTorch's names, defaults too; None for what layers put out."""
    tensors = {source: thing for source, thing in known.items() if not isinstance(thing, int)}
    given, named = map_arg(node.args, tensors.get), map_arg(node.kwargs, tensors.get)
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # Python's own getitem
        return dict(enumerate(given)) | dict(named)
    defaults = {each.name: each.default_value for each in schema.arguments}
    return defaults | dict(zip(defaults, given)) | dict(named)


# By PyTorch's names for them.
POINTWISE = set("""image add sub rsub mul div neg abs pow sqrt exp log maximum minimum clamp
    clamp_min relu relu6 hardtanh leaky_relu prelu rrelu elu celu selu gelu silu mish sigmoid
    log_sigmoid tanh hardswish hardsigmoid softplus softsign dropout feature_dropout alpha_dropout
    batch_norm contiguous clone to getitem""".split())  # fmt: skip
OVER_CHANNELS = {"cat", "chunk", "split", "split_with_sizes", "slice", "softmax", "log_softmax"}


def _keeps_places(layer: Layer, sources: list[Layer]) -> bool:
    """Whether each place of a layer's map is made of the same place of the maps that it reads."""
    largest = max((source.size for source in sources), default=layer.size)
    if layer.size != largest or layer.shape[:1] not in ((1,), ()):
        return False
    if layer.size == (1, 1):
        return True  # there is one place only
    if layer.kind == "slice" and layer.shape == sources[0].shape:
        return True  # x[:, :2] slices the batch too, and takes all of it
    if layer.kind in OVER_CHANNELS:
        return layer.arguments["dim"] in (1, 1 - len(layer.shape))
    return layer.kind in POINTWISE or (layer.kind in ("view", "reshape") and len(layer.shape) > 3)


SLIDING = {"conv2d", "max_pool2d", "avg_pool2d"}
NORMS = {"batch_norm", "group_norm", "layer_norm", "instance_norm"}
OVER_MAP = {"flatten", "view", "reshape", "mean", "sum", "amax", "linear"}
OVER_MAP |= {"adaptive_avg_pool2d", "adaptive_max_pool2d"}


def _window(layer: Layer, sources: list[Layer], ignore_norms: bool) -> list[list[int]]:
    """Kernel, stride, padding, dilation of a layer, each [rows, columns]; 1, 1, 0, 1 if it keeps places."""
    given, kernel, stride, padding, dilation = layer.arguments, 1, 1, 0, 1
    read = [source.size for source in sources if source.size != (1, 1)]
    if layer.kind in NORMS and given.get("training", True):  # takes means of this very image
        require(ignore_norms, f"layer {layer.name!r} ({layer.kind}) takes means over the whole map, so all that "
                              "follows sees all of it; ignore_norms=True gives the field without them")  # fmt: skip
    elif layer.kind in SLIDING:
        kernel = given["weight"].shape[2:] if layer.kind == "conv2d" else given["kernel_size"]
        stride = given["stride"] or kernel  # a pool steps by its kernel where nothing else is said
        padding, dilation = given["padding"], given.get("dilation", 1)
        if isinstance(padding, str):
            same = (np.array(kernel) - 1) * dilation // 2
            padding = {"valid": 0, "same": same}[padding]
    elif layer.kind == "pad" and given["mode"] != "circular":
        padding = [*given["pad"], 0, 0][2::-2]  # (top, left), of left, right, and maybe top, bottom
    elif layer.kind in OVER_MAP and layer.size == (1, 1) and read:
        kernel = max(read)
    else:
        known = _keeps_places(layer, sources)
        require(known, f"receptive_field does not understand layer {layer.name!r} ({layer.kind}); "
                       "measured_receptive_field measures what any network sees")  # fmt: skip
    return [np.broadcast_to(value, 2).tolist() for value in (kernel, stride, padding, dilation)]


def fields_along(layers: list[Layer], windows: list, axis: int) -> list[tuple[int, int, int]]:
    """(start, jump, field) of every layer along one axis, 0 for rows, 1 for columns, in pixels."""
    seen = [(0, 1, 1)]  # of the image: the first pixel is at 0, the next 1 further, it sees itself
    for layer, window in zip(layers[1:], windows[1:]):
        kernel, stride, padding, dilation = (pair[axis] for pair in window)
        starts, jumps, fields = zip(*(seen[source] for source in layer.inputs))
        require(len(set(jumps)) == 1, f"branches with different jumps meet in {layer.name!r}: {jumps}")
        start, jump = min(starts), jumps[0]
        field = max(first + length for first, length in zip(starts, fields)) - start
        field = field + (kernel - 1) * dilation * jump
        start = start - padding * jump
        seen.append((start, jump * stride, field))
    return seen


def receptive_field(model: nn.Module, input_size=(1, 28, 28), ignore_norms=False, every_layer=False) -> pd.DataFrame:
    """Receptive field after every layer that changes geometry, in the order of the calls.

    For kernel k, dilation d, stride s, padding p: field += (k - 1) * d * jump, start -= p * jump,
    then jump *= s (Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural
    Networks, Distill 2019). jump is the distance in pixels between neighbouring outputs, start the
    first pixel that the first output sees, negative in the padding, which counts as seen; so does what
    a pool with ceil_mode reads past the last pixel. Values are ints where height and width agree,
    else pairs. every_layer: a row for each of trace_layers.
    Raises ValueError, naming the layer, for what the formula does not hold for.
    """
    layers = trace_layers(model, input_size)
    views = (i for i, layer in enumerate(layers) if layer.kind in ("view", "reshape"))
    cuts = (i for i in views if len(layers[i].shape) == 2 and layers[i].shape[0] != 1)
    layers = layers[: next(cuts, None)]  # the table ends where one image's answer is cut into several
    windows = [_window(layer, [layers[i] for i in layer.inputs], ignore_norms) for layer in layers]
    rows, columns = (fields_along(layers, windows, axis) for axis in (0, 1))
    listed = []
    for layer, (kernel, stride, padding, _), *seen in zip(layers, windows, rows, columns):
        start, jump, field = zip(*seen)  # each (along the rows, along the columns)
        moves = max(*kernel, *stride) > 1 or max(padding) > 0
        joins = len(layer.inputs) > 1 and listed and field != listed[-1][-1]
        if every_layer or moves or joins:
            listed.append([layer.name, kernel, stride, padding, layer.size, jump, start, field])
    if not listed:  # no layer changes anything: what the image itself sees
        listed = [["image", (1, 1), (1, 1), (0, 0), layers[0].size, (1, 1), (0, 0), (1, 1)]]
    names = "layer kernel stride padding output_size jump start receptive_field".split()
    table = pd.DataFrame(listed, columns=names).set_index("layer")
    return table.map(lambda pair: pair[0] if pair[0] == pair[1] else tuple(pair)).reset_index()


def measured_receptive_field(model: nn.Module, input_size=(1, 28, 28), layer=None) -> tuple[int, int]:
    """(height, width) of the pixels that can change one central output of a layer, or of the model.

    They are the pixels where that output's gradient is not zero, in a copy with random positive
    weights. A maximum's gradient reaches one pixel only: so the image brightens towards one corner,
    then towards the opposite one, and the maximum moves from corner to corner of its window. Of a
    layer that is called several times, the last call. Clipped to the image: take a large one.
    """
    require(len(input_size) == 3, f"input_size must be (channels, height, width), got {input_size}")
    model, random = copy.deepcopy(model).cpu().double().eval(), torch.Generator().manual_seed(0)
    modules, outputs = dict(model.named_modules()), []
    require(layer is None or layer in modules, f"the model has no layer {layer!r}, only {[*modules]}")
    for module in modules.values():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    for name, values in model.named_parameters():
        scale = 0 if name.endswith("bias") else 0.3 / math.prod(values.shape[1:])
        values.data = scale * (0.5 + torch.rand(values.shape, generator=random).double())
    modules[layer or ""].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    probe = torch.zeros(1, *input_size, dtype=torch.float64, requires_grad=True)
    ramp = torch.outer(*(torch.linspace(0.5, 1, length).double() for length in input_size[1:]))
    for image in (ramp, ramp.flip(0, 1), ramp**100, ramp.flip(0, 1) ** 100):  # steep, past padding
        model(image + probe)
        output = outputs[-1]
        require(len(output) == 1, f"layer {layer!r} does not give one row for one image")
        if output.ndim == 4:
            output = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
        (output * torch.rand(output.shape, generator=random)).sum().backward()
    rows, columns = probe.grad.sum((0, 1)).nonzero(as_tuple=True)
    return int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


class TensorLoader:
    """Batches of a TensorDataset (images, labels) that lies on its device; len() counts batches.

    augment (section 8.3) is called on each batch of images in the first augment_epochs passes;
    generator (CPU) fixes the order.
    """

    def __init__(self, dataset, batch_size, *, shuffle=False, augment=None, generator=None, augment_epochs=math.inf):
        is_pair = isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2 and len(dataset) > 0
        require(is_pair, f"dataset must be a TensorDataset of images and labels, not empty; got {dataset!r:.80}")
        lowest = dataset.tensors[1].min()
        require(lowest >= 0, f"labels must be 0 or more, got {lowest}")
        is_count = isinstance(batch_size, numbers.Integral) and batch_size > 0
        require(is_count, f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        self.dataset, self.batch_size, self.shuffle = dataset, int(batch_size), shuffle
        self.augment, self.augment_epochs, self.generator = augment, augment_epochs, generator
        self.epoch = 0  # passes so far

    def __len__(self):
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self):
        images, labels = self.dataset.tensors
        self.epoch += 1
        augment = self.augment if self.epoch <= self.augment_epochs else None
        order = torch.arange(len(labels))
        if self.shuffle:
            order = torch.randperm(len(labels), generator=self.generator)
        for batch in order.to(labels.device).split(self.batch_size):
            picked = images[batch]
            if augment is not None:
                picked = augment(picked)
            yield picked, labels[batch]


def check_loaders(train_loader, test_loader) -> None:
    """Refuse what can't be told from other data, and a test on images that were changed at random."""
    held = hasattr(train_loader, "dataset") and hasattr(test_loader, "dataset")
    require(held, "train_loader and test_loader must be a TensorLoader or a DataLoader each")
    require(getattr(test_loader, "augment", None) is None, "test_loader augments its images: make it without augment")


def check_optimizer(model: nn.Module, optimizer) -> None:
    """Refuse an optimizer that holds no weights of the model, or others, such as those of a layer since replaced."""
    held = {weights for group in optimizer.param_groups for weights in group["params"]}
    is_own = bool(held) and held <= set(model.parameters())
    require(is_own, "optimizer holds weights that are not this model's: make it anew, with model.parameters()")


def check_batch(output: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse labels that are no class of the model, and outputs that are no log-probabilities."""
    classes, low, high = output.shape[1], labels.min(), labels.max()
    require(0 <= low and high < classes, f"labels must lie in 0..{classes - 1}, got {low}..{high}")
    sums = output.detach().float().exp().sum(1)
    require(
        not (sums - 1).abs().max() > 0.05,  # nan passes here, and is refused as a nan loss
        "model must return log-probabilities: end its forward with F.log_softmax(x, dim=1)",
    )


def averages(loss_sum, correct, samples: int) -> tuple[float, float]:
    """(loss, accuracy in %) per sample, from their sums."""
    require(samples > 0, "loader gave no batch: its dataset is empty, or smaller than a batch that drop_last drops")
    require(
        math.isfinite(loss_sum),
        "the loss became nan or infinite: lower the learning rate or look at the images",
    )
    return float(loss_sum) / samples, 100 * int(correct) / samples


def train(model: nn.Module, device, loader, optimizer, scheduler=None, average=None) -> tuple[float, float]:
    """Train for one epoch; return (loss, accuracy in %), averaged over the samples seen.

    model maps images to log-probabilities (N, classes). After every batch, scheduler sets the
    learning rate, and average (an AveragedModel) takes in the weights, where they are given.
    Raises ValueError for labels or outputs that can't be right, and for a loss of nan.
    """
    check_optimizer(model, optimizer)
    model.train()
    loss_sum = correct = samples = 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        output = model(images)
        if samples == 0:
            check_batch(output, labels)
        loss = F.nll_loss(output, labels)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if average is not None:
            average.update_parameters(model)
        loss_sum += loss.detach().float() * len(labels)
        correct += (output.argmax(1) == labels).sum()
        samples += len(labels)
    return averages(loss_sum, correct, samples)


@torch.no_grad()
def test(model: nn.Module, device, loader) -> tuple[float, float]:
    """Return (loss, accuracy in %) of the model over all samples of the loader; nothing is learned."""
    model.eval()
    loss_sum = correct = samples = 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        output = model(images)
        if samples == 0:
            check_batch(output, labels)
        loss_sum += F.nll_loss(output, labels, reduction="sum").float()
        correct += (output.argmax(1) == labels).sum()
        samples += len(labels)
    return averages(loss_sum, correct, samples)


class Progress:
    """Shows a run while it goes on: a line of text, and in a notebook its curves, updated in place."""

    def __init__(self, epochs: int, history: list[dict]):
        # In a notebook, tqdm's own bars would store a widget or a trail: so its line is displayed.
        self.in_notebook = hasattr(get_ipython(), "kernel")
        resumed = f", resumed after epoch {len(history)}" if history else ""
        look = "{n_fmt}/{total_fmt} epochs |{bar:20}| {elapsed}, {remaining} left{postfix}" + resumed
        file = io.StringIO() if self.in_notebook else None
        self.bar = tqdm(total=epochs, initial=len(history), bar_format=look, file=file, ascii=False)
        self.displays = []
        if history:
            self.show(history)

    def show(self, history: list[dict]) -> None:
        """Bring line and curves up to the history's last epoch."""
        last = history[-1]
        self.bar.set_postfix_str(
            f"loss {last['train_loss']:.4f} in training, {last['test_loss']:.4f} in test; "
            f"test accuracy {last['test_accuracy']:.2f}%",
            refresh=False,
        )
        self.bar.n = len(history)
        self.bar.refresh()
        if self.in_notebook:
            figure = plot_progress(pd.DataFrame(history), self.bar.total)
            contents = [{"text/plain": str(self.bar)}, figure]
            if not self.displays:
                self.displays = [
                    display.display(each, display_id=True, raw=isinstance(each, dict)) for each in contents
                ]
            for shown, each in zip(self.displays, contents):
                shown.update(each, raw=isinstance(each, dict))


def plot_progress(history: pd.DataFrame, epochs: int) -> plt.Figure:
    """Loss and accuracy by epoch, of a run that has come so far."""
    figure, panels = plt.subplots(1, 2, figsize=(5.4, 2), layout="constrained")
    for axes, name in zip(panels, ("loss", "accuracy")):
        axes.plot(history["epoch"], history[f"train_{name}"], "C3o-", markersize=3, label="training")
        axes.plot(history["epoch"], history[f"test_{name}"], "C0s-", markersize=3, label="test")
        axes.set(xlim=(0.5, epochs + 0.5), xlabel="epoch")
    panels[0].set(ylabel="loss (nats)", yscale="log")
    panels[1].set(ylabel="accuracy (%)")
    panels[1].legend()
    plt.close(figure)  # it is displayed by hand
    return figure


PLAIN = (str, bytes, bool, int, float, complex, type(None), type(...), range, slice)
PLAIN += (torch.dtype, torch.device, torch.layout, torch.memory_format)
COUNTERS = set("""optimizer last_epoch _step_count _last_lr best num_bad_epochs cooldown_counter T_cur T_i
    _is_initial _get_lr_called_within_step""".split())  # fmt: skip


def describe(thing, inside=()) -> str:
    """Text that is equal for things made of equal parts: values by repr, code by what it does and holds.

    Of a network, layers and code count, not the weights; of a schedule, not how far it has come. inside are
    the things around it. Raises TypeError for what can't be told from another of its kind, such as an open
    file, and for what draws random numbers of its own.
    """
    if any(thing is each for each in inside):
        return "itself"  # a loop, such as a method that names its class
    if isinstance(thing, np.ndarray):
        thing = torch.from_numpy(thing.copy())
    if isinstance(thing, nn.Parameter):
        hooks = describe(_hooks_of(thing, "_backward_hooks", "_post_accumulate_grad_hooks"), inside)
        return f"{thing.dtype} {tuple(thing.shape)} {thing.requires_grad} {hooks}"
    if isinstance(thing, torch.Tensor):
        bits = thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return f"{thing.dtype} {tuple(thing.shape)} {zlib.crc32(bits):08x}"
    if isinstance(thing, np.generic):
        return repr(thing.item())
    if type(thing) in PLAIN:
        return repr(thing)
    parts = [describe(part, (*inside, thing)) for part in _parts_of(thing)]
    if isinstance(thing, (set, frozenset)):
        parts.sort()  # Python shuffles a set of strings anew in every process
    return f"{type(thing).__name__}({', '.join(parts)})"


def _without(names, things: dict) -> dict:
    """The things of all other names."""
    return {name: thing for name, thing in things.items() if name not in names}


def _hooks_of(thing, *kinds: str) -> list[list]:
    """The functions that PyTorch calls besides a thing's own, such as one that clips gradients."""
    return [list((getattr(thing, kind, None) or {}).values()) for kind in kinds]


def _checksum(part, generator) -> str:
    """Of what describe says, but for the generator of the order, which the checkpoint holds."""
    try:
        return f"{zlib.crc32(describe(part, (generator,)).encode()):08x}"
    except (TypeError, ValueError, RuntimeError) as error:  # the last two from odd tensors and endless lists
        return f"{error} ({time.time_ns()})"


LEARNED = {"running_mean", "running_var", "num_batches_tracked", "n_averaged", "_u", "_v"}  # buffers that move
METHODS = (types.MethodType, staticmethod, classmethod)
HOLDS_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.CodeType)
DRAWS = (random.Random, torch.Generator, np.random.Generator, np.random.RandomState)


def _parts_of(thing) -> list:
    """What a thing is made of, as describe wants to know it."""
    if type(thing) in (list, tuple, set, frozenset):
        return list(thing)
    if type(thing) is dict:
        return [*thing, *thing.values()]
    if isinstance(thing, types.ModuleType):
        return [thing.__name__, None if _is_library(thing.__name__) else Path(thing.__file__).read_bytes()]
    if isinstance(thing, functools.partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, METHODS):
        return [thing.__func__, getattr(thing, "__self__", None)]
    if isinstance(thing, property):
        return [thing.fget, thing.fset]
    if isinstance(thing, HOLDS_CODE):
        return _parts_of_code(thing)
    if isinstance(thing, nn.Module):
        hooks = _hooks_of(thing, "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        own = [_without(vars(nn.Module()), vars(thing)), _without(LEARNED, thing._buffers)]
        return [type(thing), own, hooks, dict(thing._parameters), dict(thing._modules)]
    if isinstance(thing, LRScheduler):
        return [type(thing), _without(COUNTERS, vars(thing))]
    if isinstance(thing, DRAWS):
        raise TypeError(f"{thing!r} draws random numbers of its own, which no checkpoint holds")
    apart = thing.__reduce_ex__(4)  # as pickle takes it apart, which refuses files and the like
    return [list(part) if hasattr(part, "__next__") else part for part in apart]


def _is_library(module) -> bool:
    """Whether a module is Python's own or an installed one: of what it holds, the name will do."""
    root = str(module).split(".")[0]
    path = getattr(sys.modules.get(root), "__file__", None) or ""
    installed = "site-packages" in path or "dist-packages" in path
    return root != "__main__" and (root in sys.stdlib_module_names or installed)


def _parts_of_code(thing) -> list:
    """What a function or a class does, holds, and uses."""
    if isinstance(thing, types.CodeType):
        return [thing.co_code, thing.co_consts, thing.co_names, thing.co_varnames]
    name = [thing.__module__, thing.__qualname__]
    if isinstance(thing, types.BuiltinFunctionType):
        return name if isinstance(thing.__self__, types.ModuleType) else [*name, thing.__self__]
    if isinstance(thing, type):
        return name if _is_library(thing.__module__) else [*name, _members_of(thing), *thing.__bases__]
    held = [cell.cell_contents for cell in thing.__closure__ or () if cell != types.CellType()]  # not empty ones
    if _is_library(thing.__module__):
        return [*name, held]
    used = [thing.__globals__.get(name) for name in sorted(set(_global_names(thing.__code__)))]
    return [thing.__code__, thing.__defaults__, thing.__kwdefaults__, held, used, vars(thing)]


def _members_of(cls: type) -> dict:
    """A class's own methods and values, without what Python notes about it."""
    methods = {name: value for name, value in vars(cls).items() if callable(value)}
    return methods | {name: value for name, value in vars(cls).items() if not name.startswith(("__", "_abc_"))}


def _global_names(code: types.CodeType) -> list[str]:
    """The names that code, or code nested in it, looks up outside of its function."""
    names = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    nested = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return names + [name for each in nested for name in _global_names(each)]


def load_file(path) -> dict:
    """Read a file of torch.save, running none of what it holds as code."""
    require(Path(path).exists(), f"{path} is missing")
    try:
        with zipfile.ZipFile(path) as file:
            require(not file.testzip(), "")  # torch.load itself passes over flipped bits
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged, or no file of torch.save: make it anew") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and plain values, so it isn't read: code in "
                         "it would run. Save a state_dict") from error  # fmt: skip


def plain(thing):
    """The same nested lists and dicts, with numpy's numbers and arrays as Python's: load_file reads them."""
    if isinstance(thing, dict):
        return {name: plain(value) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return type(thing)(plain(value) for value in thing)
    return thing.tolist() if isinstance(thing, (np.generic, np.ndarray)) else thing


class Checkpoint:
    """The file of a run: after each epoch, all that the run needs to go on from there. None: no file."""

    def __init__(self, path, sums: dict[str, str], parts: list, generator=None):
        self.path, self.sums, self.parts = None if path is None else Path(path), sums, parts
        generators = [torch.default_generator, generator, *torch.cuda.default_generators]
        self.random = [(each.get_state, each.set_state) for each in generators if each is not None]
        self.random += [(random.getstate, random.setstate), (np.random.get_state, np.random.set_state)]
        if torch.backends.mps.is_available():
            self.random.append((torch.mps.get_rng_state, torch.mps.set_rng_state))
        named = path is None or (self.path.parent.is_dir() and not self.path.is_dir())
        require(named, f"checkpoint must be a file in a folder that exists, got {path}")

    def load(self, epochs: int) -> list[dict]:
        """Bring all parts to where the file left them; return the history. A first file holds the start."""
        saved = load_file(self.path) if self.path and self.path.exists() else {"history": [], "sums": None}
        is_run = isinstance(saved, dict) and "sums" in saved
        require(is_run, f"{self.path} is no checkpoint of fit: give this run another file")
        if not saved["history"] and saved["sums"] != self.sums:  # nothing to go on from, nothing to lose
            return []
        differ = [name for name, value in self.sums.items() if saved["sums"].get(name) != value]
        if len(saved["history"]) > epochs:
            differ.append(f"number of epochs, {len(saved['history'])}")
        require(not differ, f"{self.path} is of another run, with another {' and another '.join(differ)}: "
                            "give this run another file, or delete that one to start anew")  # fmt: skip
        for part, state in zip(self.parts, saved["states"]):
            part.load_state_dict(state)
        for (_, set_state), state in zip(self.random, saved["random"]):
            set_state(state)
        return saved["history"]

    def save(self, history: list[dict]) -> None:
        """Write the file, in such a way that it is whole at any moment."""
        if self.path is not None:
            saved = {"sums": self.sums, "history": history, "states": [plain(part.state_dict()) for part in self.parts]}
            saved["random"] = [plain(get_state()) for get_state, _ in self.random]
            torch.save(saved, f"{self.path}.{os.getpid()}")
            os.replace(f"{self.path}.{os.getpid()}", self.path)


def fingerprint(
    model, device, loader, test_loader, optimizer, scheduler=None, average=None, step_every="epoch"
) -> dict[str, str]:
    """A checksum for each part of what makes a run; the weights that it starts from don't count.

    Data count whole, with all that a dataset or a loader holds; so does what a hook has gathered. A part that can't be told from another
    gets a text that never comes again, so that such a run is never resumed.
    """
    moving = {"params", "lr", "initial_lr"}  # of an optimizer, what a schedule changes
    if any(getattr(each, "cycle_momentum", False) for each in getattr(scheduler, "_schedulers", [scheduler])):
        moving |= {"momentum", "betas"}
    hooks = _hooks_of(optimizer, "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    groups = [_without(moving, group) for group in optimizer.param_groups]
    places = {weight: place for place, weight in enumerate(model.parameters())}
    weights = [[places.get(weight) for weight in group["params"]] for group in optimizer.param_groups]
    rates = [group["lr"] for group in optimizer.param_groups]
    if scheduler is not None:  # it moves lr; most schedules note where it began
        rates = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    going = {"generator", "epoch", "_iterator"}  # of a loader, what changes from epoch to epoch
    generator = getattr(loader, "generator", None) or torch.default_generator
    parts = {
        "network": getattr(model, "_orig_mod", model),  # what torch.compile wraps
        "device": str(torch.device(device)),
        "training data or loader": [type(loader), _without(going, vars(loader))],
        "test data or loader": [type(test_loader), _without(going, vars(test_loader))],
        "optimizer": [type(optimizer), optimizer.defaults, groups, weights, rates, hooks],
        "schedule": [scheduler, step_every],
        "average": average,
        "seed": [torch.initial_seed(), generator.initial_seed()],
        "train or test": [train, test],
    }
    return {name: _checksum(part, generator) for name, part in parts.items()}


def check_average(average, model: nn.Module) -> None:
    """Refuse an average that would leave BatchNorm's statistics as they were at the start."""
    whole = average is None or average.use_buffers or not list(model.buffers())
    require(whole, "average needs use_buffers=True: without it BatchNorm's statistics are not averaged")


def check_schedule(scheduler, optimizer, step_every: str, batches: int, epochs: int) -> None:
    """Refuse a number of epochs that is none, and a schedule that would not fit the run."""
    is_count = isinstance(epochs, numbers.Integral) and epochs > 0
    require(is_count, f"epochs must be a whole number of at least 1, got {epochs!r}")
    require(step_every in ("batch", "epoch"), f'step_every must be "batch" or "epoch", got {step_every!r}')
    require(scheduler is None or scheduler.optimizer is optimizer, "scheduler was made for another optimizer")
    for kind, right in [(CyclicLR, "batch"), (ReduceLROnPlateau, "epoch")]:
        require(not isinstance(scheduler, kind) or step_every == right, f'{kind.__name__} needs step_every="{right}"')
    steps = epochs if step_every == "epoch" else epochs * batches
    for each in getattr(scheduler, "_schedulers", [scheduler]):  # SequentialLR holds several
        totals = [getattr(each, name, None) for name in ("total_steps", "T_max", "total_iters")]
        made_for = next(filter(None, totals), steps)
        whole = scheduler is each and isinstance(each, (OneCycleLR, CosineAnnealingLR))  # their last step is the end
        fits = made_for == steps if whole else made_for <= steps
        require(fits, f"{type(each).__name__} was made for {made_for} steps; this run makes {steps}, "
                      f"one after every {step_every}")  # fmt: skip


def check_progress(scheduler, average, step_every: str, batches: int, epochs: int) -> None:
    """Refuse a schedule that has not come as far as the run, so many epochs, and a run's start with a used average."""
    steps = epochs if step_every == "epoch" else epochs * batches
    is_new = getattr(scheduler, "last_epoch", steps) == steps
    require(is_new, "scheduler has been stepped before: make model, optimizer and scheduler anew")
    is_own = average is None or epochs > 0 or average.n_averaged == 0
    require(is_own, "average was used before: make it anew, as AveragedModel(model, use_buffers=True)")


def fit(
    model: nn.Module, device, train_loader, test_loader, optimizer, scheduler=None, epochs: int = 20,
    average=None, checkpoint=None, step_every: str = "epoch",
) -> pd.DataFrame:  # fmt: skip
    """Train for some epochs, testing after each; return the history, a DataFrame of one row an epoch.

    Columns: epoch, lr (at the epoch's start), train_loss, train_accuracy, test_loss, test_accuracy,
    seconds (of training only). scheduler steps after every "batch" or "epoch". With average, an
    AveragedModel, the test columns are the average's. Every epoch is saved in the file checkpoint;
    the same call goes on from there, to more epochs too where the schedule allows it. Raises
    ValueError for settings that don't fit, and for a file that is damaged or another run's.
    """
    check_loaders(train_loader, test_loader)
    check_schedule(scheduler, optimizer, step_every, len(train_loader), epochs)
    check_average(average, model)
    parts = [part for part in (model, optimizer, scheduler, average) if part is not None]
    run = (model, device, train_loader, test_loader, optimizer, scheduler, average, step_every)
    saved = Checkpoint(checkpoint, fingerprint(*run) if checkpoint else {}, parts, train_loader.generator)
    history = saved.load(epochs)
    check_progress(scheduler, average, step_every, len(train_loader), len(history))
    if not history:
        saved.save(history)  # the start, for a run that is interrupted in its first epoch
    train_loader.epoch = len(history)  # a resumed run keeps its place in the augmentation
    progress = Progress(epochs, history)
    for epoch in range(len(history) + 1, epochs + 1):
        lr, start = float(optimizer.param_groups[0]["lr"]), time.perf_counter()
        by_batch = scheduler if step_every == "batch" else None
        train_loss, train_accuracy = train(model, device, train_loader, optimizer, by_batch, average)
        seconds = time.perf_counter() - start
        test_loss, test_accuracy = test(average or model, device, test_loader)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(test_loss if scheduler.mode == "min" else test_accuracy)
        elif scheduler is not None and step_every == "epoch":
            scheduler.step()
        history.append({"epoch": epoch, "lr": lr, "train_loss": train_loss, "train_accuracy": train_accuracy,
                        "test_loss": test_loss, "test_accuracy": test_accuracy, "seconds": seconds})  # fmt: skip
        saved.save(history)
        progress.show(history)
    return pd.DataFrame(history)


def plot_curves(history: pd.DataFrame, title="", target: float | None = 99.28) -> plt.Figure:
    """Loss, accuracy and learning rate by epoch, from fit's history; target is a line across the accuracy."""
    figure, panels = plt.subplots(3, 1, figsize=(5.4, 6), sharex=True, height_ratios=[3, 3, 1.3], layout="constrained")
    rows, look = history.set_index("epoch"), {"style": ["C3o-", "C0s-"], "markersize": 4}
    losses, accuracies = (rows[[f"train_{name}", f"test_{name}"]] for name in ("loss", "accuracy"))
    losses.set_axis(["training", "test"], axis=1).plot(
        ax=panels[0], ylabel="loss (nats, log scale)", logy=True, title=title, **look
    )
    accuracies.set_axis(["training", "test"], axis=1).plot(ax=panels[1], ylabel="accuracy (%)", **look)
    rows["lr"].plot(ax=panels[2], ylabel="learning rate\nat the epoch's start", logy=True, style="C2", ds="steps-mid")
    low = min(99, target or 99, accuracies.iloc[-1].min()) - 1  # the first epochs are out of sight
    panels[1].set_ylim(low, 100.1)
    panels[2].set_xlim(0.5, len(rows) + 0.5)
    panels[2].xaxis.set(major_locator=plt.MaxNLocator(integer=True), minor_locator=plt.NullLocator())
    if target is not None:
        panels[1].axhline(target, color="C4", linewidth=1, label=f"{target}%")
        panels[1].legend()
    for axes in panels[[0, 2]]:
        axes.yaxis.set(major_locator=plt.LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
    return figure


def effective_receptive_field(model: nn.Module, images: torch.Tensor, layer: str) -> torch.Tensor:
    """How much each pixel moves the central output of a layer: mean size of the gradient, (height, width).

    images (N, channels, height, width); a layer's output is the sum of its channels. After Luo et al.,
    Understanding the Effective Receptive Field in Deep Convolutional Neural Networks, 2016.
    """
    model, outputs = copy.deepcopy(model).eval(), []
    model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    images = images.clone().requires_grad_()
    model(images)
    height, width = outputs[-1].shape[2:]
    middle = outputs[-1][:, :, height // 2, width // 2].sum()
    (gradient,) = torch.autograd.grad(middle, images)
    return gradient.abs().mean((0, 1)).cpu()


@torch.no_grad()
def log_probabilities(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The model's answers to images (N, 1, 28, 28), a thousand at a time: (N, classes)."""
    model.eval()
    return torch.cat([model(batch) for batch in images.split(1000)])


def plot_mistakes(images, labels, log_probabilities, count=20) -> plt.Figure:
    """The wrong answers given with most confidence: label, answer, and the answer's probability in %."""
    check_batch(log_probabilities.nan_to_num(), labels)
    lengths = {len(images), len(labels), len(log_probabilities)}
    require(len(lengths) == 1, f"images, labels and log_probabilities must be equally many, got {sorted(lengths)}")
    confidence, answers = log_probabilities.cpu().exp().max(1)
    labels = labels.cpu()
    wrong = (answers != labels).nonzero().flatten()
    require(len(wrong), "there is no mistake to show: all answers equal their labels")
    worst = wrong[confidence[wrong].argsort(descending=True)][:count]
    titles = [f"{labels[i]} → {answers[i]}\n{100 * confidence[i]:.0f}%" for i in worst]
    return plot_digits(images[worst.to(images.device)], titles, columns=5)


def plot_confusion(labels, answers, title="") -> plt.Figure:
    """Counts of the answers (columns) given to each label (rows, 0 to 9), both (N,); colour marks mistakes."""
    alike = labels.shape == answers.shape
    require(alike, f"labels and answers must be equally many, got {tuple(labels.shape)} and {tuple(answers.shape)}")
    for digits in (labels, answers):
        require(0 <= digits.min() and digits.max() <= 9, "labels and answers must be digits, 0 to 9")
    counts = torch.bincount(labels.cpu() * 10 + answers.cpu(), minlength=100).reshape(10, 10)
    mistakes = counts.clone().fill_diagonal_(0)
    figure, axes = plt.subplots(figsize=(5.4, 5), layout="constrained")
    axes.imshow(mistakes, cmap="Blues", vmax=2 * max(1, mistakes.max()))  # the lighter half: black is legible on it
    for (row, column), count in np.ndenumerate(counts.numpy()):
        axes.text(column, row, count or "·", ha="center", va="center")
    axes.set(xlabel="answer", ylabel="label", xticks=range(10), yticks=range(10), title=title)
    return figure


def save_model(model: nn.Module, path) -> None:
    """Write the model's weights (its state_dict) to path; of an AveragedModel, the averaged weights."""
    model = model.module if isinstance(model, AveragedModel) else model
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    torch.save(model.state_dict(), f"{path}.{os.getpid()}")
    os.replace(f"{path}.{os.getpid()}", path)  # so that an old file stays whole until the new one is


def load_model(model: nn.Module, path, device="cpu") -> nn.Module:
    """Read weights that save_model wrote into a model of the class saved (of an average, the class averaged).

    Return it on the device, in eval mode.
    """
    weights = load_file(path)
    require("sums" not in weights, f"{path} is a checkpoint of fit; the weights alone are what save_model writes")
    model.load_state_dict(weights)
    return model.to(device).eval()

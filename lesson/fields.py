"""What the layers of a network see of the image, found in one forward pass: in pixels; pairs are (rows, columns)."""

import copy
import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

UNMOVED = ((1, 1), (1, 1), (0, 0), (1, 1))  # the window of what leaves every place where it is
# Each output is made of the same place of the inputs, though PyTorch doesn't tag these as pointwise.
POINTWISE = {"native_batch_norm", "hardswish", "_prelu_kernel", "_to_copy", "copy", "clone", "detach", "expand"}
# These keep all places where the map keeps its size; the first may also bring all of the map to one place.
VIEWS = {"view", "_unsafe_view", "unsqueeze", "squeeze", "_adaptive_avg_pool2d", "adaptive_max_pool2d"}
OVER_CHANNELS = {"cat", "split", "split_with_sizes", "slice"}
REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "var", "std"}


@dataclass
class Operation:
    """One operation of a forward pass: what it reads, what it is given, what its outputs see."""

    name: str  # of the layer that makes it, such as conv1; in a module that has layers inside: shared1.add, or add
    kind: str  # PyTorch's name: convolution, relu, max_pool2d_with_indices, native_batch_norm, addmm, view, ...
    inputs: list[int]  # the operations that it reads, by their numbers in the list
    arguments: dict  # by PyTorch's names, with defaults: weight, stride, ...; None for what operations make
    shape: tuple[int, ...]  # of its output: (1, channels, rows, columns), or (1, features)
    window: tuple | None = UNMOVED  # kernel, stride, padding, dilation, each a pair; None where no formula holds
    start: tuple[int, int] = (0, 0)  # the first pixel that the first output sees, negative in the padding
    jump: tuple[int, int] = (1, 1)  # pixels from one output to the next; 0 where all outputs see the same
    field: tuple[int, int] = (1, 1)  # pixels that one output sees


def _size(shape) -> tuple[int, int]:
    """Rows and columns of a map; plain features have one place."""
    return tuple(shape[-2:]) if len(shape) > 3 else (1, 1)


def _window(func, kind: str, given: dict, before: tuple, after: tuple):
    """Kernel, stride, padding, dilation, each a number or a pair, from the shapes before and after; None if unknown."""
    if (torch.Tag.pointwise in func.tags or kind in POINTWISE) and not given.get("training"):
        return UNMOVED
    if len(before) < 4:
        return None
    if kind == "convolution" and given["weight"] is not None and not given["transposed"]:
        return given["weight"].shape[2:], given["stride"], given["padding"], given["dilation"]
    if kind in ("max_pool2d_with_indices", "avg_pool2d"):  # a pool steps by its kernel where nothing else is said
        return given["kernel_size"], given["stride"] or given["kernel_size"], given["padding"], given.get("dilation", 1)
    if kind == "constant_pad_nd":
        left, _, top, *_ = [*given["pad"], 0, 0]
        return 1, 1, (top, left), 1
    if kind in VIEWS | OVER_CHANNELS and _size(after) == _size(before):
        return UNMOVED
    if kind in VIEWS and after[1:2] == (math.prod(after),):
        return _size(before), 1, 0, 1  # all of the map
    if kind in REDUCTIONS:
        dims = [dim % len(before) for dim in tree_leaves(given.get("dim")) if dim is not None]
        taken = [not dims or axis in dims for axis in (len(before) - 2, len(before) - 1)]  # rows, columns
        if len(after) == len(before) or all(taken):
            return [length if is_taken else 1 for length, is_taken in zip(_size(before), taken)], 1, 0, 1
    return None


def _geometry(window, sources: list[Operation], before: list[tuple], after: tuple) -> list | None:
    """window, start, jump, field of an operation, from the shapes that it reads and makes; None if no formula holds."""
    sizes = np.array([_size(shape) for shape in before])  # (sources, 2), as are the next three
    starts, jumps, fields = (np.array([getattr(each, name) for each in sources]) for name in ("start", "jump", "field"))
    is_one_view = (sizes == 1) | (jumps == 0)
    if window is None and is_one_view.all():
        window = UNMOVED  # whatever it does: all that it reads sees the same
    if window is None or after[:1] not in ((1,), ()):
        return None
    kernel, stride, padding, dilation = pairs = np.array([np.broadcast_to(value, 2) for value in window])
    is_map = np.maximum(sizes.max(0), _size(after)) > 1
    is_spread = is_map & is_one_view.any(0)  # one number for a map: each place is said to see what all see
    if (is_map & ~is_spread & (jumps.min(0) < jumps.max(0))).any():
        return None
    step, start = np.where(is_spread, 0, jumps.max(0)), starts.min(0)
    end = (starts + fields + is_spread * (sizes - 1) * jumps).max(0)
    seen = start - padding * step, stride * step, end - start + (kernel - 1) * dilation * step
    return [tuple(map(tuple, pairs.tolist())), *(tuple(pair.tolist()) for pair in seen)]


class _Follow(TorchDispatchMode):
    """Notes the operations of a forward pass that read the image, or what is made of it."""

    def __init__(self, model: nn.Module, image: torch.Tensor):
        super().__init__()
        self.operations = [Operation("image", "image", [], {}, tuple(image.shape))]
        self.maker = {image: 0}  # of a tensor that is made of the image: its operation's number
        self.inside = []  # the modules that are being called: (name, whether it has none inside)
        for name, module in model.named_modules():
            entry = (name, not any(module.children()))
            module.register_forward_pre_hook(lambda *_, entry=entry: self.inside.append(entry))
            module.register_forward_hook(self._leave)

    def _leave(self, *_):
        self.inside.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {each.name: each.default_value for each in func._schema.arguments}
        given.update(zip(list(given), args), **(kwargs or {}))
        read = [x for x in tree_leaves(given) if x in self.maker]
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        kind = func._schema.name.removeprefix("aten::")
        if not (read and made) or kind.startswith("new_") or kind.endswith("_like"):
            return result
        (module, is_leaf), kind = self.inside[-1], kind.rstrip("_")
        own = kind.strip("_").removesuffix("_with_indices")
        name = module if is_leaf and module else f"{module}.{own}".lstrip(".")
        inputs, before, after = [self.maker[x] for x in read], [tuple(x.shape) for x in read], tuple(made[0].shape)
        sources, window = [self.operations[number] for number in inputs], _window(func, kind, given, before[0], after)
        seen = _geometry(window, sources, before, after) or [None]
        given = tree_map(lambda x: None if x in self.maker else x, given)
        self.maker.update((x, len(self.operations)) for x in made)
        self.operations.append(Operation(name, kind, inputs, given, after, *seen))
        if func._schema.name.endswith("_") and made[0]._base is not None:  # for the whole of a part, no formula holds
            self.maker[made[0]._base] = len(self.operations)
            self.operations.append(Operation(name, kind, [], given, after, window=None))
        return result

    def leading_to(self, answer) -> list[Operation]:
        """The operations that lead to the tensors of an answer, in the order of the calls."""
        leading = {self.maker[x] for x in tree_leaves(answer) if isinstance(x, torch.Tensor) and x in self.maker}
        if not leading:
            raise ValueError("the network returns no tensor that is made of the image")
        for number in reversed(range(len(self.operations))):
            if number in leading:
                leading.update(self.operations[number].inputs)
        listed = sorted(leading)
        for each in (self.operations[number] for number in listed):
            if each.window is None:
                raise ValueError(f"layer {each.name!r} ({each.kind}) follows no formula; use measured_receptive_field")
            each.inputs = [listed.index(number) for number in each.inputs]
        return [self.operations[number] for number in listed]


def copy_of(model: nn.Module) -> nn.Module:
    """A copy in eval mode, also of what PyTorch doesn't copy: weights that are computed, such as a pruned layer's."""
    held = [value for module in model.modules() for value in vars(module).values()]
    copies = {id(x): x.detach().clone() for x in held if isinstance(x, torch.Tensor) and not x.is_leaf}
    return copy.deepcopy(model, copies).eval()


def trace(model: nn.Module, input_size=(1, 28, 28)) -> list[Operation]:
    """List the operations of a forward pass in eval mode that lead to what the model returns; the last one makes it.

    The first is the image itself, here a black one. For kernel k, dilation d, stride s, padding p: field += (k - 1) *
    d * jump, start -= p * jump, then jump *= s (Araujo, Norris and Sim, Computing Receptive Fields, Distill 2019).
    Padding counts as seen, and so does what a pool with ceil_mode reads past the last pixel.
    Numbers that Python takes, as item() does, are not followed.
    Raises ValueError, naming the layer, for what moves places in other ways or takes means of this very image.
    """
    if len(input_size) != 3:
        raise ValueError(f"input_size must be (channels, rows, columns), got {input_size}")
    model, image = copy_of(model).cpu().float(), torch.zeros(1, *input_size)
    with torch.no_grad(), _Follow(model, image) as follow:
        answer = model(image)
    return follow.leading_to(answer)


def add_to(model: nn.Sequential, *, input_size=(1, 28, 28), **layers: nn.Module) -> None:
    """Append layers by name, or replace those of the same name; print what the network is up to the last of them.

    That is the shape that comes out for an image of input_size, all parameters so far, and the receptive field.
    """
    for name, layer in layers.items():
        model.add_module(name, layer)
    names = list(model._modules)
    so_far = model[: 1 + max((names.index(name) for name in layers), default=len(names))]
    last, parameters = trace(so_far, input_size)[-1], sum(weights.numel() for weights in so_far.parameters())
    shape, field = ("×".join(map(str, numbers)) for numbers in (last.shape[1:], last.field))
    print(f"{shape} come out; {parameters:,} parameters so far; each number sees {field}")


def receptive_field(model: nn.Module, input_size=(1, 28, 28)) -> pd.DataFrame:
    """A row for each operation of trace that changes the geometry; jump, start and receptive_field in pixels.

    Numbers are ints where rows and columns agree, else pairs. stem.0 is called stem if it is the only such row.
    """
    listed = [["image", *UNMOVED[:3], tuple(input_size[1:]), (1, 1), (0, 0), (1, 1)]]
    for each in trace(model, input_size)[1:]:
        row = [each.name, *each.window[:3], _size(each.shape), each.jump, each.start, each.field]
        if each.window[:3] != UNMOVED[:3] or (len(each.inputs) > 1 and row[-3:] != listed[-1][-3:]):
            listed.append(row)
    names = "layer kernel stride padding output_size jump start receptive_field".split()
    table = pd.DataFrame(listed[1:] or listed, columns=names)  # the image itself, where nothing else has a row
    short = [re.sub(r"\.\d+$", "", name) for name in table["layer"]]
    table["layer"] = [brief if short.count(brief) == 1 else name for brief, name in zip(short, table["layer"])]
    return table.map(lambda pair: pair[0] if isinstance(pair, tuple) and pair[0] == pair[1] else pair)


def _with_positive_weights(model: nn.Module, random: torch.Generator) -> nn.Module:
    """A copy with random positive weights and no biases."""
    model = copy_of(model).cpu().float()
    for path, values in model.state_dict().items():
        if path.endswith(("bias", "running_mean")):
            values.zero_()
        elif values.is_floating_point():
            values.copy_(0.3 * (0.5 + torch.rand(values.shape, generator=random)) / math.prod(values.shape[1:]))
    return model


def measured_receptive_field(model: nn.Module, input_size=(1, 28, 28), layer=None) -> tuple[int, int]:
    """(rows, columns) of the pixels that can change one central output of a layer, or of the model.

    They are the pixels where that output's gradient is not zero, in a copy with random positive weights and masks. A
    maximum's gradient reaches one pixel only: so the images brighten towards one corner, then towards the opposite
    one. Of a layer that is called several times, the last call. Clipped to the image: take a large one.
    Raises ValueError where the layer is never called, or no gradient gets to the image.
    """
    outputs, name, random = [], f"layer {layer!r}" if layer else "the model", torch.Generator().manual_seed(0)
    model = _with_positive_weights(model, random)
    model.get_submodule(layer or "").register_forward_hook(lambda *call: outputs.append(call[-1].clone()))
    ramp = torch.outer(*(torch.linspace(0.5, 1, length) for length in input_size[1:]))
    images = torch.stack([ramp, ramp.flip(0, 1), ramp**60, ramp.flip(0, 1) ** 60])  # the last two: past padding
    images = torch.cat([images, 100 * images, -100 * images]).unsqueeze(1)  # past x - 1 or -x before a ReLU
    probe = torch.zeros(len(images), *input_size, requires_grad=True)
    model(images + probe)
    if not outputs:
        raise ValueError(f"{name} is never called")
    if len(outputs[-1]) != len(images):
        raise ValueError(f"{name} does not give one row for one image")
    output = outputs[-1][(slice(None), slice(None), *(length // 2 for length in outputs[-1].shape[2:]))]
    total = 1e20 * (output * torch.rand(output.shape, generator=random)).sum()  # else deep gradients round to 0
    (total + 0 * probe.sum()).backward()  # so that there is a gradient, be it 0
    seen = (probe.grad.abs() > 0).any(0).any(0)  # not where it is nan
    if not seen.any():
        raise ValueError(f"no gradient gets from {name} to the image")
    return tuple(int(pixels.max() - pixels.min()) + 1 for pixels in seen.nonzero(as_tuple=True))


def count_multiplications(model: nn.Module, input_size=(1, 28, 28)) -> int:
    """Multiplications for one image in convolutions, linear layers, attention: PyTorch's count of operations, halved.

    Those that compute a weight count, too. Not counted: nn.LSTM (nn.GRU is), nn.Bilinear, products with one vector.
    """
    model = copy_of(model).cpu().float().requires_grad_()  # with gradients, no transformer layer is fused
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # what is fused is not counted
        model(torch.zeros(1, *input_size))
    return counter.get_total_flops() // 2

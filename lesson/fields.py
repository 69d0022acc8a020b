"""What the layers of a network see of the image: one forward pass is followed, and the numbers travel with it.

Fields are in pixels of the image; pairs are (rows, columns).
"""

import copy
import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

UNMOVED = ((1, 1), (1, 1), (0, 0), (1, 1))  # the window of what leaves every place where it is
# Each output is made of the same place of the inputs, though PyTorch doesn't tag these as pointwise.
POINTWISE = set("""native_batch_norm cudnn_batch_norm hardswish _prelu_kernel log_sigmoid_forward rrelu_with_noise
    _to_copy copy clone detach alias expand channel_shuffle""".split())  # fmt: skip
OVER_CHANNELS = set("cat split split_with_sizes slice _softmax _log_softmax glu transpose flip".split())
REDUCTIONS = set("mean sum amax amin max min std var logsumexp linalg_vector_norm".split())
POOLS = set("max_pool2d_with_indices max_pool2d mkldnn_max_pool2d avg_pool2d".split())
# These keep all places, or bring all of the map to one place.
VIEWS = set("view _unsafe_view unsqueeze squeeze _adaptive_avg_pool2d adaptive_max_pool2d".split())


@dataclass
class Operation:
    """One operation of a forward pass: what it reads, what it is given, what its outputs see."""

    name: str  # of the layer that makes it, such as conv1; in a module that has layers inside: shared1.add, or add
    kind: str  # PyTorch's name: convolution, relu, max_pool2d_with_indices, native_batch_norm, addmm, view, ...
    inputs: list[int]  # the operations that it reads, by their places in the list
    arguments: dict  # by PyTorch's names, with defaults: weight, stride, ...; None for what operations put out
    shape: tuple[int, ...]  # of its output: (1, channels, rows, columns), or (1, features)
    window: tuple = UNMOVED  # kernel, stride, padding, dilation, each a pair
    start: tuple[int, int] = (0, 0)  # the first pixel that the first output sees, negative in the padding
    jump: tuple[int, int] = (1, 1)  # pixels from one output to the next; 0 where all outputs see the same
    field: tuple[int, int] = (1, 1)  # pixels that one output sees


def _size(shape) -> tuple[int, int]:
    """Rows and columns of a map; plain features have one place."""
    return tuple(shape[-2:]) if len(shape) > 3 else (1, 1)


def _window(func, kind: str, given: dict, before: tuple, after: tuple):
    """Kernel, stride, padding, dilation, each a number or a pair, from the shapes before and after; None if unknown."""
    axes = len(before)
    if (torch.Tag.pointwise in func.tags or kind in POINTWISE) and not given.get("training"):
        return UNMOVED
    if axes < 4:
        return None
    if kind == "convolution" and given["weight"] is not None and not given["transposed"]:
        return given["weight"].shape[2:], given["stride"], given["padding"], given["dilation"]
    if kind in POOLS:  # a pool steps by its kernel where nothing else is said
        return given["kernel_size"], given["stride"] or given["kernel_size"], given["padding"], given.get("dilation", 1)
    if kind == "constant_pad_nd":  # left, right, maybe top, bottom
        return 1, 1, [*given["pad"], 0, 0][2::-2], 1
    if kind in VIEWS and len(after) in (2, 4) and after[1] == math.prod(after):
        return _size(before), 1, 0, 1  # all of the map
    dims = [dim for name in ("dim", "dim0", "dim1", "dims") for dim in tree_leaves(given.get(name)) if dim is not None]
    over = [not dims or axis in dims or axis - axes in dims for axis in (axes - 2, axes - 1)]  # rows, columns
    if kind in REDUCTIONS and (len(after) == axes or all(over)):
        return np.where(over, _size(before), 1), 1, 0, 1
    stays = not any(over) or (kind == "slice" and after == before)  # x[:, :2] slices the images too: it takes all
    keeps = kind in VIEWS or (kind in OVER_CHANNELS and stays)
    return UNMOVED if keeps and _size(after) == _size(before) else None


def _geometry(func, kind: str, given: dict, sources: list[Operation], before: list[tuple], after: tuple):
    """window, start, jump, field of an operation, from the shapes that it reads and gives; None if no formula holds."""
    start, jump, field = (np.array([getattr(each, of) for each in sources]) for of in ("start", "jump", "field"))
    sizes, window = np.array([_size(shape) for shape in before]), _window(func, kind, given, before[0], after)
    if window is None and ((sizes == 1) | (jump == 0)).all():
        window = UNMOVED  # whatever it does: all that it reads sees the same
    if window is None or after[:1] not in ((1,), ()):
        return None
    window = tuple(tuple(np.broadcast_to(value, 2).tolist()) for value in window)
    kernel, stride, padding, dilation = np.array(window)
    several = np.max([_size(after)] if window == UNMOVED else sizes, 0) > 1
    # One place, spread over a map: each output sees it, and is said to see all of the map beside it.
    spread = several & ((sizes == 1) | (jump == 0)).any(0)
    if (several & ~spread & (jump != jump[0])).any():
        return None  # branches with different jumps
    end = (start + spread * jump * (sizes - 1) + field).max(0)
    start, jump = start.min(0), ~spread * jump.max(0)
    seen = start - padding * jump, stride * jump, end - start + (kernel - 1) * dilation * jump
    return window, *(tuple(pair.tolist()) for pair in seen)


class _Follow(TorchDispatchMode):
    """Lists the operations of a forward pass that begins with image."""

    def __init__(self, model: nn.Module, image: torch.Tensor):
        super().__init__()
        self.operations = [Operation("image", "image", [], {}, tuple(image.shape))]
        self.places = {id(image): 0}  # in the list, of all that is made of the image; None after the list's end
        self.tensors = [image]  # all that were made: held, so that each keeps its id
        self.inside = []  # the modules that are being called: (name, whether it has none inside)
        for name, module in model.named_modules():
            entry = (name, not any(module.children()))
            module.register_forward_pre_hook(lambda *_, entry=entry: self.inside.append(entry))
            module.register_forward_hook(lambda *_: self.inside.pop() and None)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        kind = func._schema.name.removeprefix("aten::").rstrip("_")
        outputs = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.tensors += outputs
        read = [x for x in tree_leaves((args, kwargs)) if id(x) in self.places]
        if not read or kind.startswith("new_") or kind.endswith("_like"):
            return result  # made of the model's own tensors alone, such as a masked weight
        inputs, before = [self.places[id(x)] for x in read], [tuple(x.shape) for x in read]
        after, place = tuple(outputs[0].shape) if outputs else (0,), None
        is_cut = kind in VIEWS and len(after) == 2 and after[0] > 1  # into an answer for each place: the list ends
        if not is_cut and not (None in inputs and after == before[0]):
            given = {each.name: each.default_value for each in func._schema.arguments}
            given.update(zip(list(given), args), **(kwargs or {}))
            given = tree_map(lambda x: None if id(x) in self.places else x, given)
            (module, is_leaf), own = self.inside[-1], kind.strip("_").removesuffix("_with_indices")
            name, place = module if is_leaf and module else f"{module}.{own}".lstrip("."), len(self.operations)
            seen = None
            if None not in inputs and not (func._schema.is_mutable and read[0] is not args[0]):
                seen = _geometry(func, kind, given, [self.operations[i] for i in inputs], before, after)
            if seen is None:
                raise ValueError(f"layer {name!r} ({kind}) is no window that slides over maps of the same jump; "
                                 "measured_receptive_field measures what any network sees")  # fmt: skip
            self.operations.append(Operation(name, kind, inputs, given, after, *seen))
        if func._schema.is_mutable:  # what lies in the same memory changes too
            memory = args[0].untyped_storage().data_ptr()
            alike = [x for x in self.tensors if _size(x.shape) == _size(after)]
            outputs += [x for x in alike if x.untyped_storage().data_ptr() == memory]
        self.places.update((id(x), place) for x in outputs)
        return result


def trace(model: nn.Module, input_size=(1, 28, 28)) -> list[Operation]:
    """List the operations of a forward pass in eval mode; the first is the image itself, here a black one.

    For kernel k, dilation d, stride s, padding p: field += (k - 1) * d * jump, start -= p * jump, then jump *= s
    (Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019).
    Padding counts as seen, and so does what a pool with ceil_mode reads past the last pixel.
    Raises ValueError, naming the layer, for what moves places in other ways or takes means of this very image.
    """
    if len(input_size) != 3:
        raise ValueError(f"input_size must be (channels, rows, columns), got {input_size}")
    model, image = copy.deepcopy(model).cpu().float().eval(), torch.zeros(1, *input_size)
    with torch.no_grad(), _Follow(model, image) as follow:
        model(image)
    return follow.operations


def add_to(model: nn.Sequential, **layers: nn.Module) -> None:
    """Append layers by name; print the shape that comes out, all parameters so far, and the receptive field."""
    for name, layer in layers.items():
        model.add_module(name, layer)
    last, parameters = trace(model)[-1], sum(weights.numel() for weights in model.parameters())
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


def measured_receptive_field(model: nn.Module, input_size=(1, 28, 28), layer=None) -> tuple[int, int]:
    """(rows, columns) of the pixels that can change one central output of a layer, or of the model.

    They are the pixels where that output's gradient is not zero, in a copy with random positive weights. A maximum's
    gradient reaches one pixel only: so the images brighten towards one corner, then towards the opposite one. Of a
    layer that is called several times, the last call. Clipped to the image: take a large one.
    Raises ValueError where the layer is never called, or no gradient gets to the image.
    """
    model, random = copy.deepcopy(model).cpu().double().eval(), torch.Generator().manual_seed(0)
    outputs, parameters, name = [], dict(model.named_parameters()), f"layer {layer!r}" if layer else "the model"
    for path, values in model.state_dict().items():  # buffers of other names, such as masks, are left alone
        if path.endswith(("bias", "running_mean")):
            values.zero_()
        elif path in parameters or path.endswith(("weight", "running_var")):
            values.copy_(0.3 * (0.5 + torch.rand(values.shape, generator=random)) / math.prod(values.shape[1:]))
    target = model.get_submodule(layer or "")
    target.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    ramp = torch.outer(*(torch.linspace(0.5, 1, length).double() for length in input_size[1:]))
    images = torch.stack([ramp, ramp.flip(0, 1), ramp**100, ramp.flip(0, 1) ** 100])  # the last two: past padding
    images = torch.cat([images, 100 * images, -100 * images]).unsqueeze(1)  # past x - 1 or -x before a ReLU
    probe = torch.zeros(len(images), *input_size, dtype=torch.float64, requires_grad=True)
    model(images + probe)
    if not outputs:
        raise ValueError(f"{name} is never called")
    if len(outputs[-1]) != len(images):
        raise ValueError(f"{name} does not give one row for one image")
    output = outputs[-1][(slice(None), slice(None), *(length // 2 for length in outputs[-1].shape[2:]))]
    total = (output * torch.rand(output.shape, generator=random)).sum()
    (total + 0 * probe.sum()).backward()  # so that there is a gradient, be it 0
    seen = (probe.grad.abs() > 0).any(0).any(0)  # not where it is nan
    if not seen.any():
        raise ValueError(f"no gradient gets from {name} to the image")
    return tuple(int(places.max() - places.min()) + 1 for places in seen.nonzero(as_tuple=True))


def count_multiplications(model: nn.Module, input_size=(1, 28, 28)) -> int:
    """Multiplications for one image in convolutions and linear layers: PyTorch's count of operations, halved."""
    model = copy.deepcopy(model).cpu().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *input_size))
    return counter.get_total_flops() // 2

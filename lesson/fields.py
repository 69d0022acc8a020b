"""What the layers of a network see of the image, found in one forward pass: in pixels; pairs are (rows, columns)."""

import copy
import math
import re
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

UNMOVED = ((1, 1), (1, 1), (0, 0), (1, 1))  # the window of what leaves every place where it is
# PyTorch doesn't tag these as pointwise, though each output is made of the same place of the inputs.
POINTWISE = set("native_batch_norm hardswish _prelu_kernel _to_copy copy clone detach alias expand".split())
# These leave a map of the same size where it is (the last, if over channels); the first two also make one place of it.
VIEWS = set("view _unsafe_view unsqueeze squeeze _adaptive_avg_pool2d adaptive_max_pool2d".split())
REDUCTIONS = set("mean sum amax max".split())
OVER_CHANNELS = REDUCTIONS | set("cat split split_with_sizes slice transpose _softmax _log_softmax".split())


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
    if kind == "convolution" and len(before) == 4 and given["weight"] is not None and not given["transposed"]:
        return given["weight"].shape[2:], given["stride"], given["padding"], given["dilation"]
    if kind in ("max_pool2d_with_indices", "avg_pool2d"):  # a pool steps by its kernel where nothing else is said
        return given["kernel_size"], given["stride"] or given["kernel_size"], given["padding"], given.get("dilation", 1)
    if kind == "constant_pad_nd" and len(before) == 4:
        left, _, top, *_ = [*given["pad"], 0, 0]
        return 1, 1, (top, left), 1
    dims = {dim for name in ("dim", "dim0", "dim1") for dim in tree_leaves(given.get(name)) if dim is not None}
    over_places = dims & {-2, -1, len(before) - 2, len(before) - 1}  # rows, columns
    is_one_place = kind in VIEWS and after[1:2] == (math.prod(after),)
    if is_one_place or (kind in REDUCTIONS and (not dims or len(over_places) == 2)):
        return _size(before), 1, 0, 1  # all of the map
    keeps = kind in VIEWS or (kind in OVER_CHANNELS and not over_places)
    return UNMOVED if keeps and _size(after) == _size(before) else None


def _geometry(window: tuple | None, sources: list[Operation], after: tuple) -> tuple:
    """window, start, jump, field of an operation that makes the shape after; (None,) where no formula holds."""
    sizes = np.array([_size(each.shape) for each in sources])  # (sources, 2), as are the next four
    starts, jumps, fields = (np.array([getattr(each, name) for each in sources]) for name in ("start", "jump", "field"))
    is_one = (sizes == 1) | (jumps == 0)  # all outputs of that source see the same
    if window is None and is_one.all():
        window = UNMOVED  # whatever the operation does
    is_map = np.array(_size(after)) > 1
    is_spread = is_map & is_one.any(0)  # one number for a map: each place is said to see what all see
    differ = is_map & ~is_spread & (jumps.min(0) < jumps.max(0))
    if window is None or differ.any() or after[:1] not in ((1,), ()) or not all(each.window for each in sources):
        return (None,)
    ends = starts + fields + is_spread * (sizes - 1) * jumps
    start, end, jump = starts.min(0), ends.max(0), np.where(is_spread, 0, jumps.max(0))  # of all sources together
    window = kernel, stride, padding, dilation = [np.broadcast_to(value, 2) for value in window]
    seen = start - padding * jump, jump * stride, end - start + (kernel - 1) * dilation * jump
    return tuple(tuple(pair.tolist()) for pair in window), *(tuple(pair.tolist()) for pair in seen)


class _Follow(TorchDispatchMode):
    """Notes the operations of a forward pass that read the image, or what is made of it."""

    def __init__(self, model: nn.Module, image: torch.Tensor):
        super().__init__()
        self.operations = [Operation("image", "image", [], {}, tuple(image.shape))]
        self.maker = {image: 0}  # of a tensor that is made of the image: its operation's number
        self.unlisted = set()  # operations that cut maps into an answer for each place, and those after
        self.needed = set()  # operations that give Python a number: they may lead to the answer
        self.inside = []  # the modules that are being called: (name, whether it has none inside)
        for name, module in model.named_modules():
            entry = (name, not any(module.children()))
            module.register_forward_pre_hook(lambda *_, entry=entry: self.inside.append(entry))
            module.register_forward_hook(self._leave)

    def _leave(self, *_):
        self.inside.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, kind = func(*args, **(kwargs or {})), func._schema.name.removeprefix("aten::")
        given = {each.name: each.default_value for each in func._schema.arguments}
        given.update(zip(list(given), args), **(kwargs or {}))
        inputs = [self.maker[x] for x in tree_leaves(given) if x in self.maker]
        if not inputs or kind.startswith("new_") or kind.endswith("_like"):
            return result
        made, number = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)], len(self.operations)
        given = tree_map(lambda x: None if x in self.maker else x, given)
        self._note(func, kind.rstrip("_"), given, inputs, tuple(made[0].shape) if made else (0,))
        self.maker.update((x, number) for x in made)
        if isinstance(result, float):  # Python may go on with it; a bool or an int only chooses
            self.needed.add(number)
        if kind.endswith("_") and made[0]._base is not None:  # a part is changed: for the whole, no formula holds
            self.maker[made[0]._base] = number + 1
            self.operations.append(replace(self.operations[number], inputs=[number], window=None))
        return result

    def _note(self, func, kind: str, given: dict, inputs: list[int], after: tuple):
        """Add an operation that reads these inputs and makes the shape after."""
        (module, is_leaf), own = self.inside[-1], kind.strip("_").removesuffix("_with_indices")
        name = module if is_leaf and module else f"{module}.{own}".lstrip(".")
        sources = [self.operations[number] for number in inputs]
        if len(after) == 2 and after[0] > 1 and (kind in VIEWS or after == sources[0].shape):
            self.unlisted.add(len(self.operations))
        seen = _geometry(_window(func, kind, given, sources[0].shape, after), sources, after)
        self.operations.append(Operation(name, kind, inputs, given, after, *seen))

    def leading_to(self, answer) -> list[Operation]:
        """The operations that lead to the tensors of an answer, in the order of the calls."""
        answers = {self.maker[x] for x in tree_leaves(answer) if x in self.maker}
        if not answers:
            raise ValueError("the network returns no tensor that is made of the image")
        leading = answers | self.needed
        for number in reversed(range(len(self.operations))):
            if number in leading:
                leading.update(self.operations[number].inputs)
        numbers = sorted(leading - self.unlisted)
        listed = [self.operations[number] for number in numbers]
        for each in listed:
            if each.window is None:
                raise ValueError(f"layer {each.name!r} ({each.kind}) is no window that slides over maps of the same "
                                 "jump; measured_receptive_field measures what any network sees")  # fmt: skip
            each.inputs = [numbers.index(number) for number in each.inputs]
        return listed


def copy_of(model: nn.Module) -> nn.Module:
    """A copy in eval mode, also of what PyTorch doesn't copy: weights that are computed, such as a pruned layer's."""
    held = tree_leaves([vars(module) for module in model.modules()])
    computed = [x for x in held if isinstance(x, torch.Tensor) and not x.is_leaf]
    return copy.deepcopy(model, {id(x): x.detach().clone() for x in computed}).eval()


def trace(model: nn.Module, input_size=(1, 28, 28)) -> list[Operation]:
    """List the operations of a forward pass in eval mode that lead to what the model returns; the last one makes it.

    The first is the image itself, here a black one; where maps are cut into an answer for each place, the list ends.
    For kernel k, dilation d, stride s, padding p: field += (k - 1) * d * jump, start -= p * jump, then jump *= s
    (Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, 2019). Padding counts as seen,
    and so does a ceil_mode pool's overhang. Not followed: tolist(), numpy(), views older than a change in place.
    Raises ValueError, naming the layer, for what moves places in other ways or takes means of this very image.
    """
    if len(input_size) != 3:
        raise ValueError(f"input_size must be (channels, rows, columns), got {input_size}")
    model, image = copy_of(model).cpu().float(), torch.zeros(1, *input_size)
    with torch.no_grad(), _Follow(model, image) as follow:
        return follow.leading_to(model(image))


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
    listed = []
    for each in trace(model, input_size):
        row = [each.name, *each.window[:3], _size(each.shape), each.jump, each.start, each.field]
        if not listed or each.window[:3] != UNMOVED[:3] or (len(each.inputs) > 1 and row[-3:] != listed[-1][-3:]):
            listed.append(row)
    names = "layer kernel stride padding output_size jump start receptive_field".split()
    table = pd.DataFrame(listed[1:] or listed, columns=names)  # the image itself, where nothing else has a row
    short = [re.sub(r"\.\d+$", "", name) for name in table["layer"]]
    table["layer"] = [brief if short.count(brief) == 1 else name for brief, name in zip(short, table["layer"])]
    return table.map(lambda pair: pair[0] if isinstance(pair, tuple) and pair[0] == pair[1] else pair)


def _with_positive_weights(model: nn.Module, random: torch.Generator) -> nn.Module:
    """A copy in float64 with random positive weights and no biases."""
    model, parameters = copy_of(model).cpu().double(), dict(model.named_parameters())
    for path, values in model.state_dict().items():  # buffers of other names, such as masks, are left alone
        if path.endswith(("bias", "running_mean")):
            values.zero_()
        elif path in parameters or path.endswith(("weight", "running_var", "_u", "_v")):  # u, v: of a spectral norm
            values.copy_(0.3 * (0.5 + torch.rand(values.shape, generator=random)) / math.prod(values.shape[1:]))
    return model


def measured_receptive_field(model: nn.Module, input_size=(1, 28, 28), layer=None) -> tuple[int, int]:
    """(rows, columns) of the pixels that can change one central output of a layer, or of the model.

    They are those where its gradient is not zero, in a copy in float64 with random positive weights. A maximum's reaches
    one pixel only: so the images brighten towards one corner, then towards the opposite one. Of a layer that is called
    several times, the last call. Clipped to the image: take a large one.
    Raises ValueError where the layer is never called, or no gradient gets to the image.
    """
    outputs, name, random = [], f"layer {layer!r}" if layer else "the model", torch.Generator().manual_seed(0)
    model = _with_positive_weights(model, random)
    model.get_submodule(layer or "").register_forward_hook(lambda *call: outputs.append(call[-1].clone()))
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
    return tuple(int(pixels.max() - pixels.min()) + 1 for pixels in seen.nonzero(as_tuple=True))


def count_multiplications(model: nn.Module, input_size=(1, 28, 28)) -> int:
    """Multiplications for one image in convolutions and linear layers: PyTorch's count of operations, halved.

    Attention and recurrent layers aren't promised: PyTorch fuses them, and then counts less or nothing.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy_of(model).cpu().float()(torch.zeros(1, *input_size))
    return counter.get_total_flops() // 2

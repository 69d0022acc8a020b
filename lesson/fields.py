"""What the layers of a network see of the image: one forward pass is followed, and the numbers travel with it.

Fields are in pixels of the image; pairs are (rows, columns).
"""

import copy
import math
import re
from dataclasses import dataclass, replace

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
    if kind in POOLS:  # a pool steps by its kernel where nothing else is said
        return given["kernel_size"], given["stride"] or given["kernel_size"], given["padding"], given.get("dilation", 1)
    if kind == "constant_pad_nd":
        left, _, top, *_ = [*given["pad"], 0, 0]
        return 1, 1, (top, left), 1
    if kind in VIEWS and len(after) in (2, 4) and after[1] == math.prod(after):
        return _size(before), 1, 0, 1  # all of the map
    dims = [dim for name in ("dim", "dim0", "dim1", "dims") for dim in tree_leaves(given.get(name)) if dim is not None]
    axes = (len(before) - 2, len(before) - 1)  # rows, columns; an operation without dims takes all of them together
    together = [not dims or axis in dims or axis - len(before) in dims for axis in axes]
    if kind in REDUCTIONS and (len(after) == len(before) or all(together)):
        return [length if taken else 1 for length, taken in zip(_size(before), together)], 1, 0, 1
    takes_all = kind == "slice" and after == before  # x[:, :2] slices the images too
    keeps = kind in VIEWS or (kind in OVER_CHANNELS and (takes_all or not any(together)))
    return UNMOVED if keeps and _size(after) == _size(before) else None


def _along(axis: int, window: tuple, sizes: list[tuple], sources: list[Operation], is_map: bool):
    """start, jump, field along rows (axis 0) or columns (1); None for a map of sources with different jumps."""
    kernel, stride, padding, dilation = (pair[axis] for pair in window)
    inputs = [(size[axis], each.start[axis], each.jump[axis], each.field[axis]) for size, each in zip(sizes, sources)]
    sizes, starts, jumps, _ = zip(*inputs)
    if is_map and (1 in sizes or 0 in jumps):  # one number, spread over a map: each place is said to see what all see
        first, step, end = min(starts), 0, max(start + (size - 1) * jump + field for size, start, jump, field in inputs)
    elif is_map and len(set(jumps)) > 1:
        return None
    else:
        first, step, end = min(starts), max(jumps), max(start + field for _, start, _, field in inputs)
    return first - padding * step, stride * step, end - first + (kernel - 1) * dilation * step


def _geometry(func, kind: str, given: dict, sources: list[Operation], before: list[tuple], after: tuple):
    """window, start, jump, field of an operation, from the shapes that it reads and makes; None if no formula holds."""
    window, sizes = _window(func, kind, given, before[0], after), [_size(shape) for shape in before]
    jumps = [jump for each in sources for jump in each.jump]
    if window is None and all(size == 1 or jump == 0 for size, jump in zip(sum(sizes, ()), jumps)):
        window = UNMOVED  # whatever it does: all that it reads sees the same
    if window is None or after[:1] not in ((1,), ()):
        return None
    window = tuple(tuple(np.broadcast_to(value, 2).tolist()) for value in window)
    maps = [_size(after)] if window == UNMOVED else sizes
    axes = [_along(axis, window, sizes, sources, max(size[axis] for size in maps) > 1) for axis in (0, 1)]
    return None if None in axes else (window, *zip(*axes))


class _Follow(TorchDispatchMode):
    """Notes the operations of a forward pass that read the image, or what is made of it."""

    def __init__(self, model: nn.Module, image: torch.Tensor):
        super().__init__()
        self.operations = [Operation("image", "image", [], {}, tuple(image.shape))]
        self.maker = {id(image): 0}  # of a tensor that is made of the image: its operation's number
        self.tensors = [image, *model.buffers()]  # and all that are made: held, so that each keeps its id
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
        result = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.tensors += made
        given = {each.name: each.default_value for each in func._schema.arguments}
        given.update(zip(list(given), args), **(kwargs or {}))
        kind, read = func._schema.name.removeprefix("aten::"), [x for x in tree_leaves(given) if id(x) in self.maker]
        if read and not kind.startswith("new_") and not kind.endswith("_like"):
            first, number = func._schema.arguments[0].alias_info, len(self.operations)
            written = args[0] if first and first.is_write else None
            self._note(func, kind.rstrip("_"), given, read, tuple(made[0].shape) if made else (0,), written)
            self.maker.update((id(x), number) for x in made)
            if written is not None:
                self._overwrite(written, number)
            if isinstance(result, float):  # Python may go on with it; a bool or an int only chooses
                self.needed.add(number)
        return result

    def _note(self, func, kind: str, given: dict, read: list, after: tuple, written: torch.Tensor | None):
        """Add an operation that reads these tensors, makes one of the shape after, and may have written to another."""
        (module, is_leaf), own = self.inside[-1], kind.strip("_").removesuffix("_with_indices")
        name = module if is_leaf and module else f"{module}.{own}".lstrip(".")
        inputs, before = [self.maker[id(x)] for x in read], [tuple(x.shape) for x in read]
        sources, seen = [self.operations[number] for number in inputs], None
        given = tree_map(lambda x: None if id(x) in self.maker else x, given)
        is_cut = kind in VIEWS and len(after) == 2 and after[0] > 1
        if is_cut or (self.unlisted.intersection(inputs) and after == before[0]):
            self.unlisted.add(len(self.operations))
        elif all(each.window for each in sources) and (written is None or id(written) in self.maker):
            seen = _geometry(func, kind, given, sources, before, after)
        self.operations.append(Operation(name, kind, inputs, given, after, *(seen or [None])))

    def _overwrite(self, written: torch.Tensor, number: int):
        """What lies in the same memory is made by this operation, too; of maps of other sizes, no formula holds."""
        memory, size = written.untyped_storage().data_ptr(), _size(written.shape)
        self.operations.append(replace(self.operations[number], inputs=[number], window=None))
        for x in self.tensors:
            if x.untyped_storage().data_ptr() == memory:
                self.maker[id(x)] = number if _size(x.shape) == size else number + 1

    def leading_to(self, answer) -> list[Operation]:
        """The operations that lead to the tensors of an answer, in the order of the calls."""
        answers = {self.maker[id(x)] for x in tree_leaves(answer) if id(x) in self.maker}
        if not answers:
            raise ValueError("the network returns no tensor that is made of the image")
        leading = answers | self.needed
        for number in reversed(range(len(self.operations))):
            if number in leading:
                leading.update(self.operations[number].inputs)
        listed = sorted(leading - self.unlisted)
        for each in (self.operations[number] for number in listed):
            if each.window is None:
                raise ValueError(f"layer {each.name!r} ({each.kind}) is no window that slides over maps of the same "
                                 "jump; measured_receptive_field measures what any network sees")  # fmt: skip
            each.inputs = [listed.index(number) for number in each.inputs]
        return [self.operations[number] for number in listed]


def copy_of(model: nn.Module) -> nn.Module:
    """A copy in eval mode, also of what PyTorch doesn't copy: weights that are computed, such as a pruned layer's."""
    held = tree_leaves([vars(module) for module in model.modules()])
    computed = [x for x in held if isinstance(x, torch.Tensor) and not x.is_leaf]
    return copy.deepcopy(model, {id(x): x.detach().clone() for x in computed}).eval()


def trace(model: nn.Module, input_size=(1, 28, 28)) -> list[Operation]:
    """List the operations of a forward pass in eval mode that lead to what the model returns; the last one makes it.

    The first is the image itself, here a black one; where maps are cut into an answer for each place, the list ends.
    For kernel k, dilation d, stride s, padding p: field += (k - 1) * d * jump, start -= p * jump, then jump *= s
    (Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019).
    Padding counts as seen, and so does what a pool with ceil_mode reads past the last pixel.
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

    They are the pixels where that output's gradient is not zero, in a copy with random positive weights. A maximum's
    gradient reaches one pixel only: so the images brighten towards one corner, then towards the opposite one. Of a
    layer that is called several times, the last call. Clipped to the image: take a large one.
    Raises ValueError where the layer is never called, or no gradient gets to the image.
    """
    outputs, name, random = [], f"layer {layer!r}" if layer else "the model", torch.Generator().manual_seed(0)
    model = _with_positive_weights(model, random)
    target = model.get_submodule(layer or "")
    target.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    ramp = torch.outer(*(torch.linspace(0.5, 1, length).double() for length in input_size[1:]))
    images = torch.stack([ramp, ramp.flip(0, 1), ramp**100, ramp.flip(0, 1) ** 100])  # the last two: past padding
    images = torch.cat([images, 100 * images, -100 * images]).unsqueeze(1)  # past x - 1 or -x before a ReLU
    probe = torch.zeros(len(images), *input_size, dtype=torch.float64, requires_grad=True)
    try:
        model(images + probe)
    except RuntimeError:  # of a network that takes float32 only, as where it says x.float()
        model.float()((images + probe).float())
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
    """Multiplications for one image in convolutions, linear layers, attention: PyTorch's count of operations, halved.

    Those that compute a weight count, too. Raises ValueError for what PyTorch doesn't count, such as nn.LSTM.
    """

    def refuse(*_, **__):
        raise ValueError("the multiplications of nn.LSTM and nn.Bilinear can't be counted; nn.GRU's can")

    aten, model, is_fast = torch.ops.aten, copy_of(model).cpu().float(), torch.backends.mha.get_fastpath_enabled()
    formulas = {aten.mkldnn_rnn_layer: refuse, aten._trilinear: refuse}
    formulas |= dict.fromkeys([aten.mv, aten.dot], lambda shape, *_, **__: 2 * math.prod(shape))
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    torch.backends.mha.set_fastpath_enabled(False)  # what is fused is not counted
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(torch.zeros(1, *input_size))
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
    return counter.get_total_flops() // 2

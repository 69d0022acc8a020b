"""The path of a GPU on a machine without one: every tensor's device, and every wait of the program for the GPU.

PyTorch's fake tensors have shape, type and device, but no values, so results and times can't be seen here. On
"cuda" the backward pass can't either, since autograd asks the driver: it runs on PyTorch's "meta" device. On
"mps", a PyTorch built for another system can't so much as index.
"""

import contextlib

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset

import recipes
from recipes import FINAL, RECIPES, MovingAverage, RandomAffine, run_recipe

import helpers

without_driver = pytest.mark.skipif(torch.__version__ < "2.9", reason="before, fake tensors on cuda ask the driver")


def devices_in(nested) -> set[str]:
    return {each.device.type for each in tree_leaves(nested) if isinstance(each, torch.Tensor)}


def has_value(tensor) -> bool:
    return not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"


class Watch(TorchDispatchMode):
    """Notes every wait for a device: a number asked of it, or a copy between it and the CPU.

    There are no values, so it answers "yes" to every condition, but "no" to "greater": check_batch asks so
    whether sums are off.
    """

    def __init__(self, device):
        super().__init__()
        self.device, self.waits, self.greater = device, [], None

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        read = devices_in((arguments, named))
        if function is torch.ops.aten._local_scalar_dense.default and not has_value(arguments[0]):
            self.waits += [function.name()] * (self.device in read)
            return arguments[0] is not self.greater if arguments[0].dtype == torch.bool else 1
        result = function(*arguments, **(named or {}))
        if function is torch.ops.aten._to_copy.default and read != devices_in(result):
            self.waits.append(function.name())
        if function.overloadpacket is torch.ops.aten.gt:
            self.greater = result
        return result


@pytest.fixture(params=[pytest.param("cuda", marks=without_driver), "meta"])
def watch(request, monkeypatch):
    """Within it, tensors on the device are fake."""
    made = []

    def build_there(recipe, device):  # a fake network can't be moved, so it is made where it belongs
        with torch.device(device):
            made.append(recipe.network())
        return made[-1]

    def copied(model):  # nor copied: its storage is none
        with torch.device(request.param):
            return type(model)()

    def backward(loss):
        for weights in made[-1].parameters():
            weights.grad = torch.empty_like(weights)

    if request.param == "cuda":
        monkeypatch.setattr(torch.Tensor, "backward", backward)
        monkeypatch.setattr(recipes, "build", build_there)
        monkeypatch.setattr(torch.optim.swa_utils, "deepcopy", copied)
    with contextlib.nullcontext() if request.param == "meta" else FakeTensorMode(), Watch(request.param) as watch:
        yield watch


def fake_data(device, n=200):
    return TensorDataset(torch.zeros(n, 1, 28, 28, device=device), torch.zeros(n, dtype=torch.int64, device=device))


@pytest.fixture
def marks(watch, monkeypatch):
    """How many waits there were when a loader gave each of its batches, and when it had no more; by loader."""
    marks = {}

    class Marked(helpers.TensorLoader):
        def __iter__(self):
            mine = marks.setdefault(self, [])
            mine.append([])
            for batch in super().__iter__():
                mine[-1].append(len(watch.waits))
                assert devices_in(batch) == {watch.device}
                yield batch
            mine[-1].append(len(watch.waits))

    monkeypatch.setattr(recipes, "TensorLoader", Marked)
    return marks


@pytest.mark.parametrize("name", ["as submitted", "final", "small"])
def test_a_run_stays_on_its_device_and_waits_for_it_once_an_epoch(name, watch, marks):
    data = fake_data(watch.device, 3 * RECIPES[name].batch_size + 8)
    test_data = fake_data(watch.device, 3000)
    model, history = run_recipe(RECIPES[name], data, test_data, watch.device, epochs=2)
    assert devices_in(list(model.state_dict().values())) <= {watch.device, "cpu"} and len(history) == 2
    assert devices_in(list(model.parameters())) == {watch.device}
    for loader, batches in zip(marks, (4, 3)):
        for epoch in marks[loader]:
            assert len(epoch) == batches + 1
            assert epoch[1] > epoch[0]  # the first batch is checked, which waits
            assert set(epoch[1:]) == {epoch[1]}  # and no other


def test_images_on_the_cpu_are_moved_there(watch):
    model, history = run_recipe(FINAL, fake_data("cpu"), fake_data("cpu"), watch.device, epochs=1)
    assert devices_in(list(model.parameters())) == {watch.device} and len(history) == 1


def test_mnist_is_loaded_there(watch, monkeypatch):
    pixels, labels = torch.zeros(9, 28, 28, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64)
    monkeypatch.setattr(helpers, "read_mnist", lambda root: [pixels, labels, pixels, labels])
    for dataset in helpers.load_mnist(device=watch.device):
        assert devices_in(dataset.tensors) == {watch.device}


@without_driver
def test_the_watch_sees_waits_and_fake_tensors_see_strangers():
    with FakeTensorMode(), Watch("cuda") as watch:
        model, images = nn.Linear(2, 2, device="cuda"), torch.zeros(2, device="cpu")
        with pytest.raises(RuntimeError, match="device"):
            model(images)
        average = MovingAverage(nn.Identity())
        average.module = nn.Linear(2, 2, device="cuda")
        average.update_parameters(model)
        assert watch.waits == []
        average.n_averaged = average.n_averaged.to("cuda")
        average.update_parameters(model)
        assert watch.waits == ["aten::_to_copy", "aten::_local_scalar_dense"]
        RandomAffine()(torch.zeros(2, 1, 28, 28, device="cuda"))
        assert len(watch.waits) == 2
        images.cuda()
        assert len(watch.waits) == 3

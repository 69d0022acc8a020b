"""The lesson's networks: images (N, 1, 28, 28) to log-probabilities (N, 10)."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """The brief's network; 19,930 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)  # 28 -> 28
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 16, 3, stride=2)  # 28 -> 13
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)  # 13 -> 13
        self.bn3 = nn.BatchNorm2d(16)
        self.pool2 = nn.MaxPool2d(2, 2)  # 13 -> 6
        self.conv5 = nn.Conv2d(16, 32, 3, padding=1)  # 6 -> 6
        self.bn5 = nn.BatchNorm2d(32)
        self.conv6 = nn.Conv2d(32, 32, 3, stride=2, padding=1)  # 6 -> 3
        self.bn6 = nn.BatchNorm2d(32)  # declared, never used
        self.conv7 = nn.Conv2d(32, 10, 3)  # 3 -> 1
        self.d_out = nn.Dropout2d(0.25)

    def forward(self, x):
        x = self.d_out(self.bn1(F.relu(self.conv1(x))))
        x = self.d_out(self.bn2(F.relu(self.conv2(x))))
        x = self.d_out(self.pool2(self.bn3(F.relu(self.conv3(x)))))
        x = self.bn5(F.relu(self.conv5(x)))
        x = F.relu(self.conv6(x))
        x = F.relu(self.conv7(x))  # a ReLU on the logits: see section 6
        return F.log_softmax(x.view(-1, 10), dim=1)


class RepairedNet(Net):
    """The brief's layers with its oddities repaired: BatchNorm before ReLU, bn6 in use, free logits, no dropout."""

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.pool2(F.relu(self.bn3(self.conv3(x))))
        x = F.relu(self.bn5(self.conv5(x)))
        x = F.relu(self.bn6(self.conv6(x)))
        return F.log_softmax(self.conv7(x).view(-1, 10), dim=1)


def conv_block(inputs: int, outputs: int, **options) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU. No bias: the BatchNorm after it has one. options go to the convolution."""
    convolution = nn.Conv2d(inputs, outputs, 3, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Sequential):
    """Layers whose output is added to their input."""

    def forward(self, x):
        return x + super().forward(x)


def final_network() -> nn.Sequential:
    """The brief's outline with its parameters spent elsewhere; 18,226 parameters."""
    layers = OrderedDict(
        stem=conv_block(1, 8, padding=1),  # 28 -> 28
        down1=conv_block(8, 16, stride=2),  # 28 -> 13
        residual1=Residual(*conv_block(16, 16, padding=1)),
        residual2=Residual(*conv_block(16, 16, padding=1)),
        pool=nn.MaxPool2d(2),  # 13 -> 6
        widen=conv_block(16, 26, padding=1),
        down2=conv_block(26, 26, stride=2, padding=1),  # 6 -> 3
        head=nn.Conv2d(26, 10, 3),  # 3 -> 1
        flat=nn.Flatten(),
        answer=nn.LogSoftmax(dim=1),
    )
    return nn.Sequential(layers)


class SharedBlock(nn.Module):
    """One 3x3 convolution used several times over, each time with its own BatchNorm, and added to its input."""

    def __init__(self, channels, times):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(times))

    def forward(self, x):
        for norm in self.norms:
            x = x + F.relu(norm(self.conv(x)))
        return x


def small_network(width: int = 16) -> nn.Sequential:
    """A family that uses its kernels several times over; 9,890 parameters at a width of 16 channels, 2,020 at 6."""
    stem = min(8, width)
    layers = OrderedDict(
        stem=conv_block(1, stem, padding=1),  # 28 -> 28
        down=conv_block(stem, width, stride=2),  # 28 -> 13
        shared1=SharedBlock(width, times=4),
        pool1=nn.MaxPool2d(2),  # 13 -> 6
        mix=conv_block(width, width, padding=1),
        shared2=SharedBlock(width, times=3),
        pool2=nn.MaxPool2d(2),  # 6 -> 3
        head=nn.Conv2d(width, 10, 3),  # 3 -> 1
        flat=nn.Flatten(),
        answer=nn.LogSoftmax(dim=1),
    )
    return nn.Sequential(layers)


def pooled_block(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, max pool, BatchNorm, ReLU: pooled first, the last two have a quarter of the work."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU())


def fast_network() -> nn.Sequential:
    """No map is larger than 12x12; 18,834 parameters."""
    stem = nn.Conv2d(1, 16, 5, stride=2, bias=False)
    layers = OrderedDict(
        stem=nn.Sequential(stem, nn.BatchNorm2d(16), nn.ReLU()),  # 28 -> 12
        down1=pooled_block(16, 16),  # 12 -> 6
        residual1=Residual(*conv_block(16, 16, padding=1)),
        down2=pooled_block(16, 28),  # 6 -> 3
        residual2=Residual(*conv_block(28, 28, padding=1)),
        head=nn.Conv2d(28, 10, 3),  # 3 -> 1
        flat=nn.Flatten(),
        answer=nn.LogSoftmax(dim=1),
    )
    return nn.Sequential(layers)

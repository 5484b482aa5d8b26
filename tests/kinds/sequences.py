"""Sequences, sound and video: recurrent layers, convolutions over time, and three dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.kind import Block, Head, Kind, conv, sequence, weight

TIME = (4, 12)
"""Channels and time steps."""
VIDEO = (3, 4, 8, 8)


class Recurrent(nn.Module):
    """A recurrent layer between linear layers; the last state or the mean goes on."""

    def __init__(self, layer: nn.Module, out: int, last: bool = True) -> None:
        super().__init__()
        self.embed, self.layer, self.head, self.last = nn.Linear(4, 10), layer, nn.Linear(out, 5), last

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(torch.relu(self.embed(x.transpose(1, 2))))
        return self.head(y[:, -1, :] if self.last else y.mean(1))


class Cell(nn.Module):
    """A long short-term memory written by hand."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.x2h, self.h2h = nn.Linear(inputs, 4 * hidden), nn.Linear(hidden, 4 * hidden)
        self.out = nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.size(0), self.hidden)
        for t in range(3):
            i, f, g, o = (self.x2h(x[:, :, t]) + self.h2h(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


class CellLoop(nn.Module):
    def __init__(self, cell: nn.Module, hidden: int) -> None:
        super().__init__()
        self.embed, self.cell, self.out, self.hidden = nn.Linear(4, 6), cell, nn.Linear(hidden, 5), hidden

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(3):
            state = self.cell(self.embed(x[:, :, t]), state)
        return self.out(state[0] if isinstance(state, tuple) else state)


class ConvLSTM(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates, self.head = nn.Conv2d(3 + hidden, 4 * hidden, 3, padding=1), nn.Conv2d(hidden, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, time, h, w = x.shape
        state = memory = torch.zeros(b, self.hidden, h, w)
        for t in range(time):
            i, f, o, g = torch.split(self.gates(torch.cat([x[:, :, t], state], 1)), self.hidden, dim=1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            state = o.sigmoid() * memory.tanh()
        return self.head(state)


class Causal(nn.Module):
    """A dilated convolution that sees the past only, with the overhang cut off."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.conv = nn.Conv1d(inputs, outputs, 3, padding=self.cut, dilation=dilation)
        self.match = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x)[:, :, : -self.cut].contiguous())
        return F.relu(y + (x if self.match is None else self.match(x)))


class WaveNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.filters = nn.ModuleList(nn.Conv1d(width, width, 2, dilation=2**i) for i in range(2))
        self.gates = nn.ModuleList(nn.Conv1d(width, width, 2, dilation=2**i) for i in range(2))
        self.residuals = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(2))
        self.skips = nn.ModuleList(nn.Conv1d(width, 8, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        skip: Tensor | float = 0.0
        for i, (f, g, r, s) in enumerate(
            zip(self.filters, self.gates, self.residuals, self.skips, strict=True)
        ):
            padded = F.pad(x, (2**i, 0))
            y = torch.tanh(f(padded)) * torch.sigmoid(g(padded))
            skip = skip + s(y)
            x = x + r(y)
        return F.relu(skip)


class CRNN(nn.Module):
    """Convolutions, then a recurrent layer over columns."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv(3, 8), nn.MaxPool2d((4, 1)), conv(8, 12), nn.AdaptiveAvgPool2d((1, None))
        )
        self.rnn, self.head = nn.LSTM(12, 8, bidirectional=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x).squeeze(2).permute(2, 0, 1)
        return self.head(self.rnn(y)[0])


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.align, self.to_matrix = nn.Sequential(nn.Conv1d(4, 8, 1), nn.ReLU()), nn.Linear(8, 16)
        self.mlp = nn.Sequential(nn.Conv1d(4, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 16, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.to_matrix(torch.max(self.align(x), 2)[0]).view(-1, 4, 4) + torch.eye(4)
        x = torch.bmm(x.transpose(2, 1), matrix).transpose(2, 1)
        x = torch.max(self.mlp(x), 2, keepdim=True)[0]
        return self.head(x.view(-1, 16))


class StateSpace(nn.Module):
    """A diagonal state-space layer, unrolled."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.a, self.b, self.c = weight(width, state), nn.Linear(width, state), nn.Linear(width, state)
        self.d = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        b, c, decay = self.b(x), self.c(x), torch.exp(-torch.exp(self.a))
        h = x.new_zeros(x.size(0), *self.a.shape)
        ys = []
        for t in range(4):
            h = h * decay + x[:, t, :, None] * b[:, t, None, :]
            ys.append((h * c[:, t, None, :]).sum(-1) + self.d * x[:, t])
        return torch.stack(ys, 1).transpose(1, 2)


class TemporalShift(nn.Module):
    """A part of the channels from the frame before, another from the one after, by assignment to slices."""

    def __init__(self, fold: int) -> None:
        super().__init__()
        self.fold = fold

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[:, : self.fold, :-1] = x[:, : self.fold, 1:]
        out[:, self.fold : 2 * self.fold, 1:] = x[:, self.fold : 2 * self.fold, :-1]
        out[:, 2 * self.fold :] = x[:, 2 * self.fold :]
        return out


class SlowFast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(3, 4, 3, padding=1)
        self.lateral = nn.Conv3d(4, 8, (2, 1, 1), (2, 1, 1))
        self.deep, self.head = nn.Conv3d(16, 12, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        slow, fast = F.relu(self.slow(x[:, :, ::2])), F.relu(self.fast(x))
        slow = F.relu(self.deep(torch.cat([slow, self.lateral(fast)], 1)))
        return self.head(torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1))


class Spectrogram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), Head(8)
        )
        self.register_buffer("window", torch.hann_window(8))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.stft(x.flatten(0, 1), 8, 4, window=self.window, return_complex=True).abs()
        return self.net(torch.log1p(spectrum).unflatten(0, (-1, 4)))


class TimeDistributed(nn.Module):
    """The same network on every frame, then attention over frames."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(conv(3, 8), conv(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.score, self.head = nn.Linear(12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, _, _ = x.shape
        y = self.frame(x.transpose(1, 2).flatten(0, 1)).view(b, t, -1)
        return self.head((y * self.score(y).softmax(1)).sum(1))


class Conformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.a, self.b = (
            nn.LayerNorm(width),
            nn.Conv1d(width, 2 * width, 1),
            nn.Conv1d(width, width, 1),
        )
        self.depthwise, self.bn = nn.Conv1d(width, width, 3, padding=1, groups=width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.a(self.norm(x.transpose(1, 2)).transpose(1, 2)), dim=1)
        return x + self.b(F.silu(self.bn(self.depthwise(y))))


def _separable(inputs: int, outputs: int) -> nn.Module:
    """(2+1)-dimensional: space, then time."""
    return nn.Sequential(
        nn.Conv3d(inputs, 10, (1, 3, 3), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(10),
        nn.ReLU(),
        nn.Conv3d(10, outputs, (3, 1, 1), padding=(1, 0, 0), bias=False),
    )


NETWORKS = {
    "LSTM": Kind(lambda: Recurrent(nn.LSTM(10, 8, batch_first=True), 8), TIME),
    "LSTM, two directions and layers": Kind(lambda: Recurrent(nn.LSTM(10, 8, 2, batch_first=True, bidirectional=True), 16, last=False), TIME),
    "GRU": Kind(lambda: Recurrent(nn.GRU(10, 8, batch_first=True), 8), TIME),
    "RNN": Kind(lambda: Recurrent(nn.RNN(10, 8, batch_first=True), 8), TIME),
    "LSTM with a projection": Kind(lambda: Recurrent(nn.LSTM(10, 8, batch_first=True, proj_size=6), 6), TIME),
    "LSTM by hand": Kind(lambda: Cell(4, 8), TIME),
    "LSTM cell": Kind(lambda: CellLoop(nn.LSTMCell(6, 8), 8), TIME),
    "GRU cell": Kind(lambda: CellLoop(nn.GRUCell(6, 8), 8), TIME),
    "convolutional LSTM": Kind(lambda: ConvLSTM(8), VIDEO),
    "temporal convolutions": Kind(lambda: nn.Sequential(Causal(4, 8, 1), Causal(8, 8, 2), Causal(8, 12, 4), Head(12, (2,))), TIME),
    "WaveNet": Kind(lambda: sequence(WaveNet(8)), TIME),
    "convolutions and LSTM": Kind(CRNN),
    "one-dimensional residual": Kind(lambda: sequence(Block(lambda n, x: F.relu(x + n.b(n.a(x))), a=nn.Conv1d(8, 12, 3, padding="same"), b=nn.Conv1d(12, 8, 3, padding="same"))), TIME),
    "point cloud": Kind(PointNet, TIME),
    "state space": Kind(lambda: sequence(StateSpace(8, 3)), TIME),
    "conformer convolution": Kind(lambda: sequence(Conformer(8)), TIME),
    "spectrogram": Kind(Spectrogram, (4, 32)),
    "pooling over time": Kind(lambda: nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(16, 5)), TIME),
    "text convolutions": Kind(lambda: Block(lambda n, x: n.fc(torch.cat([F.relu(layer(x)).max(2).values for layer in n.convs], 1)), convs=nn.ModuleList(nn.Conv1d(4, 6, k) for k in (2, 3, 4)), fc=nn.Linear(18, 5)), TIME),
    "three dimensions": Kind(lambda: nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 12, 3, padding=1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(12, 5)), VIDEO),
    "space, then time": Kind(lambda: nn.Sequential(_separable(3, 8), nn.ReLU(), _separable(8, 8), Head(8, (2, 3, 4))), VIDEO),
    "three-dimensional U-Net": Kind(lambda: nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.InstanceNorm3d(8), nn.LeakyReLU(), Block(lambda n, x: torch.cat((x, n.up(n.down(x))), 1), down=nn.Conv3d(8, 12, 2, 2), up=nn.ConvTranspose3d(12, 8, 2, 2)), nn.Conv3d(16, 2, 1)), VIDEO),
    "temporal shift": Kind(lambda: nn.Sequential(nn.Conv3d(3, 8, 1), TemporalShift(2), nn.Conv3d(8, 8, 3, padding=1), Head(8, (2, 3, 4))), VIDEO, frozen=0.5),
    "slow and fast": Kind(SlowFast, VIDEO),
    "frames one by one": Kind(TimeDistributed, VIDEO),
}  # fmt: skip

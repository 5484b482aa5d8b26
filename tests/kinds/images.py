"""Networks that give images or latent vectors: segmentation, autoencoders, generators, flows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.kind import Block, Kind, Residual, conv, image, weight


class UNet(nn.Module):
    def __init__(self, upsample: bool) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 8), conv(8, 12), conv(12, 16)
        self.up2 = (
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(16, 12, 1)
            )
            if upsample
            else nn.ConvTranspose2d(16, 12, 2, 2)
        )
        self.up1 = nn.ConvTranspose2d(12, 8, 2, 2)
        self.merge2, self.merge1, self.out = conv(24, 12), conv(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        deep = self.middle(F.max_pool2d(two, 2))
        up = self.up2(deep)
        rows, columns = two.size(2) - up.size(2), two.size(3) - up.size(3)
        up = F.pad(up, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        up = self.merge2(torch.cat([two, up], dim=1))
        return self.out(self.merge1(torch.cat([one, self.up1(up)], dim=1)))


class AttentionGate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.g, self.x, self.psi = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.psi(F.relu(self.g(g) + self.x(x))))


class AttentionUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up = conv(3, 8), conv(8, 12), nn.ConvTranspose2d(12, 8, 2, 2)
        self.gate, self.merge, self.out = AttentionGate(8), conv(16, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        up = self.up(self.deep(F.max_pool2d(skip, 2)))
        return self.out(self.merge(torch.cat((self.gate(up, skip), up), 1)))


class NestedUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x00, self.x10, self.x20 = conv(3, 6), conv(6, 8), conv(8, 10)
        self.x01, self.x11, self.x02 = conv(14, 6), conv(18, 8), conv(20, 6)
        self.out = nn.ModuleList([nn.Conv2d(6, 1, 1), nn.Conv2d(6, 1, 1)])

    def forward(self, x: Tensor) -> list[Tensor]:
        def up(t: Tensor) -> Tensor:
            return F.interpolate(t, scale_factor=2, mode="nearest")

        x00 = self.x00(x)
        x10 = self.x10(F.max_pool2d(x00, 2))
        x20 = self.x20(F.max_pool2d(x10, 2))
        x01 = self.x01(torch.cat([x00, up(x10)], 1))
        x11 = self.x11(torch.cat([x10, up(x20)], 1))
        x02 = self.x02(torch.cat([x00, x01, up(x11)], 1))
        return [self.out[0](x01), self.out[1](x02)]


class SegNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = conv(3, 8), conv(8, 8), conv(8, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, where = F.max_pool2d(self.a(x), 2, return_indices=True)
        x = F.max_unpool2d(self.b(x), where, 2)
        return self.out(self.c(x))


class FeaturePyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c2, self.c3, self.c4 = conv(3, 8, 3, 2), conv(8, 12, 3, 2), conv(12, 16, 3, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(width, 8, 1) for width in (8, 12, 16))
        self.smooth = nn.ModuleDict({level: nn.Conv2d(8, 8, 3, padding=1) for level in ("p2", "p3", "p4")})
        self.classify = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c2 = self.c2(x)
        c3 = self.c3(c2)
        p4 = self.laterals[2](self.c4(c3))
        p3 = self.laterals[1](c3) + p4
        p2 = self.laterals[0](c2) + F.interpolate(p3, size=c2.shape[-2:], mode="nearest")
        levels = {"p2": p2, "p3": p3, "p4": p4}
        return {name: self.classify(self.smooth[name](level)) for name, level in levels.items()}


class ASPP(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Conv2d(width, out, 1), *(nn.Conv2d(width, out, 3, padding=d, dilation=d) for d in (2, 4))]
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, out, 1))
        self.project = nn.Conv2d(4 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        parts.append(F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False))
        return self.project(torch.cat(parts, 1))


class HighResolution(nn.Module):
    """Two resolutions that exchange features (HRNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.high, self.low = conv(3, 8), conv(8, 12, 3, 2)
        self.fuse = nn.ModuleList(
            [
                nn.ModuleList(
                    [nn.Identity(), nn.Sequential(nn.Conv2d(12, 8, 1), nn.Upsample(scale_factor=2))]
                ),
                nn.ModuleList([nn.Conv2d(8, 12, 3, 2, 1), nn.Identity()]),
            ]
        )
        self.out = nn.Conv2d(20, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        xs = [self.high(x)]
        xs.append(self.low(xs[0]))
        ys = [F.relu(sum(layer(x) for layer, x in zip(row, xs, strict=True))) for row in self.fuse]
        return self.out(torch.cat([ys[0], F.interpolate(ys[1], scale_factor=2, mode="bilinear")], 1))


class Hourglass(nn.Module):
    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.skip, self.down, self.up = conv(width, width), conv(width, width), conv(width, width)
        self.inner = Hourglass(depth - 1, width) if depth > 1 else conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + F.interpolate(
            self.up(self.inner(self.down(F.max_pool2d(x, 2)))), scale_factor=2
        )


class VAE(nn.Module):
    """Draws its latent vector at random in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 24), nn.ReLU())
        self.mu, self.logvar = nn.Linear(24, 6), nn.Linear(24, 6)
        self.decoder = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 48), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decoder(z).view(-1, 3, 4, 4), mu, logvar


class VectorQuantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = conv(3, 8, 3, 2), nn.ConvTranspose2d(8, 3, 2, 2)
        self.codes = weight(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x).permute(0, 2, 3, 1)
        flat = z.reshape(-1, 8)
        distances = (flat**2).sum(1, keepdim=True) + (self.codes**2).sum(1) - 2 * flat @ self.codes.t()
        q = self.codes[distances.argmin(1)].view(z.shape)
        return self.decoder((z + (q - z).detach()).permute(0, 3, 1, 2))


class StyleConv(nn.Module):
    """A kernel modulated and demodulated by a style (StyleGAN 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = weight(1, width, width, 3, 3)
        self.style = nn.Linear(4, width)
        self.noise = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        b, c, h, width = x.shape
        kernel = self.weight * self.style(w).view(b, 1, c, 1, 1)
        kernel = kernel * torch.rsqrt(kernel.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        out = F.conv2d(x.reshape(1, -1, h, width), kernel.view(b * c, c, 3, 3), padding=1, groups=b)
        return out.view(b, c, h, width) + self.noise


class StyleGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 4))
        self.const, self.conv, self.rgb = weight(1, 8, 4, 4), StyleConv(8), nn.Conv2d(8, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z)
        return self.rgb(F.leaky_relu(self.conv(self.const.expand(z.size(0), -1, -1, -1), w), 0.2))


class AdaIN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.fc, self.conv = (
            nn.InstanceNorm2d(width),
            nn.Linear(6, 2 * width),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        gamma, beta = torch.chunk(self.fc(s).view(s.size(0), -1, 1, 1), chunks=2, dim=1)
        return self.conv((1 + gamma) * self.norm(x) + beta)


class StyleTransfer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.style, self.adain, self.out = (
            conv(3, 8),
            nn.Linear(3, 6),
            AdaIN(8),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.out(self.adain(self.stem(x), self.style(x.mean((2, 3))))))


class Coupling(nn.Module):
    """Half of the input changes the other half (RealNVP)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width // 2, 16), nn.ReLU(), nn.Linear(16, width))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        s, t = self.net(a).chunk(2, 1)
        return torch.cat([b * torch.exp(torch.tanh(s)) + t, a], 1)


class TimeConditioned(nn.Module):
    """A denoiser with sinusoidal features of a time taken from the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.time = (
            nn.Conv2d(3, width, 3, padding=1),
            nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, width)),
        )
        self.a, self.b, self.norm, self.out = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(4, width),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        t = x.mean((1, 2, 3))
        angles = t[:, None] * torch.exp(-torch.arange(4) / 2.0)[None]
        emb = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        h = self.stem(x)
        y = self.a(F.silu(self.norm(h))) + emb[:, :, None, None]
        return self.out(h + self.b(F.silu(y)))


class MinibatchDeviation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        s = torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-8).mean().view(1, 1, 1, 1)
        return torch.cat([x, s.expand(x.size(0), 1, *x.shape[2:])], 1)


class SpatialTransformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.fc(x.mean((2, 3))).view(-1, 2, 3)
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


NETWORKS = {
    "U-Net": Kind(lambda: UNet(False)),
    "U-Net with upsampling": Kind(lambda: UNet(True)),
    "attention U-Net": Kind(AttentionUNet),
    "nested U-Net": Kind(NestedUNet),
    "SegNet with unpooling": Kind(SegNet, refusal="fvcore cannot run"),
    "feature pyramid": Kind(FeaturePyramid),
    "ASPP": Kind(lambda: nn.Sequential(conv(3, 8), ASPP(8, 6), nn.Conv2d(6, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear"))),
    "two resolutions": Kind(HighResolution),
    "hourglass": Kind(lambda: nn.Sequential(conv(3, 8), Hourglass(2, 8), nn.Conv2d(8, 2, 1))),
    "super-resolution": Kind(lambda: nn.Sequential(conv(3, 8), Residual(conv(8, 8)), nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(), nn.Conv2d(8, 3, 3, padding=1))),
    "sub-pixel output": Kind(lambda: nn.Sequential(conv(3, 8), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)), frozen=0.8),
    "autoencoder": Kind(lambda: nn.Sequential(conv(3, 8, 3, 2), conv(8, 12, 3, 2), nn.ConvTranspose2d(12, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2), nn.Sigmoid())),
    "autoencoder with a bottleneck vector": Kind(lambda: nn.Sequential(conv(3, 8, 3, 2), nn.Flatten(), nn.Linear(128, 10), nn.Linear(10, 128), nn.ReLU(), nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 3, 2, 2)), (3, 8, 8)),
    "variational autoencoder": Kind(VAE, (3, 4, 4)),
    "vector-quantised autoencoder": Kind(VectorQuantised, (3, 8, 8), refusal="argmin"),
    "generator": Kind(lambda: nn.Sequential(nn.ConvTranspose2d(6, 16, 4, 1, 0, bias=False), nn.BatchNorm2d(16), nn.ReLU(True), nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()), (6, 1, 1)),
    "generator from a vector": Kind(lambda: Block(lambda n, z: n.up(n.fc(z).view(z.shape[0], 8, 4, 4)), fc=nn.Linear(6, 128), up=nn.Sequential(nn.Upsample(scale_factor=2), conv(8, 8), nn.Conv2d(8, 3, 3, padding=1))), (6,)),
    "discriminator": Kind(lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(8, 16, 4, 2, 1), nn.InstanceNorm2d(16), nn.LeakyReLU(0.2, True), nn.Conv2d(16, 1, 4, 1, 1)), (3, 16, 16)),
    "minibatch deviation": Kind(lambda: image(MinibatchDeviation(), conv(9, 8))),
    "residual generator": Kind(lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), Residual(nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8)), nn.ReplicationPad2d(1), nn.Conv2d(8, 3, 3), nn.Tanh())),
    "style generator": Kind(StyleGenerator, (4,), frozen=1),
    "adaptive instance norm": Kind(StyleTransfer),
    "coupling flow": Kind(lambda: nn.Sequential(Coupling(8), Coupling(8)), (8,)),
    "denoiser": Kind(lambda: TimeConditioned(8)),
    "spatial transformer": Kind(lambda: image(conv(8, 8), SpatialTransformer(8), conv(8, 8))),
    "spatial dropout and noise": Kind(lambda: image(nn.Dropout2d(0.3), Block(lambda n, x: x + 0.1 * torch.randn_like(x)), conv(8, 8))),
}  # fmt: skip

"""VGG-16 with batch norm for CIFAR: Simonyan and Zisserman 2015, configuration D, with one linear classifier.

The three wide linear layers of the original are replaced by one, as in the pruning literature since Li et al.
2017 ("Pruning Filters for Efficient ConvNets"): 14.7 M parameters, nearly all in the convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn

# Channels per convolution; 0 is a 2x2 max pooling.
CONFIGURATION_D = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class CifarVgg(nn.Module):
    """VGG-16-BN for 32x32 images: (N, 3, 32, 32) -> (N, num_classes)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = 3
        for width in CONFIGURATION_D:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            width_in = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]

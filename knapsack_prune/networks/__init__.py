"""Names to networks: the project's own collection, torchvision, timm and the user's callables."""

from __future__ import annotations

from knapsack_prune.networks.example import Example as Example
from knapsack_prune.networks.example import check_example as check_example
from knapsack_prune.networks.load import DEFAULT_NETWORK as DEFAULT_NETWORK
from knapsack_prune.networks.load import Network as Network
from knapsack_prune.networks.load import load_network as load_network

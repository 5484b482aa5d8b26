"""Which network."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from knapsack_prune.settings.base import INT_LIMIT, Settings, split


def names_code(model: str) -> bool:
    """Whether a network's name is `module:callable`, which runs Python code to build it."""
    return ":" in model and not model.startswith("timm:")


Side = Annotated[int, Field(ge=1, lt=INT_LIMIT)]


class NetworkSettings(Settings):
    """The parent network and its weights."""

    model: Annotated[
        str | None,
        Field(
            description="A torchvision classification network, timm:NAME, module:callable, or one of the project's "
            "own (cifar_resnet56, …). Without it, the trained digits network that is shipped with the package."
        ),
    ] = None
    weights: Annotated[
        str | None,
        Field(
            description="Pretrained weights of torchvision (IMAGENET1K_V2) or timm (a1_in1k); DEFAULT for the best."
        ),
    ] = None
    checkpoint: Annotated[
        Path | None,
        Field(description="Your own trained weights: safetensors, or a torch file with a state_dict."),
    ] = None
    input_shape: Annotated[
        tuple[Side, ...] | None,
        BeforeValidator(split),
        Field(
            description="Shape of one input: channels, height and width, as in 3,224,224; by default the one the "
            "network is made for."
        ),
    ] = None
    example: Annotated[
        str | None,
        Field(
            description="What the network is called with, instead of one image: module:callable, which returns a "
            "tensor, a tuple of arguments or a mapping of named ones; or a .safetensors file of named inputs."
        ),
    ] = None
    submodule: Annotated[
        str | None,
        Field(
            description="The part of the network to plan, as in backbone; FLOPs are the part's, and slimming gives the "
            "whole network."
        ),
    ] = None
    num_classes: Annotated[
        int | None, Field(ge=1, lt=INT_LIMIT, description="Outputs of the classifier; by default its own.")
    ] = None


class ParentSettings(NetworkSettings):
    """The parent of a plan; what is left open is as the plan says. No file can set `trust_plan`."""

    trust_plan: Annotated[
        bool,
        Field(
            description="Run the Python code that a plan names as its network (module:callable). Without it, name the "
            "code yourself as the model."
        ),
    ] = False

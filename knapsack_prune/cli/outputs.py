"""What `--json` prints, one model per command; `docs/schemas` is written from them (`docs/make_schemas.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from knapsack_prune.planning.group_rows import Stop, group_rows
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import (
    BudgetPart,
    DataPart,
    FrozenPart,
    ImportancePart,
    LayerPart,
    ModelPart,
    NextWidthPart,
    SolverPart,
)
from solvers.arena.records import Record

if TYPE_CHECKING:
    from knapsack_prune.planning.front import Front


class Output(BaseModel):
    """What a command prints: no key is left out, none is added."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Fraction = Annotated[float, Field(ge=0, le=1)]


class GroupSummary(Output):
    """One group of a plan; `stop` says why it keeps no more (see `inspect`)."""

    name: str
    kept_units: int
    units: int
    kept_channels: int
    channels: int
    layers: tuple[str, ...]
    flops_before: int
    flops_after: int
    value_kept: float | None
    next: NextWidthPart | None
    stop: Stop


class RemovedBlock(Output):
    """A residual block that is removed whole: the module that adds it, and its groups."""

    module: str
    groups: tuple[str, ...]


class PlanSummary(Output):
    """A plan without its index lists: what `plan` and `inspect` print."""

    schema_version: Literal[1]
    model: ModelPart
    data: DataPart | None
    importance: ImportancePart
    budgets: tuple[BudgetPart, ...]
    solver: SolverPart
    layers: tuple[LayerPart, ...]
    frozen: tuple[FrozenPart, ...]
    groups: tuple[GroupSummary, ...]
    removed_blocks: tuple[RemovedBlock, ...]

    @classmethod
    def of(cls, plan: Plan) -> PlanSummary:
        """The summary of a plan."""
        groups = tuple(
            GroupSummary(
                name=group.name,
                kept_units=len(group.kept),
                units=group.size,
                kept_channels=row.channels_after,
                channels=row.channels_before,
                layers=group.layers,
                flops_before=row.flops_before,
                flops_after=row.flops_after,
                value_kept=row.value_kept,
                next=group.next,
                stop=row.stop,
            )
            for group, row in zip(plan.groups, group_rows(plan), strict=True)
        )
        names = ("schema_version", "model", "data", "importance", "budgets", "solver", "layers", "frozen")
        blocks = tuple(RemovedBlock(module=part.module, groups=part.groups) for part in plan.blocks)
        return cls(groups=groups, removed_blocks=blocks, **{name: getattr(plan, name) for name in names})


class BudgetDifference(Output):
    """What two plans cost of one resource; null where a plan has no budget of it."""

    resource: str
    a: int | None
    b: int | None
    parent: int


class GroupDifference(Output):
    """A group of which two plans keep different units: how many, and which only one keeps."""

    name: str
    units: int
    a: int
    b: int
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]


class Difference(Output):
    """What `diff` prints."""

    budgets: tuple[BudgetDifference, ...]
    groups: tuple[GroupDifference, ...]


class SweepPoint(Output):
    """One budget of a sweep: its plan, or why there is none."""

    budget: float | int
    limit: int
    refusal: str | None
    plan: PlanSummary | None


class FrontPoints(RootModel[tuple[SweepPoint, ...]]):
    """What `sweep` prints."""

    model_config = ConfigDict(frozen=True)


def front(front: Front) -> FrontPoints:
    """What is printed of a front."""
    return FrontPoints(
        tuple(
            SweepPoint(
                budget=point.budget,
                limit=point.limit,
                refusal=point.refusal or None,
                plan=None if point.plan is None else PlanSummary.of(point.plan),
            )
            for point in front.points
        )
    )


class Claim(Output):
    """One claim of a plan that holds: what it is about, and what was recomputed."""

    claim: str
    result: str


class Verified(Output):
    """What `verify` prints of a plan that holds; `trusted` are the keys that nothing could be compared with."""

    checks: tuple[Claim, ...]
    trusted: tuple[str, ...]


class UnreadableImages(Output):
    """Images that could not be read, and were left out: how many of how many, and the first few by name."""

    count: int
    total: int
    examples: tuple[str, ...]


class Evaluation(Output):
    """What `evaluate` prints of one network."""

    network: str
    data: str
    metric: str
    top1: float
    top5: Fraction | None
    loss: float | None
    images: int
    unreadable: UnreadableImages | None


class EnsembleEvaluation(Output):
    """What `evaluate` prints of an ensemble: of the summed softmax, of each member, and how often two differ."""

    ensemble: str
    data: str
    top1: float
    top5: Fraction | None
    loss: float | None
    images: int
    unreadable: UnreadableImages | None
    members: dict[str, float]
    disagreement: dict[str, dict[str, Fraction]]


TraceStep = tuple[float, int | None, int | None]


class Solved(Output):
    """What `solve` prints; `trace` holds (seconds, value, bound) as they improved."""

    status: Literal["OPTIMAL", "FEASIBLE", "INFEASIBLE", "NO_SOLUTION_FOUND"]
    choice: tuple[int, ...]
    value: int | None
    bound: int | None
    costs: tuple[int, ...]
    solver: str
    version: str
    seconds: float
    trace: tuple[TraceStep, ...]
    notes: tuple[str, ...]
    build_seconds: float
    gap: float | None


class Benched(Output):
    """What `bench` prints."""

    directory: str
    records: tuple[Record, ...]


class Stages(Output):
    """One number for the parent, for the slim network before, and after training."""

    parent: float | None
    before: float | None
    after: float | None


class Pair(Output):
    """What parent and student cost."""

    parent: int
    student: int


class CountedFlops(Pair):
    """FLOPs of parent and student, with their unit in words."""

    unit: str


class PredictedAndJudged(Output):
    """Rises of the loss over the parent's: by the plan, and of the repaired network on held-out images."""

    predicted_loss: float | None
    held_out_loss: float
    held_out_images: int


class Finetuned(Output):
    """What `finetune` prints, and `result.json` says."""

    metric: str
    accuracy: Stages
    top5: Stages
    loss: Stages
    test_images: int
    held_out_images: int
    train_images: int
    unreadable: str | None
    unreadable_test: str | None
    flops: CountedFlops
    parameters: Pair
    epoch: int | None
    stages: tuple[str, ...]
    teachers: int
    resumed_at_step: int
    seconds: float
    training_seconds: float
    images_per_second: float
    device: str
    processes: int
    versions: dict[str, str]
    seed: int
    mask: bool
    repaired: bool
    outcome: PredictedAndJudged | None
    settings: dict[str, Any]


OUTPUTS: dict[str, type[BaseModel] | tuple[type[BaseModel], ...]] = {
    "plan": PlanSummary,
    "inspect": PlanSummary,
    "diff": Difference,
    "sweep": FrontPoints,
    "verify": Verified,
    "evaluate": (Evaluation, EnsembleEvaluation),
    "solve": Solved,
    "bench": Benched,
    "finetune": Finetuned,
}
"""Per command, what it prints; of `evaluate` that of a network or of an ensemble."""


def output_schema(command: str) -> dict[str, Any]:
    """The JSON Schema of what a command prints with `--json`."""
    models = OUTPUTS[command]
    if not isinstance(models, tuple):
        return models.model_json_schema(mode="serialization")
    schemas = [model.model_json_schema(mode="serialization") for model in models]
    return {"title": command.capitalize(), "anyOf": schemas}

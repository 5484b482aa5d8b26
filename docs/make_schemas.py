"""Write the JSON Schemas of plans and of what commands print, from the code: `python docs/make_schemas.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from knapsack_prune.cli.outputs import OUTPUTS, output_schema
from knapsack_prune.planning.plan_file import plan_schema

DOCS = Path(__file__).parent


def schemas() -> dict[Path, dict[str, Any]]:
    """Every published schema, by its file."""
    printed = {DOCS / "schemas" / f"{name}.schema.json": output_schema(name) for name in OUTPUTS}
    return {DOCS / "plan.schema.json": plan_schema(), **printed}


if __name__ == "__main__":
    for path, schema in schemas().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(schema, indent=1) + "\n")

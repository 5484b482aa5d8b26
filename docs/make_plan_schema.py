"""Write `docs/plan.schema.json`, the JSON Schema of plans: `python docs/make_plan_schema.py`."""

from __future__ import annotations

import json
from pathlib import Path

from knapsack_prune.planning.plan_file import plan_schema

Path(__file__).with_name("plan.schema.json").write_text(json.dumps(plan_schema(), indent=1) + "\n")

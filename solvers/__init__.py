"""Grouped knapsacks with bilinear costs: instances in, verified results out."""

from .backends.exchange import export_model as export_model
from .enumeration import enumerate_best as enumerate_best
from .errors import SolverError as SolverError
from .problem.cost_bounds import least_costs as least_costs
from .problem.instance import Factor as Factor
from .problem.instance import Group as Group
from .problem.instance import Instance as Instance
from .problem.instance import PairValues as PairValues
from .problem.instance import Resource as Resource
from .problem.instance import Table as Table
from .problem.instance import Term as Term
from .problem.result import Limits as Limits
from .problem.result import Result as Result
from .problem.result import Status as Status
from .registry import SOLVERS as SOLVERS
from .registry import Solver as Solver
from .registry import solve as solve
from .verification import verify as verify

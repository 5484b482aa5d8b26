"""Grouped knapsacks with bilinear costs: instances in, verified results out."""

from .dispatch import SOLVERS as SOLVERS
from .dispatch import Solver as Solver
from .dispatch import solve as solve
from .errors import SolverError as SolverError
from .feasibility import least_costs as least_costs
from .instance import Factor as Factor
from .instance import Group as Group
from .instance import Instance as Instance
from .instance import Resource as Resource
from .instance import Table as Table
from .instance import Term as Term
from .result import Limits as Limits
from .result import Result as Result
from .result import Status as Status
from .verify import verify as verify

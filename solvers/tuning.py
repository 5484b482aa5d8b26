"""Every constant that steers a solver, and what it bounds.

None of them can make an answer wrong: they decide how long a solver follows one way before it takes another, and how
much memory a step may use. What was measured was measured with all of them together, on the frozen library
(`benchmarks/results/solvers`): 397 of 399 feasible real instances proved in 10 s on one thread, median 0.13 s. A
comment without a figure says what the constant bounds; `benchmarks/solver_tuning.py` measures one at a time.
"""

# --- integers of the relaxation -------------------------------------------------------------------------------------
LARGEST_SUM = (
    2**60
)  # magnitude that all scaled values and prices add up to at most, so that 64 bits never overflow
LARGEST_SCALE = 2**40  # denominator of multipliers
LEAST_SCALE = 4  # a smaller denominator leaves multipliers too coarse: no Lagrangian bound then
NEVER = -(2**61)  # minus infinity: below any sum of finite parts, and two of them still fit 64 bits

# --- factor graph and coarsening ------------------------------------------------------------------------------------
MOST_SUM_VALUES = (
    6000  # distinct values of a partial sum; beyond, they are rounded down and the bound weakens
)
FIRST_SUM_VALUES = 2000  # the same on the first coarse grid, which only has to tell where to look
FIRST_GRID_LEVELS = 8  # levels per group in the first coarse grid; doubled where it rules out too little
LEAST_GRID_LEVELS = 4  # of every group in any grid
MOST_KEPT_JUMPS = 4  # places where a group's pairs become forbidden, so many at most: grids keep both sides
EVEN_SHARE = 0.25  # of a grid's points are spread evenly, against wide gaps where values hardly bend
COARSE_TOLERANCE = 1e-5  # relative, of multipliers on a coarse grid; 1e-9 on the levels themselves

# --- elimination order ----------------------------------------------------------------------------------------------
MOST_ENTRIES = 2**25  # of one message: 256 MB
MOST_WORK = 2**33  # combinations compared in one step
LOOKUP_WORK = 4  # work of a price look-up, in units of comparing one combination
CONJUGATE_WORK = 2**16  # work of building one conjugate, in the same units
MUCH_WORK = 100_000_000  # of a whole order, from which random orders are tried for a better one
RANDOM_ORDERS = 8  # how many
ORDER_NOISE = 0.7  # standard deviation of the logarithm of the factors that make them differ
STRICTER_LIMITS = (
    2**6,
    2**12,
    2**18,
)  # divisors of the limits, tried where messages within them meet in one beyond
MOST_LINEARISED = 100  # products given up by an order that is still worth improving
MOST_AXES = 48  # variables of one message; NumPy allows 64 axes
MANY_PRODUCTS = (
    24  # of a variable, from which it is not looked at as the next step after another: keeps planning quick
)

# --- budgets over two groups ----------------------------------------------------------------------------------------
MANY_BUDGETS = 5  # from which those over two groups become forbidden pairs of levels
MOST_PAIR_ENTRIES = 2**19  # of one such pair: 4 MB

# --- one elimination pass -------------------------------------------------------------------------------------------
MOST_STORED_LOOKUPS = 2**17  # entries (1 MB) from which a message by price look-up is made where it is used
CHUNK = 2**21  # combinations compared at once: 16 MB

# --- multipliers ----------------------------------------------------------------------------------------------------
FIRST_BOX = 0.25  # half-width of the box around the best multipliers, relative to the largest of them
LINE_ROUNDS = 25  # evaluations along equal shares of several budgets before the box

# --- max-marginal reduction -----------------------------------------------------------------------------------------
MOST_KEPT_ROWS = (
    3_000_000  # combinations kept over all buckets: 24 MB for each multiplier and variable of a row
)
MOST_TRIED_ROWS = 150_000_000  # combinations looked at
BLOCK = 2**20  # combinations looked at together: 8 MB an array
WORTHWHILE_REDUCTION = 0.9  # another reduction follows while the levels left shrink below this share

# --- lists of undominated states ------------------------------------------------------------------------------------
MOST_STATES = 400_000  # kept by one join
SEARCH_SHARE = 0.15  # of the time left, for one search (at least 0.2 s)
BEAM = 20_000  # states kept by the search that only looks for a better choice
PRICE_FACTORS = (
    0.8,
    0.93,
    0.98,
    1.02,
    1.07,
    1.2,
)  # further multipliers for cutting states off, relative to the best
SINGLE_PRICE_FACTORS = (0.9, 1.1)  # the same for one of several resources at a time

# --- the exact method -----------------------------------------------------------------------------------------------
FIRST_STEP = 128  # the first threshold lies this fraction of the gap below the bound
FAILED_SEARCHES = 2  # searches given up before branching takes over
WIDE_GAP = (
    1e-3  # relative gap above which, with MANY_LEVELS, searching below the bound is hopeless: branch first
)
MANY_LEVELS = 300
BRANCHING_SHARE = 0.4  # of the time left is for branching
SEARCHED_GAP = 4  # a node is searched, not split, when its gap is this many times smaller than the root's
PROBE_SHARE = 0.4  # of the time left is for a first try of CP-SAT after branching ...
MOST_PROBED_LEVELS = 1200  # ... where at most so many levels are left

# --- heuristics -----------------------------------------------------------------------------------------------------
REPAIR_SHARE = 0.04  # of the time limit, for one repair
MANY_MOVES = 100_000  # single moves of an instance, from which repairs make several at once
NEARLY_BEST = 1.2  # those are at most this many times less worth than the best of them
MOST_GREEDY_STEPS = 20_000  # of one climb; instances with more levels climb several at a time
BISECTIONS = 40  # of the fraction kept by `uniform`
UNIT_COST_BISECTIONS = 14  # of the linear budget of `knapsack`: to 1 / 16,384 of its range

# --- dynamic programming --------------------------------------------------------------------------------------------
MOST_DP_STATES = (
    4_000_000  # pairs kept; within it Pisinger's classes with 10,000 items are proved in at most 0.74 s
)
CORE_GROUPS = 40  # groups in the first, truncated search for a choice that meets the bound
CORE_STATES = 20_000  # pairs kept there
TRIED_EXCHANGES = 50  # of the most promising pairs of moves, for one that does not move the same group twice
DP_PRICE_FACTORS = (0.9, 0.97, 0.99, 1.01, 1.03, 1.1)  # further multipliers, relative to the best

# --- enumeration ----------------------------------------------------------------------------------------------------
MOST_CHOICES = 2_000_000  # enumerated by `brute_force`: 16 MB an array

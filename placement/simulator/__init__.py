"""`lifl simulate`: rounds of a job on nodes that do not exist, planned by the real planner.

    scenario.py   what is simulated, as a file says it
    arrivals.py   when clients have their updates ready
    world.py      nodes, costs, and what one round is asked and answers
    exact.py      one round, event by event, placed by planner.py
    assign.py     the same placement over arrays of clients
    fast.py       the same round over arrays, for a million clients
    rounds.py     one round after the other: autoscaler, warm runtimes, sums of it all

The model that both engines compute is written down in world.py and docs/placement.md.
"""

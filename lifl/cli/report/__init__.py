"""The report of a run: report.html, which needs nothing else, and PNGs where matplotlib is.

    run directory ─ read.py ─► rows ─ charts.py ─► charts ─┬─ svg.py, page.py ─► report.html
                                                           └─ plots.py ────────► *.png

Called by `lifl report`, and by `lifl run` when its job is done.
"""

"""What LIFL's figures are measured with; `python -m benchmarks` is `make bench`.

Each case is a module here that lists its rows (`rows.Line`) and measures them beside a reference
in the same run.  Not part of the package that is installed.
"""

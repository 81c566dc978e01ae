"""What a job is: its types (`job`), its files (`load`), its entry points (`entrypoints`).

Every engine reads jobs through this package: `lifl run` today, a cluster later.  Imports
nothing of LIFL except `lifl.errors`.
"""

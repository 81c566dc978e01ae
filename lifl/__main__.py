"""`python -m lifl` is the command `lifl`."""

from lifl.cli import main

if __name__ == "__main__":
    main()

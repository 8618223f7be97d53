"""`python -m mirror` is the command `skvaller`."""

from mirror.cli import main

if __name__ == "__main__":
    main()

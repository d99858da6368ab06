"""`python -m deebert` is the command `deebert`."""

from deebert.cli.main import main

if __name__ == "__main__":
    main()

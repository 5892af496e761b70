"""`python -m fervid`: the command line, where its script is not on the path."""

from fervid.cli.app import main

if __name__ == "__main__":
    main()

"""``python -m mlxtune``."""

from mlxtune.cli import main

if __name__ == "__main__":
    main(prog_name="mlxtune")

"""``python -m mlxtune``, and the command ``mlxtune``."""

from mlxtune.cli import main
from mlxtune.process import own_process


def run() -> None:
    own_process()
    main(prog_name="mlxtune")


if __name__ == "__main__":
    run()

"""``python -m reals``, and ``torchrun -m reals`` for several processes."""

from reals.cli import main

if __name__ == "__main__":
    main()

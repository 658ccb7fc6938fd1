"""`python -m safedepth`, so that `accelerate launch -m safedepth deepen ...` starts it on many processes."""

from safedepth.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()

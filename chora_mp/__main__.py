"""`python -m chora_mp`: the same as the command `chora-mp`."""

from chora_mp.cli import main

if __name__ == "__main__":
    main()

"""The program, as `chora-mp` and as `python -m chora_mp`."""

import os
import signal


def main() -> None:
    """Run the command and exit. Ctrl-C while it is still being imported ends it without a word about where it was."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from chora_mp.cli import main as run  # noqa: PLC0415

    run()


def _leave(*_: object) -> None:
    os.write(2, b"chora-mp: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()

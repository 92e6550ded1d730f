"""The program, as `chora-mp` and as `python -m chora_mp`."""

import os
import signal


def main() -> None:
    """Run the command and exit. A signal while it is still being imported ends it without a word about where it was."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _leave)
    from chora_mp.cli import main as run  # noqa: PLC0415

    run()


def _leave(*_: object) -> None:
    os.write(2, b"chora-mp: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()

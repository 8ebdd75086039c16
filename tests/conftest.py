"""What every test can rely on."""

import signal

from hypothesis import settings

# how long an example takes is the machine's affair
settings.register_profile("o1", deadline=None)
settings.load_profile("o1")


def pytest_configure():
    """Ctrl-C interrupts, also where a shell started the tests in the background and had it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

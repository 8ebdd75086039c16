"""What every test can rely on."""

import signal


def pytest_configure():
    """Ctrl-C interrupts, also where a shell started the tests in the background and had it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

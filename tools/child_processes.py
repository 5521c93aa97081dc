"""Commands that the set-up runs: quietly, stopped with it, and with one sentence for what fails.

Runs on any Python 3.7+ with its standard library only.
"""

import contextlib
import ctypes
import functools
import os
import re
import signal
import ssl
import subprocess
import sys

NO_NETWORK = (
    "error sending request",
    "dns error",
    "failed to lookup",
    "could not resolve host",
    "name or service not known",
    "temporary failure in name resolution",
    "network is unreachable",
    "connection refused",
    "connecterror",
    "newconnectionerror",
    "tcp connect error",
    "operation timed out",
)


class UserError(Exception):
    """One sentence for the user, printed without a traceback."""


def trust_system_certificates():
    """Let uv trust the certificates that the system trusts (a company's own, say), where it has a store of them."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.listdir(paths.capath)):
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")


def stop_in_order():
    """Let a signal to stop end this process by an exception, as Ctrl-C does; SIGHUP stays ignored under nohup."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def run_with_children(command, **options):
    """As subprocess.run; if this process is told to stop, all that the command has started ends first."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    process = None
    try:
        prepare = functools.partial(_prepare_child, before)
        process = subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, **options)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # from here on a signal finds the process
        output, _ = process.communicate()
    except BaseException:
        for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, None)) if process else ():
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(seconds)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return subprocess.CompletedProcess(command, process.returncode, output)


def _prepare_child(mask):
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if sys.platform == "linux":  # for a parent that is killed
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)


def run(command, doing, **options):
    """Run `command` quietly; on failure raise a UserError that says what was being done (`doing`)."""
    result = run_with_children(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    if result.returncode == 0:
        return result.stdout
    if "certificate" in result.stdout.lower():
        raise UserError(
            f"{doing} failed, as the package index's certificate is not trusted here: "
            "set SSL_CERT_FILE to the file of the certificates to trust"
        )
    if any(sign in result.stdout.lower() for sign in NO_NETWORK):
        raise UserError(f"no network: {doing} needs to download from the package index (or a git server)")
    tail = "\n".join(result.stdout.rstrip().splitlines()[-30:])
    message = f"{doing} failed; the command was: {' '.join(map(str, command))}\n{tail}"
    raise UserError(re.sub(r"//[^/@\s]+@", "//***@", message))  # an index URL may carry a password

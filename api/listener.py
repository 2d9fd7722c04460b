"""Taking a port, with failures to do so told in a sentence."""

import errno
import socket

from api.errors import ConfigurationError


def listen(host: str, port: int, *, host_setting: str, port_setting: str) -> socket.socket:
    """Take a port; 0 takes a free one.

    Raises:
        ConfigurationError: naming the setting to change.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigurationError(f"{host_setting}={host!r} is no address of this machine.") from error
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} is in use by another program: stop it, or set {port_setting} to another port."
        elif error.errno == errno.EACCES:
            message = f"Port {port} is for root only: set {port_setting} to one from 1024 on."
        else:
            message = f"{host_setting}={host!r} is no address of this machine."
        raise ConfigurationError(message) from error
    return listener

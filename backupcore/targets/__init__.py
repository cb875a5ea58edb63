"""Room: targets. The built-in places that keep images: a directory, S3, an SFTP server, any program.

Here lives the hook that brings them, as a third party's package would; each driver is a module.
"""

from __future__ import annotations

from backupcore.hookspecs import hookimpl


@hookimpl
def stowage_targets():
    """The built-in target drivers."""
    from . import command, directory, s3, sftp

    return [command.DRIVER, directory.DRIVER, s3.DRIVER, sftp.DRIVER]

"""Room: targets. The built-in places that keep images: a directory, S3, an SFTP server.

Here lives the hook that brings them, as a third party's package would; each driver is a module.
"""

from __future__ import annotations

from backupcore.hookspecs import hookimpl


@hookimpl
def stowage_targets():
    """The built-in target drivers."""
    from . import directory, s3, sftp

    return [directory.DRIVER, s3.DRIVER, sftp.DRIVER]

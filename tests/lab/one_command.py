"""The configuration of an sshd at which a key may do one thing only, as the role sets clients up.

Here lives its text; the keys, what they may do, and starting it are with those who use it.
"""

# {port} {address}; {folder}: of its own, with key and authorized_keys. HOME: what root's own .bashrc does at a login is
# not ours: killed in the middle it may leave a lock to the next.
CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {folder}/key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
PermitRootLogin forced-commands-only
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
SetEnv HOME={folder}
"""

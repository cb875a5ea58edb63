"""Floor 3: who did what to the backups: an append-only log whose lines are chained by digests.

log    the file: an entry put behind the others for good, its end, its entries
chain  whether all of it is as it was written, and what signed records of runs say of it
who    who asks: users, login, sudo, the address somebody came from

What is noted, and what becomes of an act when that fails, is app/auditing.py.
"""

"""Floor 4: copies and holding images are read again, and what is known of them is kept true.

verdict   what reading one copy came to
head      manifest, signature, sizes, small files, checksums the place keeps: the quick look
tables    index and frame table: fetched, checked, opened when sealed
stream    the parts of an image, read once: digests, frames, the archive
content   the archive against its index: order, places, digests, and nothing hostile
full      all of that for one copy
sample    which pieces of which copies to read next, so that all are read within so many days
marking   what a verdict means for the catalog and the holding disk
verifier  many copies at once, oldest proof first, resumed after a kill
"""

"""What a program uses as it starts, of which nothing was learned: found here, from its files alone.

All of it are guesses: names, and ranges of files. Each is looked up and opened as if the job had asked before anything
is sent (remoteio/submit/export/pushing.py), so that a wrong one costs bytes, and nothing else. And each file is read
here as the job may read it, and no other (remoteio/submit/export/seen.py): an execute host may have run what it likes.

Imported by shim.submit.plain_run, and only where nothing was learned. It trusts no file: what is damaged, endless or
links to itself leads to fewer guesses.
"""

"""What runs at home: from a host's name to a job's end.

hosts         which there are, and how something is started on one
job           jobs that can be checkpointed, wherever they run
foreground    a run in front of a person
desk          runs that share several hosts, and wait their turn
api           the door for programs, on which the commands are written

Right here is what these share: one session with a host, and a job without images that is run over it. Imported by
shim/cli, and by programs through shim/__init__.py; nothing here is shipped. It trusts its user and the user's disk. A
host is trusted with nothing: what it says in frames is checked in host_frames.py, what it says as data by shapes.py.
"""

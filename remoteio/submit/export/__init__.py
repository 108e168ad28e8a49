"""Does what a job asks of its files on this machine's disk, with the rights of the user who started it.

``dispatch.Export`` is the way in, imported by whoever has a session with a host (shim/submit). It trusts no host: a
request may hold anything that bytes can be, in any order, and what a job may see and change is asked here (`confine`)
and by this machine's kernel.
"""

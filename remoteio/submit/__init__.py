"""What runs at home for the job's files: who takes requests from a link, what answers them, how a host is reached.

Imported by what runs a job at home (shim/submit and shim/cli); nothing here is shipped. It trusts this machine's kernel
and no host: what a link brings is checked in remoteio/wire, and what it asks for in `export`.
"""

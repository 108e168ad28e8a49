"""Streams of bytes to a host: through the program ssh, through paramiko where there is none, or to a process here.

stream.py says what a stream is, and tells its failures in a sentence each; ssh.py opens one. Imported by shim/submit
and shim/cli; of remoteio/submit it imports where programs lie, and no more. ssh, its configuration and its known hosts
are the user's, and trusted: they say who a host is. What then comes through a stream is not looked at here; who reads
it checks it.
"""

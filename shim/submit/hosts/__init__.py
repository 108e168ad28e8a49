"""Hosts: which there are, what they say of themselves, which is fit, and how something is started on one.

config     hosts.toml
connect    a stream to a host, and an entry point of rexec's started there, which bootstrap sends along
survey     hosts asked for their facts, which facts checks as they come in
checks     what such a report means for a user;  ranking  what it means for a job that looks for a host
pool_trial what an engine's pool and its nodes have;     pool_checks  what that means for a user

Imported by everything at home that runs jobs, and by the commands; it knows nothing of jobs itself. hosts.toml is the
user's and trusted; what a host says is not: it is read within limits of size and time, against a declared shape.
"""

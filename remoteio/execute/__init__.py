"""What runs on an execute host for the job's files: the mount, and the relay between the job's kernel and the link.

Shipped; used by the agent there (shim/execute), and imported by nothing at home. It trusts the host's kernel and the
submit machine, whose user has started it.
"""

"""The job's files: from the kernel's request on an execute host to the submit machine's disk.

Right here lies what both ends need: errors, system calls, threads. `wire` is what goes between them, `execute` runs on
the host, `submit` at home. It knows nothing of checkpoints, of jobs or of the command line; shim, which runs jobs,
imports it. Each end trusts the kernel that it runs on; what it trusts of the other end, its folder says.
"""

"""Runs in front of a person: this process's own streams, terminal, signals and end stand for the job's.

Imported by the commands only, as what is here changes the whole process's state; but for description and environment,
which only look. It imports shim/submit, its hosts and jobs. It trusts the person, and shows of a host's words only what
shim/submit/host_frames.py has let through.
"""

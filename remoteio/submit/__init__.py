"""What runs at home for the job's files: who takes requests from a link, what answers them, how a host is reached.

Used by what runs a job at home (shim/submit); nothing here is shipped.
"""

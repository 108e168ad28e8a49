"""What home keeps: the images of each job, and a criu for hosts that lack one. Imported by shim/submit and shim/cli.

store.py has the theory: which files there may be at any moment. It trusts the disk for nothing but fsync(2) and
rename(2), and hosts for nothing at all: what they send is taken in by receiver.py, chunk by chunk, and compared.
"""

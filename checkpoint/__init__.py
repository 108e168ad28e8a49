"""The job's memory: dumped by CRIU on a host, kept in a store at home, restored on another host.

wire      what an image is and how it travels: for both ends
execute   on a host: criu, and the image's files to and from the link. Shipped there
submit    at home: the store, and the criu that is sent to hosts that lack one

It knows nothing of jobs' files (remoteio) or of jobs (shim): shim imports both and brings them together. Whatever it
is to do to a job's processes is handed in as a function. What each end trusts, its folder says. Its
errors are one family (checkpoint/errors.py).
"""

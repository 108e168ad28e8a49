"""Jobs that can be checkpointed, at home: one supervised from start to end, wherever it runs.

supervisor          one job; many may be in one process, each in a thread of its caller's
placement           what is to be done next, decided without doing it: placement_events, _host, _user, _steps go with it
home                what stays here while the job goes about: replayed_streams, its images, its files' story
visits, generation  the hosts it goes to; what runs there
image_*             an image as it comes in: taken, its head checked, its manifest made; file_rollback is for going back
record, recorder    what of a job is on the disk, with events, its log
control_*           the socket by which others ask the supervisor, and attached_client, who looks on
submission          a job put on record; detached and detached_main: its supervisor as a process of its own

Imported by shim/submit/foreground, by the commands and by whatever else supervises jobs; imports shim/submit and
shim/submit/hosts. Nothing here prints, or changes what is the whole process's (signals, umask, limits), but for
detached_main, which is a process. What a host says is checked in shim/submit/host_frames.py and image_head.py before
anything here trusts it; files on the disk were written by this user.
"""

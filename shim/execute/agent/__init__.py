"""The agent: the one process on the host that holds the link. Shipped.

agent.py serves either kind of job; checkpoint_agent.py adds what a job needs of which images are made. Imported by
shim.execute.main alone; imports init and owner, which know nothing of it. It outlives neither its link nor its job.
"""

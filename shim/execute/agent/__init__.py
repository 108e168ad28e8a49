"""The agent: the one process on the host that holds the link. Shipped.

agent.py serves either kind of job; checkpoint_agent.py adds what a job needs of which images are made. Imported by
shim.execute.main alone; imports init and owner, which know nothing of it. It trusts home, whose
orders it does, and the init that it has started; not the job. It outlives neither its link nor its job.
"""

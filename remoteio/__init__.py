"""The job's files: from the kernel's request to the submit machine's disk."""

"""The job's memory: from dump to store to restart."""

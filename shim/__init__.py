"""The job's life: where it runs, its streams, its end."""

"""The run folder: what is written while a run goes on, read when it is resumed, and mirrored elsewhere."""

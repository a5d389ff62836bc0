"""The run folder: written while a run trains, read when it is resumed, and mirrored elsewhere."""

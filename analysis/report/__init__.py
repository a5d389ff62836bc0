"""From run folders to a report: `python -m analysis.report SWEEP_DIR`."""

"""The parts of the report: tables and figures as people read them, from the tables of a Study."""

from analysis.report.sections.checkpoints import frozen, parts, readable_estimators, readable_parts, readable_policies
from analysis.report.sections.display import Gallery, shown
from analysis.report.sections.figures import after_updates, estimators, forests, gradient, health, high, underwater
from analysis.report.sections.methods import method, primary_endpoint, smoothing
from analysis.report.sections.origin import commands, differences_of_config, provenance, readable_ledger, title, warnings
from analysis.report.sections.results import outcome_counts, pairing, readable, readable_pairs, readable_sensitivity, worst

__all__ = [
    "Gallery",
    "after_updates",
    "commands",
    "differences_of_config",
    "estimators",
    "forests",
    "frozen",
    "gradient",
    "health",
    "high",
    "method",
    "outcome_counts",
    "pairing",
    "parts",
    "primary_endpoint",
    "provenance",
    "readable",
    "readable_estimators",
    "readable_ledger",
    "readable_pairs",
    "readable_parts",
    "readable_policies",
    "readable_sensitivity",
    "shown",
    "smoothing",
    "title",
    "underwater",
    "warnings",
    "worst",
]

"""Every table of a report, each computed when it is first asked for. What cannot be computed is an empty table, and the
reason is among the problems: a report of bad data is a report that says so.

A class a subject, each made of the tables of those before it:

    Runs → Curves → Scores → Times → Pairs → Stability → Frozen → Study
"""

from analysis.report.study.question import Question, question_json
from analysis.report.study.stability import HEALTH
from analysis.report.study.study import Study

__all__ = ["HEALTH", "Question", "Study", "question_json"]

"""Reading results: tables, figures and the HTML report.

Everything here works from the files of an evaluation (`results.json`, `records-*.jsonl`, `measure.json`): no model, no
torch, no network.

Non-goals: running or grading anything (see `evaluation/`), and statistics (see `evaluation/statistics.py`).
"""

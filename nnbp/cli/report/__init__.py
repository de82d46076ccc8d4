"""report.html of a run: its diagnostics, figures and page."""

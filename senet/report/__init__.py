"""The report: one self-contained HTML file about a run, an experiment or an analysis of gates."""

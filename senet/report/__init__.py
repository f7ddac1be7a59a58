"""Floor 6, the report: one self-contained HTML file about a run, a comparison, a reproduction or an analysis."""

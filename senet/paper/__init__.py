"""The paper's tables and figures as experiments, with the figures that it prints; no torch."""

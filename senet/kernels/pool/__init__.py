"""Max and mean pooling over windows."""

"""Everyone's weights into our networks and back: one file per naming convention, nothing loaded by half."""

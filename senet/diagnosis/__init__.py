"""Find faults of attention units in any network: `senet.doctor`."""

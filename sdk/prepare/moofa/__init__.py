"""Memory-optimised once-for-all networks (MOOFA, arXiv 2409.05900): one supernet, a subnet for each device."""

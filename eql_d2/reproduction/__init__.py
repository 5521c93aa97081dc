"""The tables of the papers as runs: reading them, planning and starting runs, collecting what they give."""

"""The ledger: what a finished run was and what it reached, written once and read by tables and reports."""

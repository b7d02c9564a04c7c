"""What docs/performance.md says below a table: where the time goes, what is missed and why."""

NOTES: dict[str, str] = {}

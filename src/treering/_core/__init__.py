"""The log itself. Private: programs import `treering`, never this package."""

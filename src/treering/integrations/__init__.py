"""Third-party libraries, one module each; nothing of them is imported before it is needed."""
